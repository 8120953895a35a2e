"""What a person sees on the way: bars in a terminal, lines elsewhere."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from sweeper.events import DataSetInfo, Measurement
from sweeper.messages import BASE, Confusion, HeldOutScores, TrialState
from sweeper.observations import Observation
from sweeper.terminal.screen import LiveScreen, Screen, make_screen
from tests.sweeps import Clock, Recorder, configure, open_coordinator

ROWS = {"train": 96, "validation": 48, "test": 96}


@pytest.fixture
def sweep(tmp_path):
    """SweepInfo, and a record to make others from."""
    coordinator, study, _ = open_coordinator(tmp_path)
    info = replace(coordinator._sweep, verdict_runs=6)
    record = replace(
        study.record(BASE), number=0, state=TrialState.FINISHED, objective=0.2, error=0.02, seconds=30.0
    )
    return info, record


def test_bars_in_a_terminal_lines_elsewhere(sweep):
    assert isinstance(make_screen(Console(file=StringIO(), force_terminal=True)), LiveScreen)
    assert type(make_screen(Console(file=StringIO()))) is Screen


def test_a_live_sweep_shows_its_bars_and_gives_the_terminal_back(sweep, tmp_path):
    info, record = sweep
    out = StringIO()
    screen = LiveScreen(Console(file=out, force_terminal=True, width=100, highlight=False))
    base = replace(record, number=BASE, cost={"train_examples_per_second": 4.0, "evaluation_seconds": 3.0})
    screen.opened(info, [])
    with screen.step("Looking"):
        pass
    screen.started(base)
    screen.ended(base)
    assert screen.seconds_left(base) == (8 + 6) * (96 / 4 + 2 * 3), "the verdict's runs are included"
    screen.opened(replace(info, data=tuple(DataSetInfo(s, n, "", "") for s, n in ROWS.items())), [base])
    assert screen.seconds_left(base) == (8 + 6) * (96 / 4 + 2 * 3) + 6 * 2 * 3, "and their test rows"
    screen.opened(info, [base])
    screen.started(record)
    screen.ended(record)
    screen.started(pruned := replace(record, number=1, state=TrialState.PRUNED, seconds=10.0))
    screen.ended(pruned)
    assert screen.seconds_left(base) == 6 * 20.0 + 6 * 30.0, "of which none is pruned"
    screen.closed([base, record], record, "finished")
    assert (
        "About 7 min to go, less where trials are pruned; the verdict's 6 runs are included" in out.getvalue()
    )
    assert "\x1b[?25h" in out.getvalue(), "the cursor is shown again"


def test_the_bar_moves_while_a_trial_is_scored_and_time_left_counts_what_is_running(sweep):
    info, record = sweep
    clock, out = Clock(), StringIO()
    screen = LiveScreen(Console(file=out, force_terminal=True, width=120, highlight=False), clock)
    base = replace(record, number=BASE, cost={"train_examples_per_second": 4.0, "evaluation_seconds": 3.0})
    screen.opened(replace(info, verdict_runs=0), [])
    screen.started(base)
    screen.scoring(BASE, 40, 128)
    screen._progress.refresh()
    assert "scoring 40/128" in out.getvalue()
    screen.ended(base)
    screen.started(replace(record, state=TrialState.RUNNING))
    assert screen.seconds_left(base) == 8 * 30
    clock.seconds += 12
    assert screen.seconds_left(base) == 8 * 30 - 12
    screen.scoring(0, 1000, 2000)
    screen._progress.refresh()
    assert "scoring 1,000/2,000" in out.getvalue()
    clock.seconds += 50
    assert screen.seconds_left(base) == 7 * 30, "what takes longer than expected has nothing left"
    screen.measured(Measurement(0, 1, 0.0, 48, {"objective": 0.2}, 48))
    written = len(out.getvalue())
    screen._progress.refresh()
    assert "scoring" not in out.getvalue()[written:]
    screen.closed([], None, "")


@pytest.mark.parametrize(
    ("overrides", "is_less"),
    [(["pruner=median"], True), (["pruner=none"], False), (["task.evaluation.marks_per_epoch=1"], False)],
)
def test_less_time_is_promised_only_where_trials_can_be_pruned(tmp_path, overrides, is_less):
    coordinator, study, _ = open_coordinator(tmp_path, *overrides)
    cost = {"train_examples_per_second": 4.0, "evaluation_seconds": 3.0}
    base = replace(study.record(BASE), state=TrialState.FINISHED, objective=0.1, cost=cost)
    screen = Screen(Console(file=StringIO(), width=100, highlight=False))
    screen.opened(coordinator._sweep, [base])
    (line,) = [line for line in screen.console.file.getvalue().splitlines() if "to go" in line]
    assert ("less where trials are pruned" in line) is is_less


def test_what_a_trial_sees_in_itself_is_said_once(sweep):
    info, record = sweep
    screen = Screen(Console(file=StringIO(), width=100, highlight=False))
    screen.opened(info, [])
    one_class = Confusion(("cat", "dog"), ((8, 0), (4, 0)))
    for number in range(3):
        screen.ended(replace(record, number=number, confusion=one_class))
    screen.note([Observation("edge", "The best lie there.", "Widen it.", "python -m sweeper a=b")])
    told = [line for line in screen.console.file.getvalue().splitlines() if "Trial" not in line]
    assert told[-3:] == [
        "  Note: It predicts `cat` for all 12 validation rows.",
        "Note: The best lie there. Widen it.",
        "  python -m sweeper a=b",
    ]
    verdict = replace(info, is_verdict=True)
    screen.opened(verdict, [])
    screen.ended(replace(record, number=3, confusion=one_class, retrains=0, repeat=1))
    assert screen.console.file.getvalue().count("It predicts") == 1


def test_with_several_workers_each_line_says_whose_it_is_and_they_share_the_work(sweep):
    info, record = sweep
    out = StringIO()
    screen = Screen(Console(file=out, width=100, highlight=False), Clock())
    base = replace(record, number=BASE, cost={"train_examples_per_second": 4.0, "evaluation_seconds": 3.0})
    running = replace(record, state=TrialState.RUNNING)
    screen.opened(replace(info, workers=2), [base])
    assert screen.seconds_left(base) == (8 + 6) * (96 / 4 + 2 * 3) / 2
    screen.started(running)
    screen.started(replace(running, number=1))
    for trial in (1, 0):
        screen.measured(Measurement(trial, 1, 0.0, 48, {"objective": 0.2 + trial / 10}, 48))
    screen.ended(record)
    assert screen.seconds_left(base) == (7 + 6) * 30.0 / 2
    assert [line for line in out.getvalue().splitlines() if "after 48" in line] == [
        "  trial 1 after 48 examples: rougeL 0.300",
        "  trial 0 after 48 examples: rougeL 0.200",
    ]


def test_a_sweep_that_goes_on_says_by_whom_before_how_long(sweep):
    info, record = sweep
    screen = Screen(Console(file=StringIO(), width=40, highlight=False))
    command = f"Go on with: python -m sweeper {'+space.learning_rate={low: 1e-5, high: 1e-3} ' * 3}"
    base = replace(record, number=BASE, cost={"train_examples_per_second": 4.0, "evaluation_seconds": 3.0})
    one = replace(info, budget=1, verdict_runs=0, data=(), trained_by="2 workers on the CPU")
    screen.opened(one, [base])
    screen.say(command)
    told = screen.console.file.getvalue().splitlines()
    assert told == [
        f"Sweep summarize: {info.model}; rows: none; 1 trial",
        "Trained by 2 workers on the CPU",
        "About 30 s to go, less where trials are pruned",
        command,
    ], "each in a line of its own, to be copied"


def test_an_end_without_an_objective_names_none_and_a_lost_worker_is_no_end(sweep):
    info, record = sweep
    screen = Screen(Console(file=StringIO(), width=100, highlight=False))
    screen.opened(info, [record])
    ends = [
        replace(record, state=TrialState.FAILED, objective=None, error=None, reason="the loss is nan"),
        replace(record, state=TrialState.WAITING),
        replace(record, state=TrialState.WAITING, objective=None, reason="its worker was ended by SIGKILL"),
        replace(record, number=BASE, state=TrialState.WAITING, objective=None, seconds=0.0),
    ]
    for end in ends:
        screen.ended(end)
    assert screen.console.file.getvalue().splitlines()[-4:] == [
        "Trial 0 failed after 30 s (the loss is nan)",
        "Trial 0 waiting: rougeL 0.200 ± 0.020, 30 s",
        "Trial 0 is to go on with another worker: its worker was ended by SIGKILL",
        "Base model waiting",
    ]


def test_a_verdict_is_told_by_its_runs_and_their_sides(sweep):
    info, record = sweep
    info = replace(info, name="summarize/verdict", budget=6, verdict_runs=0, is_verdict=True)
    out = StringIO()
    screen = Screen(Console(file=out, width=100, highlight=False), Clock())
    test = HeldOutScores(0.25, 0.02, {"rougeL": 0.25}, count=96)
    done = replace(record, number=0, retrains=0, repeat=1, test=test)
    screen.opened(info, [done])
    screen.started(replace(record, number=1, retrains=5, repeat=1, attempt=2))
    screen.ended(replace(record, number=1, retrains=5, repeat=1, test=test))
    screen.started(replace(record, number=2, state=TrialState.RUNNING, retrains=0, repeat=2))
    told = out.getvalue().splitlines()
    assert told == [
        "The verdict: the best settings and the default ones, trained anew: 6 runs",
        "Going on: 1 of 6 runs are done",
        "Run 1 (attempt 2): trial 5 again, seed 1",
        "Run 1 finished: rougeL 0.250 ± 0.020 on test rows, 30 s",
        "Run 2: the default settings again, seed 2",
    ]
    assert screen.seconds_left(None) == 4 * 30.0


def test_listeners_share_one_protocol(tmp_path):
    config, _ = configure(tmp_path)
    recorder = Recorder()
    coordinator, _, _ = open_coordinator(tmp_path / "other", recorder=recorder)
    coordinator.close()
    assert [name for name, _ in recorder.heard] == ["opened", "closed"]
    assert config.task.objective.metric == "rougeL"


@pytest.mark.parametrize(("packed", "taken"), [(123.4, "packed"), (20.0, "trainer")])
def test_what_auto_has_tried_is_one_line(sweep, packed, taken):
    info, _ = sweep
    out = StringIO()
    screen = make_screen(Console(file=out))
    screen.opened(info, [])
    speeds = {"packed_examples_per_second": packed, "packed_slots": 8.0, "trainer_examples_per_second": 25.0}
    screen.measured(Measurement(0, 1, 0.0, 0, speeds))
    told = f"engine=auto takes {taken}: {packed:.3g} examples per second with 8 trials at once, 25 with one"
    assert told in out.getvalue()
