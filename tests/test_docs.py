"""README, CONTRIBUTING and docs/: links, file tree, commands and configuration snippets match the code.

README's file tree is the fenced block with a line that begins with `pyproject.toml`: a path per line, two
blanks of indentation per level, then what is in it.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper.__main__ import main
from sweeper.compose import compose, read_config

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docker/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
README = (ROOT / "README.md").read_text()


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def code(page: Path) -> str:
    """Everything that a page sets as code: fenced, indented or inline; pictures left out."""
    text = page.read_text()
    rest = prose(text)
    inline = re.findall(r"`([^`\n]+)`", rest) + re.findall(r"^    (.+)$", rest, re.MULTILINE)
    return "\n".join([body for language, body in blocks(text) if language != "mermaid"] + inline)


def anchors(text: str) -> set[str]:
    """The anchors that headings get when the page is rendered."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_local_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", prose(text)) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{link}: no such file"
            if anchor:
                assert anchor in anchors(target.read_text()), f"{link}: no such heading"


def tree() -> Iterator[tuple[str, str]]:
    """Path and role of every line of README's file tree."""
    (text,) = (text for _, text in blocks(README) if re.search(r"^pyproject\.toml", text, re.MULTILINE))
    above: list[str] = []
    for line in text.splitlines():
        indent, name, role = re.fullmatch(r"( *)(\S+)(?:  +(.*))?", line).groups()  # type: ignore[union-attr]
        above[len(indent) // 2 :] = [name]
        yield "/".join(part.rstrip("/") for part in above), role or ""


def test_everything_in_the_file_tree_exists_and_every_file_has_a_role() -> None:
    for path, role in tree():
        assert (ROOT / path).exists(), f"{path} is in README's file tree alone"
        assert role or (ROOT / path).is_dir(), f"{path}: say what is in it"


def test_every_package_and_every_group_of_conf_is_in_the_file_tree() -> None:
    there = {path.parent.relative_to(ROOT) for path in (ROOT / "sweeper").glob("*/*.py")}
    there |= {path.relative_to(ROOT) for path in (ROOT / "conf").iterdir() if (path / ".").is_dir()}
    wanted = {str(path) for path in there if path.name != "__pycache__"}
    assert wanted <= {path for path, _ in tree()}


def test_every_module_outside_packages_is_in_the_file_tree_or_in_contributing() -> None:
    told = {path for path, _ in tree()} | set(code(ROOT / "CONTRIBUTING.md").splitlines())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "sweeper").glob("*.py")}
    assert modules - told == {"sweeper/__init__.py"}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    files = [str(path) for folder in ("sweeper", "tests") for path in (ROOT / folder).rglob("*.py")]
    named = set(re.findall(r"`([\w/]+\.py)`", page.read_text()))
    assert {name for name in named if not any(file.endswith(f"/{name}") for file in files)} == set()


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every `python -m sweeper ...` in `text`, up to a comment or two blanks."""
    text = re.sub(r"\s*\\\n\s*", " ", text)
    for command in re.findall(r"python -m sweeper\b((?:(?!  )[^`\n])*)", text):
        yield shlex.split(command, comments=True)


def all_commands() -> list[tuple[str, list[str]]]:
    found = [(ids(page), arguments) for page in PAGES for arguments in commands(code(page))]
    entries = sorted((ROOT / "conf").rglob("*.yaml"))
    return found + [(ids(path), arguments) for path in entries for arguments in commands(path.read_text())]


COMMANDS = [
    pytest.param(arguments, id=f"{page}: {' '.join(arguments)}") for page, arguments in all_commands()
]


def experiments() -> Iterator[tuple[str, str]]:
    """Name and text of every experiment that the documentation shows: its first line says how to run it."""
    for page in PAGES:
        for language, text in blocks(page.read_text()):
            named = re.match(r"# python -m sweeper \+experiment=(\w+)", text)
            if language == "yaml" and named:
                yield named[1], text


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own conf/ in the working directory, with every experiment of the documentation in it."""
    own = tmp_path / "conf"
    (own / "experiment").mkdir(parents=True)
    for name, text in experiments():
        (own / "experiment" / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return own


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `python -m sweeper ARGUMENTS --help` prints."""
    try:
        code = main([*arguments, "--help"])
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 0, f"no verb {arguments}"
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", COMMANDS)
def test_every_command_is_one_that_sweeper_knows(
    arguments: list[str], conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *rest = arguments or ["--help"]
    if verb in ("--help", "--version"):
        assert verb in shown(capsys)
    elif verb == "audit":
        read_config(compose(rest), sweeping=False)
    elif re.fullmatch(r"[a-z]+", verb) and verb != "run":
        usage = shown(capsys, verb)
        assert all(option in usage for option in rest if option.startswith("-"))
    elif not any(word.endswith("=...") for word in arguments):
        read_config(compose(rest if verb in ("run", "--cfg") else arguments))


def test_the_documented_experiments_are_the_ones_meant() -> None:
    assert "my_summaries" in dict(experiments())


SNIPPETS = [
    pytest.param(text, id=f"{ids(page)}: {text.splitlines()[0]}")
    for page in PAGES
    for language, text in blocks(page.read_text())
    if language == "yaml"
]


@pytest.mark.parametrize("text", SNIPPETS)
def test_every_yaml_snippet_composes(text: str, conf: Path) -> None:
    """A snippet is a whole experiment, or a part of one, which is laid over the default experiment here."""
    whole = re.match(r"# python -m sweeper (.*)", text)
    if whole:
        overrides = shlex.split(whole[1], comments=True)
    else:
        (conf / "part").mkdir()
        (conf / "part" / "snippet.yaml").write_text(f"# @package _global_\n{text}")
        overrides = ["+experiment=summarize", "+part=snippet"]
    config, space = read_config(compose(overrides))
    assert space.names or config.budget.trials == 1


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"(?:^|\s)make ([a-z-]+)", code(page)))
    assert used <= targets


def test_every_verb_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    everything = "\n".join(code(page) for page in PAGES)
    verbs = re.findall(r"^\s+python -m sweeper ([a-z]+)\b", shown(capsys), re.MULTILINE)
    assert verbs
    for verb in verbs:
        assert f"python -m sweeper {verb}" in everything, f"{verb} is in --help alone"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page.read_text()))
    assert {name for name in named if f"def {name}(" not in tests} == set()
