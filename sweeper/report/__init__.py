"""What a sweep leaves for people: report.html, and the model card of its best adapter.

Everything is read from the study database and the sweep's folder, and can be written again at any time.
"""

from pathlib import Path

from sweeper.failpoints import reach
from sweeper.layout import Layout, write_atomically
from sweeper.report.facts import SweepFacts, read_facts

__all__ = ["SweepFacts", "card_text", "read_facts", "write_card", "write_page"]


def write_page(facts: SweepFacts, layout: Layout) -> Path:
    """Write report.html of a sweep in whatever state it is; gives its path."""
    from sweeper.report.html import render

    write_atomically(layout.report, render(facts))
    reach("report.written")
    return layout.report


def write_card(facts: SweepFacts, layout: Layout) -> Path | None:
    """Write the model card of the best adapter, in the place of PEFT's; None where there is no such adapter.

    Raises CardError if something that belongs on a card is not known.
    """
    if facts.best is None or not layout.best.is_dir():
        return None
    write_atomically(layout.card, card_text(facts))
    reach("card.written")
    return layout.card


def card_text(facts: SweepFacts) -> str:
    """The model card of the best trial; raises CardError as `write_card` does."""
    from sweeper.report.card import card

    return card(facts)
