"""A base model in memory: loaded once, adapters put on it and taken off again."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.config import LoraSettings, ModelConfig, TaskConfig, TrialSettings
from sweeper.errors import ModelError, first_line
from sweeper.models.heads import Head, Lacking, find_head, refuse_lacking
from sweeper.models.pretrained import (
    Architecture,
    ResolvedModel,
    architecture,
    auto_class,
    choose_device,
    choose_dtype,
    config_of,
    load_tokenizer,
    quiet,
)
from sweeper.models.targets import targets, untie
from sweeper.models.templates import turn_end

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sweeper.models.adapters import Wrapping


class BaseModel:
    """A base model, loaded once, that trials are put on and taken off again.

    `model` itself is frozen and in evaluation mode outside of `put_on`; `head` is a classifier's.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        kind: Architecture,
        head: Head = Head(),  # noqa: B008 - it is frozen
        name: str = "",
        revision: str = "",
        ends: Sequence[int] = (),
    ) -> None:
        """`ends`: tokens that end what is generated, beside the model's own."""
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.kind = kind
        self.head = head
        self.name = name
        self.revision = revision
        self._untouched: dict[str, torch.Tensor] = {}
        self._wrappings: dict[str, Wrapping] = {}
        """The last adapter's layers, by what they were put on."""
        model.config.pad_token_id = tokenizer.pad_token_id
        if kind != "classifier":
            model.generation_config = _greedy(model.generation_config, tokenizer, ends)
            model.get_output_embeddings().register_forward_pre_hook(_contiguous)
        body = f"{model.base_model_prefix}."
        for path in head.modules:
            module = model.get_submodule(path)
            module.float().register_forward_pre_hook(_inputs_as_weights)
            if path.startswith(body):
                module.register_forward_hook(_outputs_as(model.get_input_embeddings()))
        head.draw(model, 0)

    @property
    def device(self) -> "torch.device":
        return self.model.device  # type: ignore[no-any-return]

    @classmethod
    def load(
        cls, config: ModelConfig, resolved: ResolvedModel, task: TaskConfig, labels: Sequence[str] = ()
    ) -> "BaseModel":
        """Load weights and tokenizer; `labels` are the classes, for task.kind=classify."""
        kind = architecture(resolved, task)
        device = choose_device(config)
        tokenizer = load_tokenizer(resolved)
        model, head = _load(
            resolved,
            kind,
            labels,
            dtype=choose_dtype(config, device),
            attn_implementation=_attention(device, task),
        )
        if config.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        asks_in_turns = task.kind == "chat" or task.chat_template
        ends = [end for end in [turn_end(tokenizer) if asks_in_turns else None] if end is not None]
        return cls(model.to(device), tokenizer, kind, head, resolved.name, resolved.revision, ends)

    @contextmanager
    def put_on(self, settings: TrialSettings, seed: int) -> Iterator[Any]:
        """The model, trainable as `settings` say; afterwards the base is bit for bit what it was.

        lora: a PeftModel with fresh fp32 adapters whose values follow from `seed` alone.
        full: the model itself with fp32 weights.
        """
        from transformers import set_seed

        set_seed(seed)
        self.head.draw(self.model, seed)
        put_on = self._every_weight() if settings.method == "full" else self._adapter(settings.lora)
        try:
            with _without_notes(self.model, self.model.config), put_on as model, _without_notes(model):
                yield model
        finally:
            self.head.draw(self.model, 0)
            self.model.eval()

    @contextmanager
    def _adapter(self, lora: LoraSettings) -> Iterator[Any]:
        from peft import LoraConfig, get_peft_model

        from sweeper.models.adapters import Wrapping, lean, strip

        task = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classifier": "SEQ_CLS"}[self.kind]
        config = LoraConfig(
            task_type=task,
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            use_rslora=lora.variant == "rslora",
            use_dora=lora.variant == "dora",
            target_modules=targets(self.model, lora),
            modules_to_save=list(self.head.modules) or None,
            # GPT-2 stores its linear layers transposed.
            fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in self.model.modules()),
        )
        heads = {name: self.model.get_submodule(name) for name in self.head.modules}
        # DoRA derives weights from the base's when it is put on; of a head PEFT trains a copy.
        reusable = not config.use_dora and not heads
        wrapping = self._wrappings.pop(lora.target_modules, None) if reusable else None
        try:
            if wrapping is not None:
                wrapping.put_on(config)
            else:
                with peft_warns():
                    wrapping = Wrapping(get_peft_model(self.model, lean(config)))
            # A path of this machine would be of no use to whoever loads the adapter.
            wrapping.model.peft_config["default"].base_model_name_or_path = self.name or None
            yield wrapping.model
        finally:
            if wrapping is None:
                strip(self.model)
            elif reusable and wrapping.is_reusable:
                wrapping.take_off()
                self._wrappings = {lora.target_modules: wrapping}
            else:
                self.model = wrapping.model.unload()
            self.model.requires_grad_(False)
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


def starting_head(resolved: ResolvedModel, task: TaskConfig, labels: Sequence[str] = ()) -> Head:
    """The head that `BaseModel.load` would give a model for `labels`; reads no weights.

    Raises ModelError where the model's files don't fit its configuration.
    """
    return _load(resolved, architecture(resolved, task), labels, device_map="meta")[1]


def _load(
    resolved: ResolvedModel, kind: Architecture, labels: Sequence[str], **how: Any
) -> "tuple[PreTrainedModel, Head]":
    """The model with whatever values in what its files lack, and its head if it is a classifier."""
    quiet()
    classes = {"num_labels": len(labels)} if kind == "classifier" else {}
    try:
        with _only_errors():  # what does not fit is told here, and not by a table
            model, found = auto_class(kind).from_pretrained(
                resolved.path,
                config=config_of(resolved, **classes),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **how,
            )
    except Exception as error:  # each model's class reads somebody else's files in its own way
        if "memory" in str(error):
            raise  # the worker has words for it
        raise ModelError(
            f"{resolved.name} can't be loaded as a {kind} model: {first_line(error)}; get the model "
            "anew, or take another one"
        ) from error
    lacking = Lacking(
        frozenset(found["missing_keys"]), frozenset(name for name, *_ in found["mismatched_keys"])
    )
    refuse_lacking(resolved.name, model, lacking, kind == "classifier")
    if kind != "classifier":
        return model, Head()
    shipped = config_of(resolved).id2label
    head = find_head(model, lacking, [shipped[number] for number in sorted(shipped)], labels)
    names = dict(enumerate(head.arranged(labels)))
    model.config.id2label, model.config.label2id = names, {name: number for number, name in names.items()}
    return model, head


@contextmanager
def _without_notes(*objects: Any) -> Iterator[None]:
    """Take away what Trainer and accelerate note on a model and in its configuration."""
    before = [dict(vars(one)) for one in objects]
    try:
        yield
    finally:
        for one, found in zip(objects, before, strict=True):
            vars(one).clear()
            vars(one).update(found)


@contextmanager
def _only_errors() -> Iterator[None]:
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def merged(base: BaseModel, adapter: Path) -> Any:
    """The base model with the adapter in the folder `adapter` added to its weights; `base` is used up."""
    from peft import PeftConfig, PeftModel

    untie(base.model, sorted(PeftConfig.from_pretrained(str(adapter)).target_modules or ()))
    with peft_warns():
        return PeftModel.from_pretrained(base.model, adapter).merge_and_unload(safe_merge=True)


@contextmanager
def peft_warns() -> Iterator[None]:
    """Without PEFT's warnings that nobody can act on.

    It asks the model by a name that transformers deprecates, and names experts that it adapts in another way.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        # Merged weights are untied; trained ones stay as they are shipped.
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        # GPT-2's output layer is the only one that is not transposed.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        yield


def save(model: Any, folder: Path) -> None:
    """Write a model that was put on: an adapter in PEFT's format, or the whole model."""
    from peft import PeftModel

    # PEFT's own choice about embeddings would ask the hub at every checkpoint; a LoRA never resizes them.
    choices = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
    model.save_pretrained(folder, **choices)


def restore(model: Any, folder: Path) -> None:
    """Put the weights of a whole model that was saved in `folder` on one of its kind, in place.

    They are read as any model is: of some, such as those with experts, files name and cut weights in another
    way than the model does.
    """
    import torch

    with _only_errors():
        saved = type(model).from_pretrained(
            folder, config=model.config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    read = dict(saved.named_parameters())
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.copy_(read[name])


def _greedy(shipped: Any, tokenizer: "PreTrainedTokenizerBase", ends: Sequence[int]) -> Any:
    """The token ids of the generation settings that a model ships and `ends`, without its way of sampling."""
    from transformers import GenerationConfig

    eos = tokenizer.eos_token_id if shipped.eos_token_id is None else shipped.eos_token_id
    if further := [end for end in ends if end not in (eos if isinstance(eos, list) else [eos])]:
        eos = [*(eos if isinstance(eos, list) else [eos] if eos is not None else []), *further]
    return GenerationConfig(
        eos_token_id=eos,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=shipped.bos_token_id,
        decoder_start_token_id=shipped.decoder_start_token_id,
    )


def _inputs_as_weights(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A classifier's head is fp32 whatever the base is."""
    if not args or not args[0].is_floating_point():  # token ids stay what they are
        return args
    return (args[0].to(next(module.parameters()).dtype), *args[1:])


def _outputs_as(embeddings: Any) -> Callable[[Any, Any, Any], Any]:
    """For a part of the head that lies within the pretrained model, whose type goes on behind it."""

    def cast(module: Any, args: Any, output: Any) -> Any:
        return output.to(embeddings.weight.dtype)

    return cast


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
