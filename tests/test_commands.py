"""Commands as a person types them: understood, or refused where they are typed."""

import pytest

from sweeper.config import SamplerConfig
from sweeper.errors import ConfigError, StudyError
from sweeper.inbox import Enqueue, Prune, Stop
from sweeper.messages import Ending, Outcome
from sweeper.study.study import Spent, Study
from sweeper.verbs.commands import read_command, trial_number
from tests.sweeps import open_study

DEFAULTS = {"learning_rate": 2e-4, "batch_size": 8, "lora.rank": 8, "lora.dropout": 0.0}


@pytest.fixture
def study(tmp_path) -> Study:
    """Trial 0 is over, trial 1 runs."""
    study = open_study(tmp_path)
    for _ in range(2):
        study.propose(8, SamplerConfig("random"))
    study.finish(Outcome(0, 1, Ending.PRUNED, 48, "test"), Spent(48, 1.0, 1))
    return study


def test_stop(study):
    assert read_command(["stop", "1"], study) == Stop(1)
    assert read_command(["stop", "1", "it", "diverges"], study) == Stop(1, "it diverges")


def test_prune(study):
    assert read_command(["prune", "1", "it", "diverges"], study) == Prune(1, "it diverges")


def test_enqueue_starts_from_the_defaults(study):
    assert read_command(["enqueue"], study) == Enqueue(DEFAULTS, "enqueued by hand")
    told = read_command(["enqueue", "learning_rate=1e-3", "lora.rank=16", "lora.dropout=.05"], study)
    changed = {"learning_rate": 1e-3, "lora.rank": 16, "lora.dropout": 0.05}
    assert told == Enqueue(DEFAULTS | changed, "enqueued by hand")


def test_a_clone_starts_from_a_trial(study):
    settings = study.record(1).settings
    drawn = {
        "learning_rate": settings.learning_rate,
        "batch_size": settings.batch_size,
        "lora.rank": settings.lora.rank,
        "lora.dropout": settings.lora.dropout,
    }
    assert read_command(["clone", "1"], study) == Enqueue(drawn, "a clone of trial 1")
    told = read_command(["clone", "1", "learning_rate=3e-4"], study)
    assert told == Enqueue(drawn | {"learning_rate": 3e-4}, "a clone of trial 1 with learning_rate=3e-4")


@pytest.mark.parametrize("word", ["seven", "-1", "1.0", "٣", ""])
def test_a_number_of_a_trial_is_digits(word):
    with pytest.raises(StudyError, match="is not a trial number; `python -m sweeper trials NAME` lists them"):
        trial_number(word)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stop", "0"], r"trial 0 is over \(pruned\); only others can be stopped"),
        (["prune", "0"], r"trial 0 is over \(pruned\); only others can be pruned"),
        (["stop", "9"], "`summarize` has no trial 9; its trials: 0 to 1"),
        (["clone", "9"], "`summarize` has no trial 9; its trials: 0 to 1"),
        (["stop"], r"`stop` needs a trial number: stop N \[WHY\]"),
        (["show"], "`show` needs a trial number: show N$"),
        (["delete", "1"], "`delete 1` can't be done to a trial; there is: show N, stop N"),
    ],
)
def test_what_can_not_be_done_is_refused(study, words, message):
    with pytest.raises(StudyError, match=message):
        read_command(words, study)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs=2", "epochs: is fixed in this sweep: 1; varied here: learning_rate, batch_size, lora.rank"),
        ("learnig_rate=1e-3", "learnig_rate: unknown name; did you mean `learning_rate`?"),
        ("learning_rate=1", r"learning_rate: must be in 0.0001 .. 0.01 \(given: 1"),
        ("learning_rate=nan", r"learning_rate: must be .* \(given: "),
        ("lora.rank=9", r"lora.rank: must be in choices 4, 8, 16, 32 \(given: 9\)"),
        ("lora.dropout=0.07", "lora.dropout: must be in 0.0 .. 0.1 in steps of 0.05"),
        ("batch_size=many", r"batch_size: must be a valid integer \(given: 'many'\)"),
        ("batch_size=true", r"batch_size: must be a valid integer \(given: True\)"),
        ("batch_size", "batch_size: must be SETTING=VALUE, e.g. learning_rate=3e-4"),
    ],
)
def test_settings_that_the_space_does_not_allow(study, change, message):
    with pytest.raises(ConfigError, match=message):
        read_command(["clone", "1", change], study)


def test_all_faults_are_told_at_once(study):
    with pytest.raises(ConfigError, match=r"^2 faults in the command\n") as told:
        read_command(["enqueue", "epochs=2", "lora.rank=9"], study)
    assert [fault.field for fault in told.value.faults] == ["epochs", "lora.rank"]
    with pytest.raises(ConfigError, match=r"^1 fault in the command\n  lora\.rank: is given more than once"):
        read_command(["enqueue", "lora.rank=8", "lora.rank=16"], study)
