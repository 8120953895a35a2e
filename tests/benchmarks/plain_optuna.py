"""Trials as one writes them with plain Optuna and MLflow's fluent API, for comparison with sweeper's cost."""

from pathlib import Path

import mlflow
import optuna

from sweeper.engines.replay import synthetic
from sweeper.space import Space


def open_plain(folder: Path) -> optuna.Study:
    """A study and an MLflow experiment in SQLite files below `folder`, each with its defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment("plain")
    return optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",
        study_name="plain",
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.PercentilePruner(99.9),
    )


def plain_trials(study: optuna.Study, space: Space, marks: tuple[int, ...], count: int) -> None:
    """Play `count` trials to their end: a run each, ten reports with the metrics that sweeper logs."""
    for _ in range(count):
        trial = study.ask()
        settings = space.suggest(trial)
        curve = synthetic(settings, trial.number, marks[-1], "maximize")
        with mlflow.start_run(run_name=f"trial {trial.number}"):
            mlflow.log_params(trial.params)
            value = 0.0
            for mark in marks:
                value = curve.at(mark / marks[-1])
                trained = {"train_loss": 3.0 - value, "learning_rate": settings.learning_rate}
                scores = {"validation_rougeL": value, "validation_loss": 3.0 - value}
                own = {"objective": value, "objective_error": curve.error}
                mlflow.log_metrics(trained | scores | own, step=mark)
                trial.report(value, mark)
                trial.should_prune()
            mlflow.log_metric("best_objective", value)
            mlflow.set_tag("state", "finished")
        study.tell(trial, value)
