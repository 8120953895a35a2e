"""What leaves a sweep: an adapter, a whole model, a registered MLflow model, a repository on the hub."""

import importlib.metadata
import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from sweeper import verdict
from sweeper.compose import read_config
from sweeper.config import Config
from sweeper.config.types import expanded
from sweeper.credentials import masked, opened, without_secrets
from sweeper.errors import CardError, ExportError, first_line
from sweeper.events import TrialRecord
from sweeper.failpoints import reach
from sweeper.layout import Layout, write_atomically
from sweeper.messages import BASE, TrialState
from sweeper.models.pretrained import ResolvedModel, architecture, load_tokenizer, resolve
from sweeper.relocation import located
from sweeper.report import card_text, read_facts
from sweeper.storage import lock
from sweeper.storage.postgres import with_driver
from sweeper.stored import stored, tracking_of
from sweeper.study.objectives import violations, why_no_best

CHAMPION = "champion"
"""The alias of the registered version that was exported last."""

_PIPELINES = {"causal": "text-generation", "classifier": "text-classification"}
"""Those of transformers that MLflow serves a model by; for encoder-decoders there is none any more."""

_SERVED_WITH = ("torch", "transformers", "accelerate", "mlflow")


@dataclass(frozen=True)
class Choice:
    """The trial that is exported."""

    layout: Layout
    config: Config
    record: TrialRecord
    adapter: Path
    """In PEFT's format; for full fine-tuning a model folder without a tokenizer."""
    revision: str
    """Of the base model that it was trained on."""
    is_best: bool
    is_running: bool
    """The sweep, so that a better trial may come."""

    @property
    def is_adapter(self) -> bool:
        return self.record.settings.method == "lora"


def choose(layout: Layout, number: int | None = None) -> Choice:
    """The best trial, or the one of this `number`.

    Raises StudyError if there is no such sweep or trial, ExportError if it has nothing to export.
    """
    tree, study = stored(layout)
    best = study.best()
    finished = [r.number for r in study.records() if r.state is TrialState.FINISHED and r.number != BASE]
    if number is not None and study.state(number) is not TrialState.FINISHED:
        known = ", ".join(map(str, finished)) or "none yet"
        state = study.state(number).value
        raise ExportError(f"trial {number} is {state}, and only a finished one is exported: {known}")
    record = best if number is None else study.record(number)
    if record is None:
        raise ExportError(f"sweep `{layout.name}`: {why_no_best(study.records(), study.goals)}")
    if missed := violations(record, study.goals):
        raise ExportError(
            f"trial {record.number} violates a constraint ({'; '.join(missed)}); export another one"
        )
    if record.adapter is None:
        raise ExportError(f"trial {record.number} was replayed, which trains nothing: it has no adapter")
    if not record.adapter.is_dir():
        raise ExportError(f"the adapter of trial {record.number} is gone: there is no {record.adapter}")
    revision = study.fingerprint["pins"]["revision"]
    return Choice(
        layout,
        located(read_config(tree)[0], layout, revision),
        record,
        record.adapter,
        revision,
        best is not None and record.number == best.number,
        lock.is_held(layout),
    )


def write_export(choice: Choice, merge: bool = False, target: Path | None = None) -> Path:
    """Write the adapter in PEFT's format, or with `merge` the whole model in transformers'; gives the folder.

    `target` must be new or empty; without one it is a folder of the sweep, which is written anew. Full
    fine-tuning gives a whole model in any case. Raises ExportError or ModelError.
    """
    if target is None:
        whole = merge or not choice.is_adapter
        target = choice.layout.exports / ("model" if whole else "adapter")
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ExportError(f"{target} is not empty; give a new folder, e.g. --to {target}_2")
    target = target if target.name else target.resolve()  # `.` has no name
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    if choice.is_adapter and merge:
        _write_merged(choice, fresh)
    else:
        shutil.copytree(choice.adapter, fresh)
        if choice.is_adapter:
            _name_the_base(choice, fresh / "adapter_config.json")
        else:
            load_tokenizer(_base(choice)).save_pretrained(fresh)
    if text := _card(choice, "peft" if choice.is_adapter and not merge else "transformers"):
        write_atomically(fresh / choice.layout.card.name, text)
    reach("export.written")
    shutil.rmtree(target, ignore_errors=True)
    reach("export.removed")
    os.replace(fresh, target)
    reach("export.placed")
    return target


def _card(choice: Choice, library: str) -> str:
    """The model card of the best trial; empty for another one, and where something on it is not known."""
    if not choice.is_best or choice.is_running:
        return ""
    try:
        text = card_text(read_facts(choice.layout, verdict.read(choice.layout)))
    except CardError:
        return ""
    return re.sub(r"(?m)^library_name:.*$", f"library_name: {library}", text, count=1)


def _name_the_base(choice: Choice, path: Path) -> None:
    """Have the adapter name its base model so that it is found from any working directory."""
    model = choice.config.model
    folder = expanded(model.folder or model.name)
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree["base_model_name_or_path"] = str(folder.resolve()) if folder.exists() else model.name
    tree["revision"] = model.revision if not folder.exists() else None
    write_atomically(path, json.dumps(tree, indent=2, sort_keys=True) + "\n")


def _write_merged(choice: Choice, folder: Path) -> None:
    """Add the adapter to the base model's weights: in float32, kept in the type it was trained over."""
    import torch

    from sweeper.data.prepare import open_rows
    from sweeper.models.modeling import BaseModel, merged

    config = choice.config
    exact = replace(config.model, device="cpu", dtype="float32", gradient_checkpointing=False)
    labels = open_rows(choice.layout.rows).labels if config.task.kind == "classify" else ()
    base = BaseModel.load(exact, _base(choice), config.task, labels)
    model = merged(base, choice.adapter).to(getattr(torch, config.model.dtype))
    model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)


def _base(choice: Choice) -> ResolvedModel:
    """The base model; raises ExportError if it is not the one that the trial was trained on."""
    base = resolve(choice.config.model)
    if base.revision != choice.revision:
        raise ExportError(
            f"the base model {base.name} has changed since: {choice.revision} then, {base.revision} now; put "
            "the old one back"
        )
    return base


def register(choice: Choice, model: Path | None = None) -> tuple[str, str]:
    """Register the whole model with MLflow as the sweep's champion; gives its name and version.

    `model` is its folder if it has been written already. MLflow loads it by its flavors `transformers` and
    `pyfunc`, without this package. Raises ExportError if MLflow can't serve such a model, or doesn't take it.
    """
    kind = architecture(_base(choice), choice.config.task)
    if kind not in _PIPELINES:
        raise ExportError(
            "MLflow serves transformers' pipelines, and there is none for encoder-decoders any more; "
            "export with --merge and load it by AutoModelForSeq2SeqLM"
        )
    if model is None:
        temporary = choice.layout.exports.with_name(".export")
        shutil.rmtree(temporary, ignore_errors=True)  # a kill may have left it
        try:
            return register(choice, write_export(choice, True, temporary / "model"))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    configured = tracking_of(choice.config.tracking).uri or choice.layout.tracking_url
    uri = with_driver(opened(configured, "tracking.uri"))
    name = choice.layout.name.replace("/", "-")
    try:
        return name, _register(choice, model, uri, name, _PIPELINES[kind])
    except Exception as error:  # whatever MLflow, its database or the network raise
        why = without_secrets(first_line(error))
        raise ExportError(f"MLflow at {masked(uri)} did not take the model: {why}") from None


def _register(choice: Choice, model: Path, uri: str, name: str, pipeline: str) -> str:
    from sweeper.tracking.store import open_experiment, quiet_mlflow

    quiet_mlflow()
    client, experiment = open_experiment(
        uri, choice.config.tracking.experiment or name, choice.layout.artifacts
    )
    import mlflow
    import mlflow.transformers
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    load = {
        "text-generation": AutoModelForCausalLM,
        "text-classification": AutoModelForSequenceClassification,
    }[pipeline]
    parts = {"model": load.from_pretrained(model), "tokenizer": AutoTokenizer.from_pretrained(model)}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    mlflow.set_experiment(experiment_id=experiment)
    record, task = choice.record, choice.config.task
    logged = mlflow.transformers.log_model(
        parts,
        name="model",
        task=pipeline,
        registered_model_name=name,
        pip_requirements=[f"{one}=={importlib.metadata.version(one)}" for one in _SERVED_WITH],
        metadata={
            "sweeper.trial": f"{choice.layout.name}/{record.number}",
            "sweeper.prompt": task.prompt,
            f"sweeper.{task.objective.metric}": record.objective,
        },
    )
    reach("export.logged")
    version = str(logged.registered_model_version)
    client.set_registered_model_alias(name, CHAMPION, version)
    reach("export.registered")
    return version


def hub_token() -> str:
    """The token for the hub; raises ExportError if the environment has none."""
    token = os.environ.get("HF_TOKEN", "")
    if not token:
        raise ExportError(
            "the hub wants a token to push: make one with write access at "
            "https://huggingface.co/settings/tokens and set HF_TOKEN to it"
        )
    return token


def push(choice: Choice, folder: Path, repository: str) -> str:
    """Upload an exported folder to the hub, to a private repository if it is a new one; gives its URL.

    Raises ExportError without a token in HF_TOKEN, and for whatever the hub refuses.
    """
    token = hub_token()
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        url = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"Trial {choice.record.number} of the sweep {choice.layout.name}",
        )
    except Exception as error:  # whatever the hub or the network raise
        why = first_line(error).replace(token, "***")
        raise ExportError(
            f"{repository} could not be pushed: {why}. The export is in {folder}; check the name (org/name), "
            "the token's rights and the network"
        ) from None
    return str(url)
