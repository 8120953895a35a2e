"""report.html: complete, harmless whatever stands in it, and drawn in a real browser."""

import re
import shlex
from dataclasses import replace

import pytest

from sweeper.compose import compose, read_config
from sweeper.config import ConstraintConfig, Goals, LoraSettings, ObjectiveConfig
from sweeper.observations import Observation
from sweeper.report.html import duration, render
from sweeper.verdict import VerdictFacts
from tests.pages import HOSTILE, Elements, browser
from tests.telling import told, verdict

SECTIONS = [
    "The verdict in numbers", "Best settings", "Leaderboard", "Learning curves", "Search",
    "Parts of the rows",
    "Pareto front", "Data", "Device time", "Failures", "Sample outputs", "How to reproduce",
]  # fmt: skip


def text_of(page: str) -> str:
    """What a person reads: scripts, styles and charts left out, on one line."""
    elements = Elements(re.sub(r"(?s)<(script|style)\b.*?</\1>", "", page))
    return " ".join(elements.text.split())


def test_everything_that_is_known_is_told_in_its_order():
    facts = told()
    page = render(facts)
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", page) == SECTIONS
    page = text_of(page)
    assert page.index("Better by 0.09: plain") < page.index("Those of trial")
    for said in (
        f"{facts.best.objective:.3f} ± 0.020",
        "9 finished, 2 pruned, 1 failed",
        "The winner must meet loss ≤ 2.95",
        "Cleaning: encoding 9 changed",
        "0 errors, 1 warning, 0 notes",
        "Pruning 2 trials saved about",
        "trial 2 (attempt 2)",
        "python -m sweeper plain",
        "Python 3.11.9, torch 2",
        f"of trial {facts.best.number}: 105",
        "over 3 seeds and scored on 96 test rows",
    ):
        assert said in page, said


def test_what_the_sweep_sees_is_told_before_the_best_settings():
    seen = Observation("edge", "The best lie <there>.", "Widen it.", "python -m sweeper 'a=[1,2]'")
    page = text_of(render(told(observations=(seen,))))
    assert page.index("What the sweep sees The best lie <there>. Widen it.") < page.index("Those of trial")
    assert "python -m sweeper 'a=[1,2]'" in page
    assert "What the sweep sees" not in text_of(render(told()))


def test_the_leaderboard_has_what_trials_are_judged_by_and_says_who_has_the_settings_of_another():
    facts = told()
    facts = replace(facts, goals=Goals(facts.objective, (), (ConstraintConfig("loss", at_most=2.95),)))
    last = replace(facts.trials[-1], settings=facts.trials[0].settings)
    page = text_of(render(replace(facts, trials=(*facts.trials[:-1], last))))
    board = page[page.index("Leaderboard ±") :]
    assert "loss ≤ 2.95" in board[: board.index("state")]
    assert f"{facts.value(facts.best, 'loss'):.4g}" in board
    assert board.count("as 0") == 1


def test_the_default_settings_trained_again_are_no_better_ones():
    facts = told(verdict=None)
    best = replace(facts.best, settings=facts.trials[0].settings)
    page = text_of(render(replace(facts, best=best)))
    assert "No trial was better than the default settings" in page


@pytest.mark.parametrize(("error", "near"), [(1e-6, 0), (10.0, 8)])
def test_it_counts_the_trials_that_the_best_cannot_be_told_from(error, near):
    facts = told()
    trials = tuple(replace(trial, error=error, errors={"rougeL": error}) for trial in facts.trials)
    one = replace(facts.goals, also=())
    facts = replace(facts, goals=one, trials=trials, best=replace(facts.best, error=error))
    met = " that meet the constraints"
    said = f"{near} of the 8 other finished trials{met} lie within one standard error of the best."
    assert said in text_of(render(facts))
    free = replace(facts, goals=Goals(facts.objective))
    assert said.replace(met, "") in text_of(render(free))
    several = replace(facts, goals=Goals(facts.objective, (ObjectiveConfig("loss", "minimize"),)))
    assert "within one standard error" not in text_of(render(several)), "another rule makes the best one"


def test_the_leaderboard_ranks_and_marks():
    page = render(told())
    rows = re.findall(r'<tr class="(\w*) is-(\w+)">\s*<td class="n" data-value="(-?\d+)">', page)
    kinds = {kind: int(number) for kind, _, number in rows if kind}
    assert kinds == {"best": told().best.number, "default": 0, "base": -1}
    assert len(rows) == 13
    assert rows[-1][1] == "failed", "without an objective, so last"


def test_the_line_for_the_command_line_composes_to_the_best_settings():
    facts = told()
    odd = replace(facts.best.settings, lora=LoraSettings(8, 32.0, 0.05, "lora", "q_proj,v_proj"))
    targets = replace(facts.space[0], name="lora.target_modules", kind=str, choices=("q_proj,v_proj",))
    facts = replace(facts, best=replace(facts.best, settings=odd), space=(*facts.space, targets))
    elements = Elements(render(facts))
    line = re.search(r"trial\.learning_rate=.*", elements.text)
    composed = read_config(compose(["+experiment=summarize", *shlex.split(line[0])]))[0].trial
    assert composed == replace(odd, lora=replace(odd.lora, dropout=0.05))


def test_hostile_text_adds_nothing_to_the_page():
    harmless, hostile = (Elements(render(told(text))) for text in ("a", HOSTILE))
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in harmless.found]
    names = [[sorted(attributes) for _, attributes in page.found] for page in (harmless, hostile)]
    assert names[0] == names[1]
    page = render(told(HOSTILE))
    without_plotly = re.sub(r"(?s)<script>.*?</script>", "", page)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", without_plotly)
    assert "&lt;1b&gt;[2J" in page


def test_the_page_needs_nothing_from_elsewhere():
    page = render(told())
    assert "default-src 'none'" in page
    tags = [tag for tag, _ in Elements(page).found]
    assert tags.count("script") == 3
    assert not set(tags) & {"img", "iframe", "object", "base", "form"}
    hrefs = {attributes.get("href") for tag, attributes in Elements(page).found if "href" in attributes}
    assert all(link == "audit.html" or link.startswith(("#", "data:,")) for link in hrefs)
    assert all(f'id="{link[1:]}"' in page for link in hrefs if link.startswith("#"))


def test_a_large_sweep_stays_below_six_megabytes():
    page = render(told("a text of some length, as rows have it " * 20, trials=1000))
    assert len(page.encode()) < 6_000_000
    assert "700 further trials are in the study database" in text_of(page)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trials": 0, "best": None, "base": None, "curves": ()}, "Nothing has been measured yet."),
        ({"verdict": None}, "Nothing says yet that it is better than the default settings"),
        ({"verdict": None, "best": None}, "No finished trial meets what the winner must meet."),
        ({"verdict": None, "best": None, "trials": 0}, "No trial has finished."),
        ({"best": None}, "No finished trial meets what the winner must meet, so there are none."),
        ({"best": None, "trials": 0}, "No trial has finished, so there are none."),
        ({"rows": None}, "Nothing is known of the frozen rows."),
        ({"audit": None}, "The rows were not audited."),
        ({"audit": None, "faults": ("audit.json can't be read",)}, "Warning: audit.json can't be read"),
        ({"noted": False}, "versions and machine are those of now, not of the sweep"),
        ({"state": "running", "verdict": None}, "this sweep has none yet"),
        ({"trials": 3}, "No trial has failed."),
        ({"space": ()}, "Nothing varies in this sweep."),
    ],
)
def test_what_is_not_known_is_said_to_be_missing(changes, said):
    assert said in text_of(render(told(**changes)))


def test_a_default_that_is_best_is_said_to_be():
    facts = told(verdict=None)
    page = text_of(render(replace(facts, best=facts.default)))
    assert "No trial was better than the default settings on the validation rows." in page
    assert "Those of trial 0, the default settings" in page


def test_a_retraining_speaks_of_the_trial_that_it_retrains():
    facts = told(verdict=None)
    again = replace(facts.best, number=0, retrains=5)
    page = render(replace(facts, trials=(again,), best=again))
    assert re.findall(r'<tr class="(best|default|base) ', page) == ["best", "base"]
    page = text_of(page)
    for said in (
        "These are the settings of trial 5, on all rows.",
        "Those of trial 0, the settings of trial 5, on all rows, to lay",
        "trial 0 is the settings of trial 5, on all rows.",
    ):
        assert said in page, said
    for claim in ("defaults", "default settings"):
        assert claim not in page.lower(), claim


def test_trials_without_an_objective_never_overflow_the_board():
    facts = told(trials=500)
    scored = [record for record in facts.trials if record.objective is not None]
    failed = [record for record in facts.trials if record.objective is None]
    for trials, left in (((*scored[:300], *failed[:5]), 5), ((*scored[:297], *failed[:5]), 2)):
        page = render(replace(facts, trials=trials))
        assert len(re.findall(r'<tr class="\w* is-\w+">', page)) == 301
        assert f"{left} further trials are in the study database" in text_of(page)


def test_with_several_objectives_no_pruner_is_named():
    facts = told()
    assert "tpe proposes, and with several objectives nothing is pruned" in text_of(render(facts))
    alone = replace(facts, goals=replace(facts.goals, also=()))
    assert "tpe proposes, median prunes" in text_of(render(alone))


def test_the_time_of_the_verdict_is_told():
    page = text_of(render(told(verdict=replace(verdict(), seconds=7200.0, seeds=(1,)))))
    assert "verdict 2.0 h" in page
    assert "of a device in all, the verdict's runs included" in page
    assert "over 1 seed and scored" in page


def test_numbers_that_are_none_are_no_reason_to_fail():
    facts, nan = told(), float("nan")
    odd = [replace(r, metrics={"loss": nan}, errors={"loss": nan}, cost={"x": nan}) for r in facts.trials]
    base = replace(facts.base, objective=nan, metrics={"loss": nan})
    goals = replace(facts.goals, also=(replace(facts.goals.also[0], metric="loss"),))
    page = render(replace(facts, trials=tuple(odd), base=base, goals=goals))
    assert "NaN" not in re.search(r'id="drawn">(.*?)</script>', page)[1]


def test_too_few_seeds_are_no_gain():
    endless = [
        replace(one, low=float("-inf"), high=float("inf"), gain=float("nan"), outcome="not enough seeds")
        for one in verdict().candidates
    ]
    few: VerdictFacts = replace(
        verdict(outcome="not enough seeds"), candidates=tuple(endless), sentence="Not enough seeds."
    )
    page = text_of(render(told(verdict=few)))
    assert "Not enough seeds." in page
    assert "unknown" in page


@pytest.mark.parametrize(("seconds", "said"), [(45, "45 s"), (600, "10 min"), (12_240, "3.4 h")])
def test_durations_are_said_as_people_say_them(seconds, said):
    assert duration(seconds) == said


def test_a_browser_draws_it_all_and_asks_for_nothing(tmp_path):
    """Wide and narrow, light and dark; whatever stands in rows and settings."""
    pages = {"plain.html": told("a", 24), "hostile.html": told(HOSTILE, 24), "empty.html": told(**EMPTY)}
    for name, facts in pages.items():
        (tmp_path / name).write_text(render(facts), encoding="utf-8")
    with browser() as tab:
        for name in pages:
            for width, dark in LOOKS if name == "plain.html" else LOOKS[::3]:
                path = tmp_path / name
                seen = tab.open(path, width, dark)
                where = f"{name}, {width} px{', dark' if dark else ''}"
                assert (seen.requests, seen.faults) == ([path.as_uri()], []), where
                assert tab.evaluate("document.title") == "Report of summarize", where
                assert tab.evaluate("document.documentElement.scrollWidth") <= width, where
                charts = tab.evaluate(DRAWN)
                assert all(chart["marks"] for chart in charts), (where, charts)
                assert {chart["name"] for chart in charts} == (set() if name == "empty.html" else CHARTS), (
                    where
                )
                paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
                assert paper == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)"), where
                inks = {chart["ink"] for chart in charts}
                assert inks <= {"rgb(215, 221, 228)" if dark else "rgb(34, 39, 46)"}, where


LOOKS = [(1280, False), (1280, True), (390, False), (390, True)]
"""Width in pixels, and whether the page is dark."""
EMPTY = {
    "trials": 0, "best": None, "base": None, "curves": (), "verdict": None, "rows": None, "audit": None,
    "goals": Goals(ObjectiveConfig("rougeL", "maximize")),
}  # fmt: skip
CHARTS = {
    "chart-gains", "chart-learning-curves", "chart-training-loss", "chart-history", "chart-importance",
    "chart-parallel", "chart-slices-slice", "chart-slices-length", "chart-pareto-0",
}  # fmt: skip
DRAWN = """[...document.querySelectorAll('.chart')].map(chart => ({
    name: chart.id,
    marks: [...chart.querySelectorAll('.scatterlayer path')].filter(p => p.getTotalLength() > 0).length,
    ink: getComputedStyle(chart.querySelector('.xtick text, .ytick text')).fill,
}))"""


def test_headings_sort_the_leaderboard(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(render(told()), encoding="utf-8")
    first = "document.querySelector('.sortable tbody tr td').dataset.value"
    click = "document.querySelectorAll('.sortable th button')[{}].click()"
    with browser() as tab:
        tab.open(path)
        assert tab.evaluate(first) == str(told().best.number)
        tab.evaluate(click.format(0))
        assert tab.evaluate(first) == "-1"
        tab.evaluate(click.format(0))
        assert tab.evaluate(first) == "11"
        assert tab.evaluate("document.querySelector('th[aria-sort]').textContent") == "trial"
