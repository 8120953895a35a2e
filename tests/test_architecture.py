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

# From the bottom to the top; a module imports from its own line or from those above it.
LAYERS = [
    {"errors", "failpoints"},
    {"config", "comparison"},
    {"loading", "sentence"},
    {"messages"},
    {"events", "layout", "entry", "writer"},
    {
        "space",
        "lock",
        "credentials",
        "database",
        "inert",
        "disk",
        "patience",
        "postgres",
        "journal",
        "adapters",
        "pretrained",
        "objectives",
        "outcomes",
        "provenance",
    },
    {"modeling", "data", "metrics"},
    {"engines", "samplers", "pruners"},
    {"worker", "study", "tracking"},
    {"coordinator", "compose", "inputs", "gate", "stored", "inbox", "commands"},
    {"verdict"},
    {"tables"},
    {"screen"},
    {"executors", "report", "trials", "export", "retrain"},
    {"launch"},
    {"conclusion", "repair"},
    {"app"},
    {"__main__"},
]
LIGHT = (
    "errors", "config", "loading", "messages", "events", "layout", "entry", "space", "samplers", "pruners",
    "study", "coordinator", "app", "launch", "verdict", "comparison", "sentence", "objectives", "outcomes",
    "inbox", "commands", "trials", "export", "retrain", "repair", "credentials", "inert",
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
    part = module.split(".")[1]
    levels = [level for level, parts in enumerate(LAYERS) if part in parts]
    assert levels, f"give sweeper/{part} its place in LAYERS"
    return levels[0]


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
