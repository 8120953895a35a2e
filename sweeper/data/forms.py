"""The forms in which people keep rows: recognised by their columns, turned into the one that is trained on.

| form | columns |
|---|---|
| OpenAI's | `messages`: a list of {role, content}; content may be a list of text parts |
| ShareGPT's | `conversations`: a list of {from, value} |
| prompt and completion | two texts, or two lists of messages |
| Alpaca's | `instruction`, `output`, and an `input` that may be empty |
| a text and a label | `text`, `label` |
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweeper.config import Config, DataConfig
from sweeper.config.prompt import INPUT, Prompt
from sweeper.data.readers import Row
from sweeper.errors import DataError

JOINED = "+"
"""Between the columns of data.messages whose messages follow each other, as in `prompt+completion`."""

_ROLES = {
    "human": "user",
    "user": "user",
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", "bot", "ai"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response", "function_result", "function"), "tool"),
}
"""Who speaks in ShareGPT's form, by the roles of chat templates."""

_CALLS = ("function_call", "tool_call")
"""What ShareGPT's form calls a turn in which the assistant calls a function."""

_CHATS = ("messages", "conversations", "conversation", "dialog", "chat")
_ANSWERS = ("output", "response", "completion", "answer", "target")
_PAIRS = (
    ("input", "target"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("input", "output"),
)
_MEDIA = ("image", "images", "audio", "audios", "video", "videos", "pixel_values")


@dataclass(frozen=True)
class Recognised:
    """A form that rows are in."""

    name: str
    columns: tuple[str, ...]
    """Those that it is recognised by."""
    kinds: tuple[str, ...]
    """Values of task.kind that it fits; none: it can't be learnt from."""
    options: Mapping[str, str]
    """What follows for options of `data`."""
    prompt: str = ""
    """What follows for task.prompt; "": {input}."""
    advice: str = ""
    """What to do where it does not fit."""

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(f'`{column}`' for column in self.columns)})"


_FITTING = {
    "chat": "+experiment=instruct data.path={path}",
    "generate": "+experiment=generate data.path={path}",
    "classify": "+experiment=classify data=file data.path={path}",
}


def recognise(rows: Sequence[Row]) -> Recognised | None:
    """The form of these rows, told by the columns of the first ones; None for columns of other names."""
    cells: dict[str, Any] = {}
    for row in rows:
        cells |= {name: value for name, value in row.items() if value is not None or name not in cells}
    for name in _CHATS:
        if (form := _chat_form(cells.get(name))) is not None:
            return Recognised(form, (name,), ("chat",), {"messages": name})
    if {"chosen", "rejected"} <= cells.keys():
        one = (
            f"{_FITTING['chat']} data.messages=chosen"
            if _chat_form(cells["chosen"])
            else f"{_FITTING['generate']} data.input=prompt data.target=chosen"
        )
        why = f"preferences are not learnt from; the better answers alone are taken by {one}"
        return Recognised("pairs of a better and a worse answer", ("chosen", "rejected"), (), {}, advice=why)
    if _chat_form(cells.get("prompt")) and _chat_form(cells.get("completion")):
        both = ("prompt", "completion")
        return Recognised(
            "prompt and completion, as messages", both, ("chat",), {"messages": JOINED.join(both)}
        )
    answer = next((name for name in _ANSWERS if isinstance(cells.get(name), str)), None)
    if isinstance(cells.get("instruction"), str) and answer:
        more = next((name for name in ("input", "context") if name in cells), None)
        prompt = "{instruction}" + ("" if more is None else f"{{#{more}}}\n\n{{{more}}}{{/{more}}}")
        three = ("instruction", *([more] if more else []), answer)
        return Recognised("Alpaca's form", three, ("generate",), {"target": answer}, prompt)
    for text, target in _PAIRS:
        if text in cells and target in cells:
            fits = ("generate", "classify") if target == "target" else ("generate",)
            options = {"input": text, "target": target}
            return Recognised("an input and an answer", (text, target), fits, options)
    if "text" in cells and "label" in cells:
        options = {"input": "text", "target": "label"}
        return Recognised("a text and a label", ("text", "label"), ("classify",), options)
    if isinstance(cells.get("text"), str) and len(cells) == 1:
        why = (
            "an answer is learnt from an input, and texts as a whole are not: divide each into two columns, "
            "e.g. prompt and completion"
        )
        return Recognised("a text alone", ("text",), (), {}, advice=why)
    return None


def missing(config: Config) -> list[str]:
    """The options of `data` that are still to be told by the rows."""
    data, task = config.data, config.task
    if task.kind == "chat":
        return ["messages"] if data.messages is None else []
    names = Prompt.parse(task.prompt).names
    needed = ["input", "target"] if names in ((), (INPUT,)) else ["target"]
    return [name for name in needed if getattr(data, name) is None]


def settle(config: Config, rows: Sequence[Row], place: str) -> tuple[Config, str]:
    """The configuration with the columns and the prompt that it leaves open, and what is to be said of them.

    `rows` are the first ones of `place`. What is configured stays. Raises DataError if the form is unknown,
    or does not fit the task.
    """
    open_options, kind = missing(config), config.task.kind
    if not open_options:
        return _with_prompt(config), ""
    found = recognise(rows)
    known = sorted({name for row in rows for name in row})
    told = set() if found is None else {*found.options, *(["input"] if found.prompt else [])}
    if found is None or (kind in found.kinds and not told.issuperset(open_options)):
        named = ", ".join(f"data.{name}" for name in open_options)
        raise DataError(
            f"{named}: name the column{'s' if len(open_options) > 1 else ''} of the rows for "
            f"task.kind={kind}; {place} has: {', '.join(known)}"
        )
    if kind not in found.kinds:
        raise DataError(_unfit(config, found, place))
    media = [name for name in _MEDIA if name in known and any(row.get(name) for row in rows)]
    if media:
        named = " ".join(f"data.{name}={column}" for name, column in found.options.items())
        raise DataError(
            f"{place} has {' and '.join(media)} beside {found}, and text alone is trained on; to leave "
            f"{' and '.join(media)} out on purpose: {named}"
        )
    filled: dict[str, Any] = {name: value for name, value in found.options.items() if name in open_options}
    task = config.task
    if found.prompt and config.data.input is None and kind != "chat":
        if task.prompt and "input" in open_options:
            raise DataError(
                f"{place} is in {found}, and task.prompt={task.prompt!r} has a place for one column alone; "
                f"+experiment=generate asks as the rows do, or say how they are put together: "
                f"'task.prompt=\"{_escaped(found.prompt)}\"' data.target={found.options['target']}, or which "
                f"one is the input: data.input=instruction data.target={found.options['target']}"
            )
        task = replace(task, prompt=task.prompt or found.prompt)
    settled = _with_prompt(replace(config, data=replace(config.data, **filled), task=task))
    return settled, _said(settled, found, filled, known, place)


def _with_prompt(config: Config) -> Config:
    if config.task.prompt or config.task.kind == "chat":
        return config
    return replace(config, task=replace(config.task, prompt="{input}"))


def _unfit(config: Config, found: Recognised, place: str) -> str:
    advice = f"what fits is {_FITTING[found.kinds[0]]}" if found.kinds else found.advice
    advice = advice.replace(f"{_FITTING[config.task.kind]} ", "")  # that is on
    if config.data.source == "hub":
        advice = advice.replace("data=file ", "").replace(
            "data.path={path}", f"data=hub data.name={config.data.name}"
        )
    advice = advice.replace("{path}", str(config.data.path))
    wanted = "data.messages=..." if config.task.kind == "chat" else "data.input=... data.target=..."
    return (
        f"{place} is in the form of {found}, which does not fit task.kind={config.task.kind}: {advice}. "
        f"To read other columns: {wanted}"
    )


def _said(
    config: Config, found: Recognised, filled: Mapping[str, str], known: Sequence[str], place: str
) -> str:
    told = " ".join(f"data.{name}={value}" for name, value in filled.items())
    used = {*found.columns, config.data.group, config.data.slice, config.data.stratify, config.data.time}
    if config.task.kind == "chat":
        used.add(config.data.tools)
    left = [name for name in known if name not in used]
    prompt = f', task.prompt="{_escaped(config.task.prompt)}"' if found.prompt else ""
    more = f"; not used: {', '.join(left[:_MOST_NAMED])}{' ...' if len(left) > _MOST_NAMED else ''}"
    return f"{place} is read as {found}: {told}{prompt}{more if left else ''}"


_MOST_NAMED = 6


def _escaped(text: str) -> str:
    return text.replace("\n", "\\n")


def converted(rows: Iterable[Row], data: DataConfig, place: str) -> Iterable[Row]:
    """The rows with the cells that they need in the one form that is trained on.

    Raises DataError for a message that holds something else than text.
    """
    is_joined = data.messages is not None and JOINED in data.messages
    for number, row in enumerate(rows, start=1):
        changed: dict[str, Any] = {}
        if data.messages is not None:
            value = row.get(data.messages)
            if is_joined and data.messages not in row:
                parts = [conversation(row.get(name), f"row {number} of {place}") for name in columns(data)]
                value = [one for part in parts if isinstance(part, list) for one in part]
            changed[data.messages] = conversation(value, f"row {number} of {place}")
        if data.target_format == "json" and isinstance(row.get(str(data.target)), list | dict):
            changed[str(data.target)] = json.dumps(row[str(data.target)], ensure_ascii=False)
        yield {**row, **changed} if changed else row


def columns(data: DataConfig) -> list[str]:
    """The columns that data.messages names."""
    return [] if data.messages is None else data.messages.split(JOINED)


def mending(option: str, kind: str) -> str:
    """What to do about cells of this option of `data` that hold a list or an object; `kind` is task.kind."""
    if option == "target" and kind == "classify":
        return (
            "One label a row is learnt, as text or a number; several at once (multi-label) are not: write "
            "a list of one as the label itself, and of several labels the one that counts"
        )
    if option == "target":
        return (
            "data.target_format=json has lists and objects written as JSON; of a list with the one right "
            "answer, write that answer itself"
        )
    return "Text or a number is needed: nothing can be trained before these rows are mended"


def conversation(value: Any, place: str = "a row") -> Any:
    """A cell with messages, its roles and contents as chat templates have them; anything else as it is.

    >>> conversation([{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Good day"}])
    [{'role': 'user', 'content': 'Hello'}, {'role': 'assistant', 'content': 'Good day'}]
    """
    turns = _parsed(value)
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        return value
    return [_turn(turn, place) for turn in turns]


def _turn(turn: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    if "role" not in turn and "from" in turn:
        said = turn.get("value", turn.get("content"))
        others = {name: one for name, one in turn.items() if name not in ("from", "value")}
        speaker = str(turn["from"])
        if speaker in _CALLS:
            turn = {**others, "role": "assistant", **_call(said)}
        else:
            turn = {**others, "role": _ROLES.get(speaker, speaker), "content": said}
    elif str(turn.get("role")) in ("human", "gpt", "model", "bot"):
        turn = {**turn, "role": _ROLES[turn["role"]]}
    content = turn.get("content")
    return {**turn, "content": _text(content, place)} if isinstance(content, list) else turn


def _call(said: Any) -> dict[str, Any]:
    """A turn's text as the call that it stands for; where it is none, the text itself."""
    read = _parsed(said)
    calls = read if isinstance(read, list) else [read]
    if not calls or not all(isinstance(call, Mapping) and call.get("name") for call in calls):
        return {"content": said}
    functions = [{"name": one["name"], "arguments": _parsed(one.get("arguments", {}))} for one in calls]
    return {"content": "", "tool_calls": [{"type": "function", "function": one} for one in functions]}


def _text(parts: Sequence[Any], place: str) -> Any:
    """Text parts joined as chat templates do it, without anything between them."""
    texts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif (
            isinstance(part, Mapping)
            and part.get("type", "text") == "text"
            and isinstance(part.get("text"), str)
        ):
            texts.append(part["text"])
        else:
            what = part.get("type", "something else") if isinstance(part, Mapping) else type(part).__name__
            raise DataError(
                f"data.messages: {place} has a part of a message that is no text but {str(what)[:40]!r}; "
                "text alone is trained on: take such rows, or such parts, out"
            )
    return "".join(texts)


def _chat_form(cell: Any) -> str | None:
    """What the form of messages is called; None for a cell that holds none."""
    turns = _parsed(cell)
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], Mapping):
        return None
    if {"from", "value"} <= turns[0].keys():
        return "conversations in ShareGPT's form"
    return "conversations in OpenAI's form" if "role" in turns[0] else None


def _parsed(value: Any) -> Any:
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
