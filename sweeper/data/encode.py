"""Rows as token ids: the prompt, the answer, and where the loss is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sweeper.config import TaskConfig
from sweeper.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Architecture = Literal["causal", "seq2seq", "classifier"]

IGNORED = -100
"""Label of a token without loss."""

_CHARACTERS_PER_TOKEN = 64
"""Text beyond this many times the token limit is never looked at: a row may have a million characters."""

ROLES = ("system", "user", "assistant", "tool")

RIGHT_FORM = (
    '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}] '
    f"(roles: {', '.join(ROLES)}; at least one assistant turn)"
)


@dataclass(frozen=True)
class Text:
    """A row before it is tokenised; for a chat, `input` is the JSON of its messages."""

    input: str
    target: str


@dataclass(frozen=True)
class Encoded:
    """A tokenised row.

    causal: `input_ids` are prompt and answer, `labels` the same with IGNORED where there is no loss.
    seq2seq: `input_ids` go into the encoder, `labels` are what the decoder is to write.
    classifier: `labels` are all IGNORED.
    """

    prompt: str
    answer: str
    input_ids: list[int]
    labels: list[int]
    prompt_ids: list[int]
    """What generation starts from."""
    input_cut: bool
    answer_cut: bool
    answer_tokens: int
    """Before the answer was cut (chat: the whole conversation)."""


class Unusable(Exception):
    """This row can't be trained on; the message is the reason under which it is counted."""


def check_messages(value: Any) -> list[dict[str, str]] | None:
    """The messages of a conversation, role and content alone; None if they are malformed."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list) or not all(isinstance(message, Mapping) for message in value):
        return None
    messages = [{"role": message.get("role"), "content": message.get("content")} for message in value]
    for message in messages:
        content = message["content"]
        if message["role"] not in ROLES or not isinstance(content, str) or not content.strip():
            return None
    return messages if any(message["role"] == "assistant" for message in messages) else None


class Encoder:
    """Turns texts into token ids for one task, model architecture and tokenizer."""

    def __init__(
        self, task: TaskConfig, tokenizer: "PreTrainedTokenizerBase", architecture: Architecture
    ) -> None:
        """Raises DataError if the task needs a chat template that the tokenizer doesn't have."""
        self._task = task
        self._tokenizer = tokenizer
        self._architecture = architecture
        self._uses_template = task.kind == "chat" or task.chat_template
        if self._uses_template and not tokenizer.chat_template:
            option = "task.kind=chat" if task.kind == "chat" else "task.chat_template=true"
            raise DataError(
                f"{option} needs a chat template and the model's tokenizer has none; "
                "take an instruction-tuned model, or task.kind=generate with task.chat_template=false"
            )
        added = tokenizer.added_tokens_decoder
        self._special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}

    def encode(self, row: Text) -> Encoded:
        """Raises Unusable for a conversation in which nothing is left to learn."""
        return self._chat(row) if self._task.kind == "chat" else self._single(row)

    def visible(self, row: Text) -> Text:
        """The row with as much of its input as the length limit lets pass; a conversation as it is."""
        if self._task.kind == "chat":
            return row
        return Text(self._cut(row.input, self._task.max_input_tokens)[0], row.target)

    def _single(self, row: Text) -> Encoded:
        text, input_cut = self._cut(row.input, self._task.max_input_tokens)
        prompt = self._task.prompt.replace("{input}", text)
        if self._uses_template:
            prompt = self._render([{"role": "user", "content": prompt}], answering=True)
        prompt_ids = self._ids(prompt, special=not self._uses_template)
        if self._architecture == "classifier":
            return Encoded(
                prompt, row.target, prompt_ids, [IGNORED] * len(prompt_ids), prompt_ids, input_cut, False, 1
            )
        answer, end = row.target, self._tokenizer.eos_token_id
        if self._architecture == "causal":
            if len(prompt_ids) > 1 and prompt_ids[-1] == end and not self._uses_template:
                prompt_ids = prompt_ids[:-1]  # some tokenizers end every text; this one goes on
            if not self._uses_template and not prompt[-1:].isspace():
                answer = f" {answer}"
        whole = self._ids(answer[: (self._task.max_answer_tokens + 1) * _CHARACTERS_PER_TOKEN], special=False)
        answer_ids = whole[: self._task.max_answer_tokens]
        answer_cut = len(whole) > len(answer_ids)
        if not answer_cut and end is not None:
            answer_ids = [*answer_ids, end]
        if self._architecture == "seq2seq":
            input_ids, labels = prompt_ids, answer_ids
        else:
            input_ids, labels = prompt_ids + answer_ids, [IGNORED] * len(prompt_ids) + answer_ids
        return Encoded(prompt, row.target, input_ids, labels, prompt_ids, input_cut, answer_cut, len(whole))

    def _chat(self, row: Text) -> Encoded:
        """The loss is on what the assistant says, its end-of-turn token included.

        Each assistant turn is tokenised apart from what is before and after it, just as it will be when
        the model has to write it.
        """
        messages = json.loads(row.input)
        whole = self._render(messages, answering=False)
        limit = self._task.max_input_tokens + self._task.max_answer_tokens
        ids: list[int] = []
        labels: list[int] = []
        turns: list[tuple[int, int, str]] = []  # where its tokens and characters start, what it says
        done = 0
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:number], answering=True)
            said = message["content"].strip()
            at = whole.find(said, len(before))
            if not whole.startswith(before) or at < 0:
                raise Unusable("the chat template rewrites earlier turns")
            between = self._ids(whole[done : len(before)], special=False)
            closing, between = self._split_closing(between) if turns else ([], between)
            ids += closing + between
            labels += closing + [IGNORED] * len(between)
            turns.append((len(ids), len(before), said))
            done = at + len(said)
            spoken = self._ids(whole[len(before) : done], special=False)
            ids += spoken
            labels += spoken
        closing, _ = self._split_closing(self._ids(whole[done:], special=False))
        ids += closing
        labels += closing
        kept = [turn for turn in turns if turn[0] < limit]
        if not kept:
            raise Unusable("no assistant turn within the length limit")
        start, character, said = kept[-1]
        cut = len(ids) > limit
        return Encoded(
            whole[:character],
            said,
            ids[:limit],
            labels[:limit],
            ids[:start],
            cut,
            len(kept) < len(turns),
            len(ids),
        )

    def _split_closing(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """What ends a turn (white space, then one special token), and the rest."""
        for number, token in enumerate(ids):
            if token in self._special:
                return ids[: number + 1], ids[number + 1 :]
            if self._tokenizer.decode([token]).strip():
                break
        return [], ids

    def _render(self, messages: Sequence[Mapping[str, str]], answering: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=answering
            )
        except Exception as error:  # a template is a program of somebody else's, in a sandbox
            raise Unusable(f"the chat template refuses it ({error})") from error
        return str(text)

    def _ids(self, text: str, special: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def _cut(self, text: str, limit: int) -> tuple[str, bool]:
        """`text` cut to `limit` tokens, and whether anything was cut."""
        looked_at = text[: limit * _CHARACTERS_PER_TOKEN]
        fast = self._tokenizer.is_fast
        found = self._tokenizer(
            looked_at, add_special_tokens=False, return_offsets_mapping=fast, verbose=False
        )
        if len(found["input_ids"]) <= limit:
            return looked_at, len(looked_at) < len(text)
        if fast:
            return looked_at[: found["offset_mapping"][limit - 1][1]], True
        return self._tokenizer.decode(found["input_ids"][:limit]).rstrip("\ufffd"), True
