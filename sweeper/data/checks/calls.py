"""Tool calls in conversations: how many there are, of which tools, with arguments that can be read."""

import json
from collections.abc import Sequence

from sweeper.data.checks.tally import Tally
from sweeper.data.conversation import Conversation, calls_of, read_conversation, tool_names
from sweeper.data.findings import Batch, Finding


class Calls:
    """Looks at conversations as JSON: what their assistants call, and what they may call."""

    def __init__(self) -> None:
        self._rows = self._calling = self._calls = 0
        self._unknown, self._broken = Tally(), Tally()

    def see(self, batch: Batch) -> None:
        """Take notice of a batch of conversations."""
        for row, split, text in zip(batch.ids, batch.splits, batch.inputs, strict=True):
            self._rows += 1
            conversation, _ = read_conversation(text)
            if conversation is not None:
                self._look(row, split, conversation)

    def _look(self, row: str, split: str, conversation: Conversation) -> None:
        calls = [call for message in conversation.messages for call in calls_of(message)]
        self._calls += len(calls)
        self._calling += bool(calls)
        known = tool_names(conversation.tools)
        unknown = [name for name, _ in calls if known and name not in known]
        if unknown:
            self._unknown.add(row, split, f"{unknown[0]}; it has {', '.join(known)}", 0.7)
        broken = [f"{name}: {arguments}" for name, arguments in calls if not _is_object(arguments)]
        if broken:
            self._broken.add(row, split, broken[0], 0.9)

    def findings(self) -> Sequence[Finding]:
        """Nothing where nothing is called."""
        if not self._calls:
            return ()
        found = [
            Finding(
                "tool calls",
                "note",
                f"{self._calls:,} tool calls in {self._calling:,} of {self._rows:,} conversations",
                "They are learned as the chat template writes them: python -m sweeper rows ... shows it.",
                self._calling,
                self._rows,
                numbers={"calls": float(self._calls)},
            )
        ]
        for check, tally, said, advice in (
            (
                "unknown tools",
                self._unknown,
                "call a tool that is not among the row's tools",
                "Describe the tool in the row, or drop the call: the model learns to make tools up.",
            ),
            (
                "broken arguments",
                self._broken,
                "have a tool call whose arguments are no JSON object",
                "Mend them: the model learns to write calls that nothing can read.",
            ),
        ):
            if count := tally.count:
                message = f"{count:,} conversations {said}"
                suspects = tally.suspects
                found.append(
                    Finding(check, "warning", message, advice, count, self._rows, tally.examples, suspects)
                )
        return found


def _is_object(arguments: object) -> bool:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return False
    return arguments is None or isinstance(arguments, dict)
