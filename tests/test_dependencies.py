"""Dependencies: floors have reasons, advisories are explained, and so are exceptions from security rules."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()
REQUIRED = tomllib.loads(PROJECT)["project"]["dependencies"]
EXACT = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


@pytest.mark.parametrize("line", REQUIRED)
def test_a_floor_has_its_reason_and_the_exact_version_is_above_it(line):
    found = re.search(rf'(#.*\n)?  "{re.escape(line)}",(.*)', PROJECT)
    assert "#" in found[0], "say in pyproject.toml what it is for"
    wanted = Requirement(line)
    exact = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in EXACT.items()}
    assert wanted.specifier.contains(exact[wanted.name].partition("+")[0])


def test_what_is_imported_is_required():
    """What comes with another package may go with it, but for parts of one that is required."""
    parts = {"pydantic_core": "pydantic", "spacy": "presidio-analyzer"}
    project = tomllib.loads(PROJECT)["project"]
    optional = [line for lines in project["optional-dependencies"].values() for line in lines]
    known = {Requirement(line).name.lower() for line in [*REQUIRED, *optional]}
    nodes = [
        node for path in (ROOT / "sweeper").rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))
    ]
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in named} - set(sys.stdlib_module_names) - {"sweeper"}
    providers = packages_distributions()
    unknown = set()
    for package in packages:
        owners = [parts.get(package, package), *providers.get(package, ())]
        if known.isdisjoint(re.sub(r"[-_.]+", "-", owner).lower() for owner in owners):
            unknown.add(package)
    assert unknown == set()


def test_every_advisory_is_explained():
    named = set(re.findall(r"CVE-\d+-\d+", PROJECT))
    assert named
    assert named == set(re.findall(r"CVE-\d+-\d+", SECURITY))


def test_every_exception_from_a_security_rule_has_a_reason():
    silent = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("sweeper", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(r"# noqa: [A-Z0-9, ]*\bS\d+[A-Z0-9, ]*$", line)
    ]
    assert silent == []
