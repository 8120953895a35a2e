"""What kinds of values the columns hold: text, numbers, or what can't be trained on."""

from collections import Counter
from collections.abc import Sequence

from sweeper.config import Config
from sweeper.config.prompt import Prompt
from sweeper.data.cells import Content, as_text
from sweeper.data.conversation import RIGHT_FORM
from sweeper.data.findings import MOST_EXAMPLES, Example, Finding, excerpt
from sweeper.data.forms import mending
from sweeper.data.personal import masked_part
from sweeper.data.sources import Row

_KINDS = {str: "text", bool: "truth values", int: "numbers", float: "numbers"}


class Types:
    """Looks at cells before they are made text; the other checks see text alone."""

    def __init__(self, config: Config) -> None:
        self._kind = config.task.kind
        self._chat = config.task.kind == "chat"
        data = config.data
        self._columns: dict[str, list[str]] = {}
        if not self._chat:
            inputs = Prompt.parse(config.task.prompt).columns(data.input).values()
            self._columns = {"input": list(dict.fromkeys(inputs)), "target": [str(data.target)]}
        self._messages = str(data.messages)
        self._kinds: dict[str, Counter[str]] = {
            name: Counter() for some in self._columns.values() for name in some
        }
        self._wrong: Counter[str] = Counter()
        self._examples: dict[str, list[Example]] = {}
        self._rows = 0

    def see(self, row: Row, content: Content, split: str) -> None:
        """Take notice of a row."""
        self._rows += 1
        for column, kinds in self._kinds.items():
            value = row.get(column)
            if value is not None and as_text(value) != "":
                kinds[_KINDS.get(type(value), f"a {type(value).__name__}")] += 1
        if content.wrong:
            self._wrong[content.wrong] += 1
            examples = self._examples.setdefault(content.wrong, [])
            if len(examples) < MOST_EXAMPLES:
                shown = content.target if content.wrong == "target" else content.text
                told = masked_part(shown, 0, 1000)
                told = f"{content.why}: {told}" if self._chat else told
                examples.append(Example(content.digest.hex(), split, excerpt(told)))

    def findings(self) -> Sequence[Finding]:
        """Cells of a wrong kind, and columns that hold several."""
        found = [self._mixed(column) for column in self._kinds if len(self._right(column)) > 1]
        return [self._of_wrong_kind(option) for option in self._wrong] + found

    def _of_wrong_kind(self, option: str) -> Finding:
        count, columns = self._wrong[option], self._columns.get(option, [])
        if option == "messages":
            message = f"{count} of {self._rows} rows hold no conversation in `{self._messages}`"
            advice = f"They are left out. Right is {RIGHT_FORM}."
        else:
            found = {column: sorted(set(self._kinds[column]) - set(_KINDS.values())) for column in columns}
            told = (f"{', '.join(kinds)} in column `{column}`" for column, kinds in found.items() if kinds)
            message = f"{count} of {self._rows} rows hold {' and '.join(told)}"
            advice = f"{mending(option, self._kind)}."
        return Finding(
            check="types",
            severity="warning" if option == "messages" else "error",
            message=message,
            advice=advice,
            count=count,
            of=self._rows,
            examples=tuple(self._examples[option]),
            suspects=tuple((example.row, 1.0) for example in self._examples[option]),
        )

    def _mixed(self, column: str) -> Finding:
        kinds = self._right(column)
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        return Finding(
            check="types",
            severity="warning",
            message=f"column `{column}` holds values of several kinds: {told}",
            advice="All are read as text; see whether something was written into the wrong column.",
            count=kinds.total() - max(kinds.values()),
            of=self._rows,
        )

    def _right(self, column: str) -> Counter[str]:
        """The kinds that can be used, with their rows."""
        return Counter({k: n for k, n in self._kinds[column].items() if k in _KINDS.values()})
