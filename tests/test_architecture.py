"""The shape of the code: imports run one way, light modules stay light, expected errors are matched."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "sweeper").rglob("*.py"))
}

# From the bottom to the top; a module imports from its own line or from those above it. A name with a dot is
# a module that lies elsewhere than the rest of its package.
LAYERS = [
    {"errors", "failpoints", "preemption", "shadowing"},
    {"config", "comparison"},
    {"loading", "sentence"},
    {"messages"},
    {"events", "layout", "entry", "habits", "storage.writer"},
    {
        "space",
        "advice",
        "credentials",
        "inert",
        "storage",
        "journal",
        "garbage",
        "models",
        "study.differences",
        "study.objectives",
        "study.outcomes",
        "provenance",
    },
    {"models.modeling", "data", "metrics", "overrides"},
    {"relocation"},
    {"engines", "executors.places", "study.samplers", "study.pruners"},
    {"worker", "study.study", "tracking"},
    {"coordinator", "compose", "inputs", "gate", "stored", "inbox", "verbs.commands"},
    {"verdict", "observations"},
    {"terminal.plain", "terminal.tables"},
    {"terminal.screen"},
    {"executors", "report", "verbs.trials", "verbs.rows", "verbs.export", "verbs.retrain"},
    {"launch"},
    {"conclusion", "verbs.repair"},
    {"app"},
    {"__main__"},
]
LIGHT = (
    "errors", "config", "loading", "messages", "events", "layout", "entry", "space", "study.samplers",
    "study.pruners", "study.objectives", "study.outcomes", "study.study", "coordinator", "app", "launch",
    "verdict", "comparison", "sentence", "inbox", "verbs.commands", "verbs.trials", "verbs.export",
    "verbs.retrain", "verbs.repair", "verbs.rows", "credentials", "inert", "observations",
    "habits", "overrides", "advice",
)  # fmt: skip
HEAVY = ("torch", "transformers", "peft", "datasets", "mlflow", "accelerate", "sklearn")


def imports(module: str) -> set[str]:
    """The modules of sweeper that `module` imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] == "sweeper"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute here"
            base = node.module or ""
            if base.partition(".")[0] == "sweeper":
                names = {f"{base}.{alias.name}" for alias in node.names}
                found |= {name if name in MODULES else base for name in names}
    return found - {"sweeper"}


def layer(module: str) -> int:
    place = {name: level for level, names in enumerate(LAYERS) for name in names}
    package, *inner = module.removeprefix("sweeper.").split(".")
    level = place.get(".".join([package, *inner[:1]]), place.get(package))
    assert level is not None, f"give {module} its place in LAYERS"
    return level


def test_imports_run_one_way() -> None:
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        if module != "sweeper"
        for other in imports(module)
        if layer(other) > layer(module)
    ]
    assert wrong == []


def test_imports_go_in_no_circle() -> None:
    order = TopologicalSorter({module: imports(module) for module in MODULES}).static_order()
    assert set(order) >= set(MODULES)


def test_packages_import_each_other_in_no_circle() -> None:
    between: dict[str, set[str]] = {}
    for module in MODULES.keys() - {"sweeper"}:
        package = module.split(".")[1]
        others = {other.split(".")[1] for other in imports(module)} - {package}
        between.setdefault(package, set()).update(others)
    assert set(TopologicalSorter(between).static_order()) == between.keys()


def test_light_modules_leave_heavy_libraries_out() -> None:
    names = ", ".join(f"sweeper.{name}" for name in LIGHT)
    code = f"import sys, {names}; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.name)
def test_an_expected_error_is_matched_by_its_message(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    raises = [
        call
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("raises", "warns")
    ]
    silent = [call.lineno for call in raises if "match" not in {keyword.arg for keyword in call.keywords}]
    assert silent == [], f"{path.name}: pytest.raises without match="
