"""Rows as token ids: the prompt, the answer, and where the loss is."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sweeper.config import TaskConfig
from sweeper.config.prompt import Prompt
from sweeper.data import tokens
from sweeper.data.conversation import Conversation, Message, calls_of, tool_names
from sweeper.data.texts import Text, columns_text
from sweeper.data.tokens import Guarded, Tokens
from sweeper.errors import DataError
from sweeper.models.templates import TemplateRefusal, render, turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["IGNORED", "Architecture", "Encoded", "Encoder", "Text", "Unusable"]

Architecture = Literal["causal", "seq2seq", "classifier"]

IGNORED = -100
"""Label of a token without loss."""

_CHARACTERS_PER_TOKEN = 64
"""Text beyond this many times the token limit is never looked at: a row may have a million characters."""

_MARK = "\ue0f5\ue0f6"
"""Stands for what somebody says while it is looked up where a template puts it."""

_REFUSED = "the chat template refuses it"
_LOOKED_FOR = 60
"""So many characters of what somebody says must be found where a template has put it."""


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
    unlearnt: int = 0
    """Turns of the assistant without loss, as the template doesn't have them as they were said."""
    literals: tuple[str, ...] = ()
    """Special tokens that the row writes as text, and that are text."""


class Unusable(Exception):
    """This row can't be trained on; the message is the reason under which it is counted."""


class Encoder:
    """Turns texts into token ids for one task, model architecture and tokenizer."""

    def __init__(
        self, task: TaskConfig, tokenizer: "PreTrainedTokenizerBase", architecture: Architecture
    ) -> None:
        """Raises DataError if the task needs a chat template that the tokenizer doesn't have."""
        self._task = task
        self._tokenizer = tokenizer
        self._tokens = Tokens(tokenizer)
        self._architecture = architecture
        self._prompt = Prompt.parse(task.prompt if task.kind != "chat" else "")
        self._uses_template = task.kind == "chat" or task.chat_template
        if self._uses_template and not tokenizer.chat_template:
            option = "task.kind=chat" if task.kind == "chat" else "task.chat_template=true"
            ways = ["task.kind=generate"] if task.kind == "chat" else []
            ways += ["task.chat_template=false"] if task.chat_template else []
            raise DataError(
                f"{option} needs a chat template and the model's tokenizer has none; "
                f"take an instruction-tuned model, or {' '.join(ways)}"
            )
        self._thinks = "enable_thinking" in str(tokenizer.chat_template)
        ends = {tokenizer.eos_token_id, turn_end(tokenizer) if self._uses_template else None} - {None}
        self._ends = [str(tokenizer.convert_ids_to_tokens(end)) for end in ends]

    def encode(self, row: Text) -> Encoded:
        """Raises Unusable for a row in which nothing is left to learn, or which the tokenizer can't take."""
        try:
            return self._chat(row) if self._task.kind == "chat" else self._single(row)
        except tokens.Literal as error:
            raise Unusable(str(error)) from error

    def visible(self, row: Text) -> Text:
        """The row with as much of its input as the length limit lets pass; a conversation as it is."""
        if self._task.kind == "chat":
            return row
        values, _ = self._values(row, Guarded(self._tokens, {}))
        return Text(
            columns_text(values) if self._prompt.has_many else next(iter(values.values())), row.target
        )

    def refused_at(self, row: Text) -> str:
        """What a chat template refuses of a row, e.g. `message 1 (system): Be brief.`; "" if unknown."""
        if self._task.kind != "chat":
            return ""
        conversation = self._folded(Conversation.parse(row.input))
        for count, message in enumerate(conversation.messages, start=1):
            try:
                render(self._tokenizer, conversation.messages[:count], tools=conversation.tools)
            except TemplateRefusal:
                return f"message {count} ({message['role']}): {message['content']}"
        return ""

    def _single(self, row: Text) -> Encoded:
        labels_alone = self._architecture == "classifier"
        guarded = self._tokens.guard(row.input, "" if labels_alone else row.target)
        values, input_cut = self._values(row, guarded)
        prompt = self._prompt.render({name: guarded.hide(text) for name, text in values.items()})
        if labels_alone:
            if self._uses_template:
                prompt = self._render([_user(prompt)], answering=True)
            ids = guarded.ids(prompt, special=not self._uses_template)
            shown = guarded.show(prompt)
            return Encoded(
                shown, row.target, ids, [IGNORED] * len(ids), ids, input_cut, False, 1, 0, guarded.literals
            )
        answer = guarded.hide(row.target[: (self._task.max_answer_tokens + 1) * _CHARACTERS_PER_TOKEN])
        if self._uses_template:
            prompt, answer, closing = self._turn(prompt, answer, guarded)
            prompt_ids = guarded.ids(prompt)
        else:
            prompt_ids = guarded.ids(prompt, special=True)
            closing = [] if self._tokenizer.eos_token_id is None else [self._tokenizer.eos_token_id]
            if self._architecture == "causal":
                if len(prompt_ids) > 1 and prompt_ids[-1:] == closing:
                    prompt_ids = prompt_ids[:-1]  # some tokenizers end every text; this one goes on
                if not prompt[-1:].isspace() and not answer[:1].isspace():
                    answer = f" {answer}"
        whole = guarded.ids(answer)
        answer_ids = whole[: self._task.max_answer_tokens]
        answer_cut = len(whole) > len(answer_ids)
        if not answer_cut:
            answer_ids = [*answer_ids, *closing]
        if self._architecture == "seq2seq":
            input_ids, labels = prompt_ids, answer_ids
        else:
            input_ids, labels = prompt_ids + answer_ids, [IGNORED] * len(prompt_ids) + answer_ids
        return Encoded(
            guarded.show(prompt),
            row.target,
            input_ids,
            labels,
            prompt_ids,
            input_cut,
            answer_cut,
            len(whole),
            0,
            guarded.literals,
        )

    def _values(self, row: Text, guarded: Guarded) -> tuple[dict[str, str], bool]:
        """The text of every name in the prompt, cut so that all have the limit together, and whether one was.

        Of several the longest are cut first.
        """
        names, limit = self._prompt.names, self._task.max_input_tokens
        texts = json.loads(row.input) if self._prompt.has_many else {names[0]: row.input}
        looked_at = limit * _CHARACTERS_PER_TOKEN
        cut = {name: guarded.cut(texts[name], limit, looked_at) for name in names}
        left = limit
        shortest_first = sorted(cut.items(), key=lambda found: found[1][1])
        for number, (name, (_, count, _)) in enumerate(shortest_first):
            share = left // (len(names) - number)
            if count > share and len(names) > 1:
                cut[name] = guarded.cut(texts[name], share, looked_at)
            left -= min(count, share)
        return {name: text for name, (text, _, _) in cut.items()}, any(was for _, _, was in cut.values())

    def _turn(self, prompt: str, answer: str, guarded: Guarded) -> tuple[str, str, list[int]]:
        """Prompt and answer as turns of the template: up to where the assistant begins, what it writes, and
        the tokens that end it.

        The answer is as the row has it where the template does nothing to it but take blanks off.
        """
        asked, given = _user(prompt), {"role": "assistant", "content": answer}
        whole = self._render([asked, given])
        marked = self._render([asked, given | {"content": _MARK}])
        opening = self._opening([asked], whole, marked)
        if opening is None or guarded.is_garbled(whole):
            raise Unusable("the chat template rewrites the answer")
        begins, _, ends = marked.partition(_MARK)
        if whole in {f"{begins}{said}{ends}" for said in (answer, *_trimmed(answer))} and begins.startswith(
            opening
        ):
            spoken = begins[len(opening) :] + answer
        else:  # reasoning in an answer is often set apart by the template
            end = self._end_of(answer, whole, len(opening), "")
            if end is None:
                raise Unusable("the chat template drops a part of the answer")
            spoken, ends = whole[len(opening) : end], whole[end:]
        closing, _ = self._split_closing(guarded.ids(ends))
        if not closing and self._tokenizer.eos_token_id is not None:
            closing = [self._tokenizer.eos_token_id]
        return opening, spoken, closing

    def _chat(self, row: Text) -> Encoded:
        """The loss is on what the assistant says, its end-of-turn token included.

        Each assistant turn is tokenised apart from what is before and after it, just as it will be when
        the model has to write it. One that the template doesn't have as it was said is context alone.
        """
        conversation = self._folded(Conversation.parse(row.input))
        said = [[one for name, one in m.items() if name != "role"] for m in conversation.messages]
        guarded = self._tokens.guard(said, conversation.tools)
        plain: list[Message] = [guarded.hide(m) | {"role": m["role"]} for m in conversation.messages]
        tools = guarded.hide(conversation.tools)
        messages, whole = self._rendered(plain, tools)
        if guarded.is_garbled(whole):
            raise Unusable("the chat template rewrites a special token in a text")
        self._check_all_said(messages, tools, whole)
        limit = self._task.max_input_tokens + self._task.max_answer_tokens
        ids: list[int] = []
        labels: list[int] = []
        turns: list[tuple[int, int, str]] = []  # where its tokens and characters start, what it says
        done = unlearnt = 0
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            place = self._place(messages, number, whole, tools)
            if place is None or place[0] < done:
                unlearnt += 1
                continue
            start, end = place
            between = guarded.ids(whole[done:start])
            closing, between = self._split_closing(between) if turns else ([], between)
            ids += closing + between
            labels += closing + [IGNORED] * len(between)
            answer = whole[start:end] if message.get("tool_calls") else message["content"]
            turns.append((len(ids), start, guarded.show(answer).strip()))
            done = end
            spoken = guarded.ids(whole[start:done])
            ids += spoken
            labels += spoken
        if not turns:
            raise Unusable("the chat template rewrites what the assistant says, or what was said before")
        closing, _ = self._split_closing(guarded.ids(whole[done:]))
        ids += closing
        labels += closing
        kept = [turn for turn in turns if turn[0] < limit]
        if not kept:
            raise Unusable("no assistant turn within the length limit")
        begin, character, answer = kept[-1]
        return Encoded(
            guarded.show(whole[:character]),
            answer,
            ids[:limit],
            labels[:limit],
            ids[:begin],
            len(ids) > limit,
            len(kept) < len(turns),
            len(ids),
            unlearnt,
            guarded.literals,
        )

    def _folded(self, conversation: Conversation) -> Conversation:
        """What the system says at the beginning of the user's next turn, if the task wants it so."""
        if self._task.system_turn == "keep":
            return conversation
        messages: list[Message] = []
        waiting: list[str] = []
        for message in conversation.messages:
            if message["role"] in ("system", "developer"):
                waiting.append(message["content"])
                continue
            if message["role"] == "user" and waiting:
                message = message | {"content": "\n\n".join([*waiting, message["content"]])}
                waiting = []
            messages.append(message)
        return Conversation(conversation.messages if waiting else messages, conversation.tools)

    def _rendered(self, messages: Sequence[Message], tools: Any) -> tuple[Sequence[Message], str]:
        """The messages, tool calls' arguments in the form that this template takes, and the whole as text.

        Templates write arguments as JSON if they are given as an object, or if they are given as text.
        """
        refusal: Unusable | None = None
        for as_objects in (True, False):
            tried = [_with_arguments(message, as_objects) for message in messages]
            try:
                whole = self._render(tried, tools=tools)
            except Unusable as error:
                refusal = refusal or error
                continue
            arguments = [given for message in tried for _, given in calls_of(message) if given]
            if not any((str(a) if as_objects else json.dumps(a)) in whole for a in arguments):
                return tried, whole
            refusal = refusal or Unusable("the chat template writes the arguments of tool calls not as JSON")
        raise refusal or Unusable(_REFUSED)

    def _check_all_said(self, messages: Sequence[Message], tools: Any, whole: str) -> None:
        """Raise Unusable where the template leaves out something of a conversation without refusing it."""
        for message in messages:
            said = message["content"].strip().partition("\n")[0][:_LOOKED_FOR]
            if message["role"] != "assistant" and not _is_in(said, whole):
                raise Unusable(f"the chat template leaves out what the {message['role']} says")
            if any(not _is_in(name, whole) for name, _ in calls_of(message)):
                raise Unusable("the chat template leaves out tool calls")
        if any(not _is_in(name, whole) for name in tool_names(tools)):
            raise Unusable("the chat template has no place for tools (data.tools=null leaves them out)")

    def _place(
        self, messages: Sequence[Message], number: int, whole: str, tools: Any
    ) -> tuple[int, int] | None:
        """Where in `whole` a turn of the assistant starts and ends, its closing left aside.

        None where it isn't as it was said.
        """
        before, message = messages[:number], messages[number]
        bare = {"role": "assistant", "content": _MARK}
        opening = self._opening(before, whole, None, bare, tools)
        if opening is None:
            return None
        start, reasoning = len(opening), _reasoning(message)
        if not message.get("tool_calls"):
            end = self._end_of(message["content"], whole, start, reasoning, [*before, bare], tools)
            return None if end is None else (start, end)
        region = self._called(messages, number, start, whole, tools)
        if region is None or (reasoning and reasoning.strip() not in region):
            return None
        return start, start + len(region)

    def _opening(
        self,
        before: Sequence[Message],
        whole: str,
        marked: str | None = None,
        bare: Message | None = None,
        tools: Any = None,
    ) -> str | None:
        """The text up to where the assistant begins to write: the longest way to ask it that `whole` has.

        A template may open a block of thoughts that a row doesn't have, or can be told not to.
        """
        asked = [self._render(before, answering=True, tools=tools)]
        if self._thinks:
            asked.append(self._render(before, answering=True, tools=tools, enable_thinking=False))
        fitting = [text for text in asked if whole.startswith(text)]
        if not fitting:
            marked = self._render([*before, bare], tools=tools) if marked is None and bare else marked
            begins = (marked or "").partition(_MARK)[0]
            opened = begins != "" and any(text.startswith(begins) for text in asked)
            fitting = [begins] if opened and whole.startswith(begins) else []
        return max(fitting, key=len, default=None)

    def _end_of(
        self,
        content: str,
        whole: str,
        start: int,
        reasoning: str,
        marked: Sequence[Message] = (),
        tools: Any = None,
    ) -> int | None:
        """Where `content` ends in `whole`, of whose turn `start` is the beginning; None where it isn't there.

        Thoughts in it may have been set apart by the template, but must be there.
        """
        thoughts, _, said = content.rpartition("</think>")
        said, thoughts = said.strip(), thoughts.replace("<think>", "").strip() or reasoning.strip()
        turn = whole[start:].lstrip()
        begin = len(whole) - len(turn)
        if not turn.startswith(content.strip()):
            if thoughts:
                begin = whole.find(thoughts, start)
                if begin < 0:
                    return None
                begin += len(thoughts)
            elif marked:
                # What the template puts first may hold what is looked for.
                first = self._render(marked, tools=tools).partition(_MARK)[0]
                begin = max(start, len(first)) if whole.startswith(first) else start
            found = whole.find(said, begin)
            return None if found < 0 else _with_blanks(content, whole, found + len(said))
        if reasoning and reasoning.strip() not in whole[start:begin]:
            return None
        return _with_blanks(content, whole, begin + len(content.strip()))

    def _called(
        self, messages: Sequence[Message], number: int, start: int, whole: str, tools: Any
    ) -> str | None:
        """What the template writes for a turn with tool calls, without what ends it; None where that can't be
        told."""
        after = self._render(messages[: number + 1], tools=tools)
        if not whole.startswith(after):
            if number + 1 == len(messages):
                return None
            following = {"role": messages[number + 1]["role"], "content": _MARK}
            after = self._render([*messages[: number + 1], following], tools=tools).partition(_MARK)[0]
            if not whole.startswith(after):
                return None
        region = after[start:]
        ends = [place for place in (region.find(end) for end in self._ends) if place >= 0]
        return region[: min(ends)] if ends else region.rstrip()

    def _split_closing(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """What ends a turn (white space, then one special token), and the rest."""
        for number, token in enumerate(ids):
            if token in self._tokens.special:
                return ids[: number + 1], ids[number + 1 :]
            if self._tokenizer.decode([token]).strip():
                break
        return [], ids

    def _render(self, messages: Sequence[Mapping[str, Any]], answering: bool = False, **options: Any) -> str:
        try:
            return render(self._tokenizer, messages, answering, **options)
        except TemplateRefusal as error:
            raise Unusable(f"{_REFUSED} ({error})") from error


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _with_blanks(content: str, whole: str, end: int) -> int:
    """Where `content` ends in `whole` with the blanks that it ends with, if the template has them."""
    blanks = content[len(content.rstrip()) :]
    return end + len(blanks) if whole.startswith(blanks, end) else end


def _trimmed(text: str) -> Iterator[str]:
    """What templates make of a text that take blanks off."""
    yield from (text.strip(), text.lstrip(), text.rstrip(), text.strip("\n"), text.lstrip("\n"))


def _is_in(said: str, whole: str) -> bool:
    """Whether a rendered text has `said`, as it is or as JSON has it."""
    return any(
        text in whole for text in (said, json.dumps(said, ensure_ascii=False)[1:-1], json.dumps(said)[1:-1])
    )


def _reasoning(message: Message) -> str:
    return str(message.get("reasoning_content") or message.get("thinking") or "")


def _with_arguments(message: Message, as_objects: bool) -> Message:
    """The message with the arguments of its calls as objects, or as JSON; what is no JSON stays."""
    if "tool_calls" not in message:
        return message

    def changed(arguments: Any) -> Any:
        if not as_objects:
            return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        try:
            read = json.loads(arguments) if isinstance(arguments, str) else arguments
        except ValueError:
            return arguments
        return read if isinstance(read, dict) else arguments

    calls = []
    for call in message["tool_calls"]:
        inner = call.get("function") or call
        inner = inner | ({"arguments": changed(inner["arguments"])} if "arguments" in inner else {})
        calls.append(call | {"function": inner} if call.get("function") else inner)
    return message | {"tool_calls": calls}
