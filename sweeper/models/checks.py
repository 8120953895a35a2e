"""What is known of a base model before it is loaded: that it can do the task, and what it lacks for it.

Read are its configuration, its tokenizer and the headers of its weights.
"""

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.errors import ModelError, first_line
from sweeper.models.pretrained import Architecture, ResolvedModel, config_of, read_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_QUANTISERS = {
    "aqlm": "aqlm",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed_tensors",
    "eetq": "eetq",
    "gptq": "gptqmodel",
    "higgs": "flute",
    "hqq": "hqq",
    "quanto": "optimum.quanto",
    "quark": "quark",
    "spqr": "spqr_quant",
    "torchao": "torchao",
    "vptq": "vptq",
}
"""Packages that read quantised weights, by `quant_method` of config.json."""

_ATTENTION = {
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    "flash_attention_4": "flash_attn",
}
"""Packages, by the attention that config.json may name."""


def check_files(resolved: ResolvedModel) -> list[str]:
    """What the configuration asks for is installed, and the weights are whole, as far as their headers tell.

    Gives what is worth a word. Raises ModelError.
    """
    config = read_json(resolved.path / "config.json")
    quantised = config.get("quantization_config")
    if isinstance(quantised, dict):
        _refuse_without_package(resolved, str(quantised.get("quant_method", "bitsandbytes")))
    weight_shapes(resolved)
    wanted = _attention(config)
    if wanted in _ATTENTION and not _is_installed(_ATTENTION[wanted]):
        return [f"{resolved.name} asks for {wanted}, which is not installed: another attention is taken"]
    return []


def weight_shapes(resolved: ResolvedModel) -> dict[str, tuple[int, ...]]:
    """The shape of every weight, by its name. Raises ModelError for a file that is missing or damaged."""
    from safetensors import safe_open

    shapes = {}
    for path in sorted(resolved.path.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        except Exception as error:
            raise ModelError(_damaged(path, error)) from error
    index = resolved.path / "model.safetensors.index.json"
    if index.exists():
        named = set(read_json(index).get("weight_map", {}).values())
        if missing := sorted(name for name in named if not (resolved.path / name).is_file()):
            raise ModelError(f"{resolved.path} lacks {', '.join(missing)}; get the model anew")
    return shapes


def check_task(resolved: ResolvedModel, kind: Architecture) -> None:
    """Raise ModelError if the model has no form that does the task, or an encoder is to write."""
    import transformers

    config = config_of(resolved)
    forms = {
        "causal": transformers.MODEL_FOR_CAUSAL_LM_MAPPING,
        "seq2seq": transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        "classifier": transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    }
    model = f"{resolved.name} is a model of type {config.model_type}"
    if type(config) not in forms[kind]:
        if kind == "classifier":
            raise ModelError(
                f"{model}, of which transformers has no form that classifies; take another model, or let it "
                "write the label: task.kind=generate"
            )
        raise ModelError(f"{model}, which can't write text; {_WRITERS}")
    is_encoder = kind == "causal" and type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    if is_encoder and not getattr(config, "is_decoder", False):
        raise ModelError(
            f"{model}, an encoder: each of its tokens sees those after it, so it can't write text; "
            f"{_WRITERS}. One that was trained as a decoder says so in its config.json: is_decoder"
        )


_WRITERS = "take a model that writes (Llama, Qwen, GPT-2, T5, ...), or task.kind=classify"


def check_tokenizer(
    resolved: ResolvedModel, kind: Architecture, tokenizer: "PreTrainedTokenizerBase"
) -> list[str]:
    """The tokenizer has a vocabulary and what the model needs of it. Gives what is worth a word.

    Raises ModelError.
    """
    files = set(tokenizer.vocab_files_names.values())
    if files and not any((resolved.path / name).is_file() for name in files):
        raise ModelError(
            f"{resolved.path} has no vocabulary ({', '.join(sorted(files))}), only a tokenizer's "
            "settings; copy the tokenizer's files of the model that it was trained from"
        )
    config = config_of(resolved)
    embeddings = _embeddings(config)
    used = {
        name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos", "bos", "cls", "sep", "unk")
    }
    for name, number in used.items():
        if embeddings is not None and number is not None and number >= embeddings:
            raise ModelError(_too_large(resolved, tokenizer, embeddings, [number], f"its {name} token is"))
    if kind == "classifier" and config.is_encoder_decoder and used["pad"] == used["eos"]:
        raise ModelError(
            f"{resolved.name} reads the class of a text from its end token, which is also what its tokenizer "
            "pads with; give the tokenizer a padding token of its own"
        )
    if kind != "classifier" and used["eos"] is None:
        return [
            f"{resolved.name} has no end token: no answer is trained to end, and each one runs to "
            "task.generation.max_new_tokens"
        ]
    return []


def check_rows(
    resolved: ResolvedModel,
    kind: Architecture,
    tokenizer: "PreTrainedTokenizerBase",
    rows: Iterable["Dataset"],
) -> None:
    """Raise ModelError if prepared rows hold what the model can't take.

    It can't take tokens beyond its embeddings, also where they are written out in a text: nowhere else do
    they matter, and some models are published with such a token. Nor several end tokens, or none, where the
    class is read from the end token.
    """
    config = config_of(resolved)
    embeddings = _embeddings(config)
    strange = {word: i for word, i in tokenizer.get_vocab().items() if i >= (embeddings or i + 1)}
    beyond: set[int] = set()
    for part in rows:
        if strange:
            beyond |= _occurring(strange, part)
        if kind == "classifier" and config.is_encoder_decoder:
            _check_ends(resolved, tokenizer, part)
    if embeddings is not None and beyond:
        raise ModelError(_too_large(resolved, tokenizer, embeddings, sorted(beyond), "in the rows are"))


def _occurring(words: Mapping[str, int], rows: "Dataset") -> set[int]:
    """Which of the tokens `words` are in the rows, as a token or written out."""
    import pyarrow.compute as pc

    table = rows.with_format("arrow")[:]
    ids: set[int] = set()
    for name in ("input_ids", "labels", "prompt_ids"):
        ids |= set(pc.unique(pc.list_flatten(table[name])).to_pylist())
    return {
        number
        for word, number in words.items()
        if number in ids
        or any(pc.any(pc.match_substring(table[name], word)).as_py() for name in ("prompt", "answer"))
    }


def _check_ends(resolved: ResolvedModel, tokenizer: Any, rows: "Dataset") -> None:
    for row in rows.select_columns(["id", "input_ids", "prompt"]):
        ends = row["input_ids"].count(tokenizer.eos_token_id)
        if ends != 1:
            raise ModelError(
                f"{resolved.name} reads the class of a text from its one end token ({tokenizer.eos_token}), "
                f"and row {row['id']} has {ends or 'none'}: {row['prompt'][:60]!r}. "
                + (
                    "Take the end token out of the texts"
                    if ends
                    else "Its tokenizer has to end every text with it; take the one that belongs to the model"
                )
            )


def _embeddings(config: Any) -> int | None:
    """How many tokens a model has embeddings for."""
    return getattr(config.get_text_config(), "vocab_size", None)


def _too_large(
    resolved: ResolvedModel, tokenizer: Any, embeddings: int, beyond: list[int], where: str
) -> str:
    shown = ", ".join(f"{tokenizer.convert_ids_to_tokens(number)!r} ({number})" for number in beyond[:5])
    return (
        f"the tokenizer of {resolved.name} is larger than the model: it has {len(tokenizer)} tokens, the "
        f"model embeddings for {embeddings}, and {where} {shown}{', ...' if len(beyond) > 5 else ''}. Take "
        "the tokenizer that belongs to the model, or save the model again after resize_token_embeddings"
    )


def _refuse_without_package(resolved: ResolvedModel, method: str) -> None:
    package = _QUANTISERS.get(method)
    if package is not None and not _is_installed(package):
        raise ModelError(
            f"the weights of {resolved.name} are quantised ({method}), and {package}, which reads them, is "
            f"not installed; take the model that they were made from, or install {package}"
        )


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:  # of the package that it is in
        return False


def _attention(config: Any) -> str | None:
    named = config.get("_attn_implementation") or config.get("attn_implementation")
    return named if isinstance(named, str) else None


def _damaged(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        is_pointer = file.read(40).startswith(b"version https://git-lfs")
    if is_pointer:
        return f"{path} is a pointer of Git LFS and no weights; fetch them: git lfs pull"
    return f"{path} is damaged ({first_line(error)}); get the model anew"
