#!/bin/bash
# Several nodes of a Slurm cluster; one worker for every GPU of the allocation:
#   sbatch docker/slurm.sh +experiment=summarize budget.trials=64
# The working directory and .venv in it lie on a file system that all nodes share.
#SBATCH --job-name=sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -euo pipefail
umask 077
cd "$SLURM_SUBMIT_DIR"
source .venv/bin/activate

# Whoever reaches a node's ports needs this token; srun hands it on in the environment, not in arguments.
RAY_AUTH_TOKEN="$(python -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0 RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address="${nodes[0]}:$((20000 + SLURM_JOB_ID % 20000))"
pid="sweep-$SLURM_JOB_ID.pid"

# Three minutes before the end Slurm warns this shell, on the first node, where the sweep is led: it alone is told, for
# Ray would end at once. It saves its trials and leaves with code 130.
trap '[ ! -f "$pid" ] || kill -TERM "$(cat "$pid")"' USR1

srun --nodes="$SLURM_JOB_NUM_NODES" --wait=60 \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-gpus="$SLURM_GPUS_ON_NODE" -- \
    sh -c 'echo $$ >"$0"; exec python -m sweeper "$@"' "$pid" \
    "$@" executor=ray "executor.address=$address" executor.grace_seconds=150 &
code=0
wait $! || code=$?
while kill -0 $! 2>/dev/null; do # a signal ends `wait` before what it waits for
    code=0
    wait $! || code=$?
done
rm -f "$pid"
if [ "$code" = 130 ]; then
    scontrol requeue "$SLURM_JOB_ID" # the same command goes on
fi
exit "$code"
