"""The gate before a sweep: its rows are audited, what was found is shown and written down, or refused."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from sweeper.config import Config
from sweeper.data.audit import Audit, advised, audit, completed, is_of, read_audit, write_audit
from sweeper.data.audit import Progress as Hears
from sweeper.data.checks.amount import CUT_OFF
from sweeper.data.findings import Finding, printable
from sweeper.data.manifest import SplitInfo
from sweeper.data.page import render
from sweeper.data.queue import write_queue
from sweeper.errors import AuditRefusal, DataError, StudyError
from sweeper.events import AuditInfo
from sweeper.failpoints import reach
from sweeper.layout import Layout, write_atomically

_COLORS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_EXAMPLES = 2
"""Shown in the terminal; the others are on the page."""


class Viewer(Protocol):
    """Where a person looks."""

    console: Console

    def say(self, text: str) -> None:
        """One line of text."""


def inspect(
    config: Config, layout: Layout, viewer: Viewer, frozen: bool = False, details: bool = False
) -> AuditInfo | None:
    """Audit the rows of a sweep, write down and show what was found, with advice and examples for `details`.

    `frozen`: the sweep has begun, with rows of its own. Then what was found at its beginning counts; None if
    nothing was looked at then and the source can't be read any more.

    Raises DataError for rows that can't be read, AuditRefusal for findings that `data.audit.fail_on` forbids.
    """
    before = layout.audit.stat().st_mtime_ns if layout.audit.exists() else None
    found = _found(config, layout, viewer, frozen)
    if found is None:
        return None
    if not frozen:
        # Told by tokens that other options may have made; `complete` counts anew.
        found = completed(found, {})
    rows = ", ".join(f"{count:,} {split}" for split, count in found.rows.items())
    viewer.say(f"Audit of {printable(found.source)}: {rows} rows; {found.totals}")
    if details:
        _tell(advised(found, config).findings, viewer)
    elif not frozen:
        _name(found.at_least("warning"), viewer)
    if layout.audit.stat().st_mtime_ns != before or _is_behind(layout):
        if found.queue:
            queue = write_queue(layout.queue, found.queue)
            viewer.say(f"The {len(found.queue)} rows most worth a look are in {queue}")
        _write_page(found, config, layout)
    elif not frozen:
        _write_page(found, config, layout)
    viewer.say(f"With examples and histograms: {layout.audit_page}")
    return _passed(found, config, layout)


def refuse_other_rows(config: Config, layout: Layout) -> None:
    """Raise StudyError before the audit of a sweep that has begun would be replaced by one of other rows."""
    known = read_audit(layout.audit) if layout.config.exists() else None
    if known is not None and not is_of(known, config):
        raise StudyError(
            f"the sweep `{layout.name}` has begun, and {layout.audit_page} tells of its rows; these rows or "
            f"options are others. Name their audit otherwise: sweep.name={layout.name}_2"
        )


def complete(
    config: Config,
    layout: Layout,
    viewer: Viewer,
    splits: Mapping[str, SplitInfo],
    left: Finding | None = None,
) -> AuditInfo | None:
    """Add what only the prepared rows tell: how many tokens there are, what they cut off, what is `left` out.

    None if there is no audit.

    Raises AuditRefusal as `inspect` does.
    """
    found = read_audit(layout.audit)
    if found is None:
        return None
    full = completed(found, splits, left)
    if full != found:
        write_audit(full, layout.audit)
    _write_page(full, config, layout)
    if full != found:
        _name([finding for finding in full.at_least("warning") if finding.check == CUT_OFF], viewer)
    return _passed(full, config, layout)


def _found(config: Config, layout: Layout, viewer: Viewer, frozen: bool) -> Audit | None:
    try:
        with _counting(viewer) as hears:
            return audit(config, layout.audit, hears, frozen=frozen)
    except DataError:
        if not frozen:
            raise
        # A source that is gone says nothing about rows that were prepared long ago.
        return read_audit(layout.audit)


def _is_behind(layout: Layout) -> bool:
    """Whether the page is not that of the audit: a kill may fall between the two."""
    page, found = layout.audit_page, layout.audit
    return not page.exists() or page.stat().st_mtime_ns < found.stat().st_mtime_ns


def _name(findings: Sequence[Finding], viewer: Viewer) -> None:
    for finding in findings:
        viewer.say(f"  {finding.severity}: {_line(finding.message)}")


def _tell(findings: Sequence[Finding], viewer: Viewer) -> None:
    if viewer.console.is_terminal and findings:
        viewer.console.print(_table(findings))
        return
    for finding in findings:
        viewer.say(f"{finding.severity}: {_line(finding.message)} [{_share(finding)}]")
        viewer.say(f"  {_line(finding.advice)}")
        for example in _examples(finding):
            viewer.say(f"  {example}")


def refuse(found: Audit, config: Config, layout: Layout) -> None:
    """Raise AuditRefusal if something as severe as `data.audit.fail_on` was found."""
    fail_on = config.data.audit.fail_on
    grave = [] if fail_on == "never" else advised(found, config).at_least(fail_on)
    if grave:
        what = "\n".join(f"  {one.severity}: {_line(one.message)}\n    {_line(one.advice)}" for one in grave)
        queue = _newest_queue(layout)
        decide = f", or decide on them in {queue}" if found.queue else ""
        if decide and (config.data.review is None or config.data.review.absolute() != queue.absolute()):
            decide += f" and add data.review={queue}"
        raise AuditRefusal(
            f"the audit refuses these rows (data.audit.fail_on={fail_on})\n{what}\n"
            f"Mend the rows{decide}; the examples are in {layout.audit_page}. To go on all the same: "
            "data.audit.fail_on=never"
        )


def _newest_queue(layout: Layout) -> Path:
    """The queue that was written last; those before it hold decisions."""
    queues = layout.queue.parent.glob(f"{layout.queue.stem}*{layout.queue.suffix}")
    return max(queues, key=lambda path: (len(path.name), path.name), default=layout.queue)


def _passed(found: Audit, config: Config, layout: Layout) -> AuditInfo:
    refuse(found, config, layout)
    return AuditInfo(found.numbers, layout.audit_page, layout.audit.stat().st_mtime)


def _write_page(found: Audit, config: Config, layout: Layout) -> None:
    """Write the page, unless it says the same already and is no older than the audit."""
    page = render(advised(found, config), layout.name, str(_newest_queue(layout)))
    if _is_behind(layout) or layout.audit_page.read_text(encoding="utf-8") != page:
        write_atomically(layout.audit_page, page)
        reach("audit.shown")


@contextmanager
def _counting(viewer: Viewer) -> Iterator[Hears]:
    """A bar while the audit is at work; without a terminal a line before it."""
    if not viewer.console.is_terminal:
        viewer.say("Auditing the rows ...")
        yield lambda what, done, of: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=viewer.console, transient=True) as bar:
        task = bar.add_task("Auditing the rows", total=None)

        def hears(what: str, done: int, of: int | None) -> None:
            told = f"{done:,}" if of is None else f"{done}/{of}"
            bar.update(task, description=f"{what} ({told})", completed=done, total=of)

        yield hears


def _table(findings: Sequence[Finding]) -> RenderableType:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("")
    table.add_column("check", no_wrap=True)
    table.add_column("rows", justify="right")
    table.add_column("what was found, and what to do", overflow="fold")
    for finding in findings:
        lines = [escape(_line(finding.message)), f"[dim]{escape(_line(finding.advice))}[/dim]"]
        lines += [f"[dim]  {escape(example)}[/dim]" for example in _examples(finding)]
        color = _COLORS[finding.severity]
        table.add_row(
            f"[{color}]{finding.severity}[/]",
            escape(_line(finding.check)),
            f"{finding.count:,}\n{100 * finding.share:.1f} %",
            "\n".join(lines),
        )
    return table


def _examples(finding: Finding) -> list[str]:
    return [
        _line(f"{example.row} {example.split}: {example.text}") for example in finding.examples[:_EXAMPLES]
    ]


def _share(finding: Finding) -> str:
    return f"{_line(finding.check)}: {finding.count:,} of {finding.of:,} rows, {100 * finding.share:.1f} %"


def _line(text: str) -> str:
    """Text that may quote rows, on one line and without what steers a terminal."""
    return printable(" ".join(text.split()))
