"""What a sweep leaves for people: report.html, and the model card of its best adapter.

Everything is read from the study database and the sweep's folder, and can be written again at any time.
"""

from pathlib import Path

from sweeper.layout import Layout, write_atomically
from sweeper.report.facts import read_facts
from sweeper.verdict import VerdictFacts


def write_report(layout: Layout, verdict: VerdictFacts | None = None, running: bool | None = None) -> Path:
    """Write report.html of a sweep in whatever state it is; gives its path.

    `running` None: asked of the sweep's lock. Raises StudyError if there is no such sweep, or it can't be read.
    """
    from sweeper.report.html import render

    write_atomically(layout.report, render(read_facts(layout, verdict, running)))
    return layout.report
