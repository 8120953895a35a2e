"""Chat templates: programs of somebody else's, run in transformers' sandbox."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_USER, _SAID = "\ue0f1", "\ue0f2"
"""Texts that no template has."""


class TemplateRefusal(Exception):
    """The template refuses these messages; the message is its reason."""


def render(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    answering: bool = False,
    tools: Sequence[Any] | None = None,
    **options: Any,
) -> str:
    """The messages as text, `answering`: up to where the assistant begins. Raises TemplateRefusal."""
    try:
        text = tokenizer.apply_chat_template(
            list(messages), tools=tools, tokenize=False, add_generation_prompt=answering, **options
        )
    except Exception as error:  # whatever a program may raise
        raise TemplateRefusal(str(error) or type(error).__name__) from error
    return str(text)


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Tokens that stand for no text: those that end turns and texts, begin them, and the like."""
    added = tokenizer.added_tokens_decoder
    return {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}


def turn_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token by which the chat template ends a turn of the assistant, None where it has none for that."""
    if not tokenizer.chat_template:
        return None
    messages = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _SAID}]
    try:
        _, found, after = render(tokenizer, messages).rpartition(_SAID)
    except TemplateRefusal:
        return None
    ids = tokenizer(after, add_special_tokens=False, verbose=False)["input_ids"] if found else []
    return end_of(tokenizer, ids, special_ids(tokenizer))


def end_of(tokenizer: "PreTrainedTokenizerBase", ids: Iterable[int], special: set[int]) -> int | None:
    """The special token that `ids` begin with, white space before it left aside."""
    for token in ids:
        if token in special:
            return token
        if tokenizer.decode([token]).strip():
            break
    return None
