"""Hostile text: names that are no names, what would steer a terminal, paths that lead elsewhere."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sweeper.__main__ import main
from sweeper.config import SweepConfig
from sweeper.data.findings import printable
from sweeper.errors import ConfigError
from sweeper.layout import Layout
from sweeper.loading import read
from sweeper.stored import names
from sweeper.terminal.screen import make_screen
from tests.sweeps import REPLAY

NAMES = [
    *("../victim", "victim/../../victim", "/etc", "..", ".", "", " ", "a/b", "a\\b", "~", "-rf", "a\nb"),
    *("a\x00b", "x" * 300, "\x1b[2J", "[red]x[/red]", "a%2fb", "$(id)", "a;b", "artifacts", "Artifacts"),
    *("study.db", "STUDY.DB", "mlflow.db-wal", "CON", "nul.txt", "lpt1", "end."),
    *("\u2025/victim", "\uff0e\uff0e\uff0fvictim", "a\u2215b", "\u0430rtifacts"),  # look like others
]
STEERING = {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), 0x61C, 0x202E, 0x2066)}


def config(name: str) -> SweepConfig:
    return read(SweepConfig, {"name": name, "seed": 7, "folder": "sweeps", "study": None}, "sweep")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ConfigError, match=r"sweep\.name: ") as refusal:
        config(name)
    assert not STEERING & set(str(refusal.value)), "it is quoted by its code"


ANY = st.one_of(
    st.text(max_size=80),
    st.text("ab./\\-_~: \x00\x1bCONnul1", max_size=12),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,70}", fullmatch=True),
)


@given(ANY)
@settings(max_examples=300, deadline=None)
def test_a_name_that_is_taken_is_a_folder_of_its_own(tmp_path_factory, name):
    """Whatever is accepted lies directly below the folder of all sweeps, and is found there by its name."""
    try:
        accepted = config(name).name
    except ConfigError:
        return
    root = tmp_path_factory.getbasetemp() / "names"
    folder = Layout(root, accepted).folder
    assert folder.resolve().parent == root.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").touch()
    assert accepted in names(root)
    assert len(accepted) <= 64
    assert accepted.isascii()


@pytest.fixture
def victim(tmp_path, monkeypatch):
    """A folder that looks like a sweep, beside the folder of all sweeps; it stays as it is."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "victim"
    folder.mkdir()
    (tmp_path / "sweeps").mkdir()
    (folder / "config.yaml").write_text("sweep: {name: victim, study: null}\n")
    before = sorted(tmp_path.rglob("*"))
    yield folder
    assert sorted(tmp_path.rglob("*")) == before, "something was made or deleted"


@pytest.mark.parametrize("verb", ["show", "report", "trials", "export", "train", "delete"])
def test_verbs_reach_nothing_outside_the_folder_of_all_sweeps(victim, capsys, verb):
    for name in NAMES:
        if not name.startswith("-"):
            assert main([verb, name, *(["--yes"] if verb == "delete" else [])]) == 2, name
    said = capsys.readouterr()
    assert "no sweep `../victim` in sweeps/" in said.err
    assert not STEERING & set(said.out + said.err)


HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]<b>[/red]\x9b31m\r\u202e\u061c"


@given(st.text(st.characters(exclude_categories=["Cs", "Zl", "Zp"]), max_size=60))
@settings(max_examples=200, deadline=None)
def test_a_terminal_is_steered_by_nothing_that_is_said(text):
    out = io.StringIO()
    screen = make_screen(Console(file=out, force_terminal=True, highlight=False))
    screen.say(text)
    assert not STEERING & set(out.getvalue())
    if "\t" not in text:
        assert out.getvalue() == printable(text) + "\n", "letter by letter, markup included"


def test_a_sweep_full_of_hostile_text_steers_no_terminal(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    quick = [*REPLAY, "budget.trials=2"]
    assert main(quick) == 0
    stranger = tmp_path / "sweeps" / HOSTILE.replace("/", "")
    stranger.mkdir()
    (stranger / "config.yaml").write_text("sweep: [")
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / f"{HOSTILE.replace('/', '')}.yaml").write_text("{}")
    assert main(["trials", "summarize", "clone", "1"]) == 0
    inbox = tmp_path / "sweeps" / "summarize" / "inbox"
    letter = next(inbox.glob("*.json"))
    asked = json.loads(letter.read_text())
    asked["enqueue"]["origin"] = HOSTILE
    letter.write_text(json.dumps(asked))
    assert main(["trials", "summarize"]) == 0
    assert main([*quick, "budget.trials=3"]) == 0
    for line in (
        *([], ["--help"], ["list"], ["show", "summarize"], ["report", "summarize"]),
        *(["trials", "summarize"], ["trials", "summarize", "show", "2"], ["show", HOSTILE]),
        *(["trials", "summarize", "enqueue", f"{HOSTILE}=1"], ["trials", "summarize", HOSTILE]),
        *(["+experiment=summarize", f"sweep.name={HOSTILE}"], [f"+experiment={HOSTILE}"], [HOSTILE]),
        *(["+experiment=summarize", "data=file", f"data.path='{HOSTILE}.jsonl'"],),
        *(["+experiment=summarize", "model=custom", f"model.name='{HOSTILE}'", "model.embedded=false"],),
    ):
        main(line)
    said = "".join(capfd.readouterr())
    assert "<1b>[2J<1b>]0;owned<07>[red]<b>" in said, "letter by letter"
    assert not STEERING & set(said)
    page = (tmp_path / "sweeps" / "summarize" / "report.html").read_text()
    assert "\x1b" not in page
    assert "[red]<b>" not in page


def test_letters_that_are_no_commands_are_put_aside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inbox = tmp_path / "sweeps" / "summarize" / "inbox"
    (inbox / "folder.json").mkdir(parents=True)
    for number, content in enumerate(
        ["[" * 100_000, "{}", "[]", '{"stop": {"trial": -1}}', '{"../x": {}}', '{"stop": {"x": 1}}', "\x00"]
    ):
        (inbox / f"{number}.json").write_text(content)
    assert main([*REPLAY, "budget.trials=1"]) == 0
    assert sorted(path.name for path in inbox.iterdir()) == [
        *(f"{number}.refused" for number in range(7)),
        "folder.refused",
    ]
