"""No rows break a check: every script, a million characters, one row, none."""

import json
import time
from collections.abc import Callable

import pytest

from sweeper.data.checks.amount import Amount
from sweeper.data.checks.answers import Copies, Unrelated
from sweeper.data.checks.bias import Bias
from sweeper.data.checks.labels import Balance, Spellings
from sweeper.data.checks.language import Languages, Spelling
from sweeper.data.checks.mislabeled import Mislabeled
from sweeper.data.checks.quality import Controls, Empty, Encoding, Markup
from sweeper.data.checks.shapes import Formats, LengthOutliers
from sweeper.data.findings import Check
from tests.looking import HOSTILE, look

CHECKS: dict[str, Callable[[], Check]] = {
    "amount": lambda: Amount("generate"),
    "empty": lambda: Empty("generate"),
    "encoding": Encoding,
    "controls": Controls,
    "markup": Markup,
    "formats": lambda: Formats("generate"),
    "lengths": lambda: LengthOutliers("generate"),
    "copies": Copies,
    "unrelated": Unrelated,
    "languages": lambda: Languages("generate", 0),
    "spelling": lambda: Spelling(0),
    "bias": lambda: Bias("generate", {"women": ["she", "her"], "men": ["he"]}),
    "balance": Balance,
    "spellings": Spellings,
    "mislabeled": lambda: Mislabeled(0),
}


@pytest.mark.parametrize("rows", HOSTILE, ids=lambda name: name.replace(" ", "-"))
@pytest.mark.parametrize("check", CHECKS)
def test_no_rows_break_a_check(check, rows):
    begun = time.perf_counter()
    findings = look(CHECKS[check](), HOSTILE[rows])
    assert time.perf_counter() - begun < 10
    for finding in findings:
        assert len(finding.examples) <= 5
        assert finding.count <= finding.of or finding.of == 0
        assert all(0 <= score <= 1 for _, score in finding.suspects)
        shown = json.dumps(
            [finding.message, *(example.text for example in finding.examples)], ensure_ascii=False
        )
        assert len(shown.encode()) < 5000


@pytest.mark.parametrize("check", ["encoding", "controls", "markup", "formats", "empty"])
def test_well_decoded_text_of_any_script_is_no_fault(check):
    assert look(CHECKS[check](), HOSTILE["scripts"]) == []
