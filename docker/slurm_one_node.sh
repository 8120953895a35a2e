#!/bin/bash
# One node of a Slurm cluster with all its GPUs; no Ray needed:
#   sbatch docker/slurm_one_node.sh +experiment=summarize budget.trials=64
#SBATCH --job-name=sweep
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=4
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@180
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
source .venv/bin/activate

# Three minutes before the end Slurm sends SIGUSR1 to the sweep: it saves its trials and leaves with code 130.
code=0
srun python -m sweeper "$@" executor.grace_seconds=150 || code=$?
if [ "$code" = 130 ]; then
    scontrol requeue "$SLURM_JOB_ID" # the same command goes on
fi
exit "$code"
