"""The texts that a row is made of, for whoever looks at them, or changes them, one by one."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sweeper.config import TaskConfig
from sweeper.config.prompt import Prompt
from sweeper.data.conversation import Conversation, beside_content, check_messages

ANSWER = "answer"
"""Who says the target of a row."""


@dataclass(frozen=True)
class Text:
    """A row before it is tokenised.

    `input` is the input text. Where the prompt names several columns it is a JSON object of their texts by
    their names in the prompt; of a chat it is that of its `Conversation`.
    """

    input: str
    target: str


@dataclass(frozen=True)
class Form:
    """How the rows of a task are made of texts."""

    kind: str
    """That of the task."""
    has_columns: bool = False
    """Whether `Text.input` holds several columns."""

    @classmethod
    def of(cls, task: TaskConfig) -> "Form":
        return cls(task.kind, task.kind != "chat" and Prompt.parse(task.prompt).has_many)

    def split(self, row: Text) -> list[tuple[str, str]]:
        """The texts of a row, and who says them: `input`, a column, a role, ANSWER; a label is no text."""
        if self.kind == "chat":
            return [(one["role"], one["content"]) for one in Conversation.parse(row.input).messages]
        inputs = list(json.loads(row.input).items()) if self.has_columns else [("input", row.input)]
        return [*inputs, *([] if self.kind == "classify" else [(ANSWER, row.target)])]

    def join(self, row: Text, texts: Sequence[str]) -> Text:
        """The row with these texts in the place of those that `split` gives."""
        if self.kind == "chat":
            old = Conversation.parse(row.input)
            said = [m | {"content": text} for m, text in zip(old.messages, texts, strict=True)]
            return Text(Conversation(said, old.tools).text, row.target)
        *inputs, target = (*texts, row.target) if self.kind == "classify" else texts
        if self.has_columns:
            return Text(columns_text(dict(zip(json.loads(row.input), inputs, strict=True))), target)
        return Text(inputs[0], target)

    def beside(self, row: Text, change: Callable[[str], str]) -> Text:
        """The row with the texts changed that `split` leaves out: of a chat, reasoning and tool calls."""
        if self.kind != "chat":
            return row
        old = Conversation.parse(row.input)
        said = [beside_content(message, change) for message in old.messages]
        return row if said == old.messages else Text(Conversation(said, old.tools).text, row.target)

    def shown_whole(self, text: str) -> str:
        """As `shown`, with all that a chat has beside the contents of its messages."""
        more: list[str] = []

        def note(one: str) -> str:
            more.append(one)
            return one

        if self.kind == "chat" and check_messages(text) is not None:
            self.beside(Text(text, ""), note)
        return "\n\n".join([self.shown(text), *more])

    def shown(self, text: str) -> str:
        """What is to be read of an input, without the JSON around it; what is none as it is."""
        if self.kind == "chat":
            messages = check_messages(text)
            return text if messages is None else "\n\n".join(message["content"] for message in messages)
        return "\n\n".join(filter(None, json.loads(text).values())) if self.has_columns else text


def columns_text(values: dict[str, str]) -> str:
    """Several columns as one text."""
    return json.dumps(values, ensure_ascii=False)
