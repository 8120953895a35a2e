"""Docstrings of installed packages as pairs of text and summary.

The packages are found and read, never imported. A docstring's first sentence is the summary, the rest
of it the document, both as running prose: without examples, markup and type declarations.
"""

import ast
import gc
import importlib.util
import os
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from sweeper.data.prose import split

STDLIB = "stdlib"
"""Names the standard library among packages."""

_SKIPPED_FOLDERS = frozenset(
    {
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "_vendor",
        "_vendored",
        "externals",
    }
)
_FILES_PER_TASK = 100

_SHORT_NAMES = {
    "numpy": ("np",),
    "pandas": ("pd",),
    "torch": ("pytorch",),
    "sklearn": ("scikit-learn", "scikit"),
    "sqlalchemy": ("sa",),
    "transformers": ("hugging face", "huggingface"),
}
"""What a package is also called in its own docstrings."""


@dataclass(frozen=True)
class Docstring:
    """One docstring, cleaned."""

    package: str
    file: str
    """Path below the folder that holds the package, with forward slashes."""
    name: str
    """Qualified name of what it describes, e.g. `json.decoder.JSONDecoder.decode`."""
    summary: str
    document: str
    text: str
    """Summary and document, with the package's own name masked."""


def installed(packages: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """The folders (or single files) of those `packages` that are installed, sorted by name."""
    found = {name: _roots(name) for name in sorted(set(packages))}
    return {name: roots for name, roots in found.items() if roots}


def harvest(packages: Sequence[str]) -> Iterator[Docstring]:
    """Every usable docstring of `packages`, in a fixed order; absent packages give none.

    A document that occurs more than once, be it under different summaries, is taken once.
    """
    seen: set[str] = set()
    for rows in _map(_harvest_files, _tasks(packages)):
        for row in rows:
            if row.document not in seen:
                seen.add(row.document)
                yield row


def files(packages: Sequence[str]) -> list[Path]:
    """The files that `packages` are harvested from, in the order of their harvest."""
    return [path for task in _tasks(packages) for path in task.files]


@dataclass(frozen=True)
class _Task:
    """Some files of one package."""

    package: str
    base: Path
    files: tuple[Path, ...]


def _tasks(packages: Sequence[str]) -> list[_Task]:
    tasks = []
    for package, roots in installed(packages).items():
        for root in roots:
            files = [root] if root.is_file() else sorted(root.rglob("*.py"))
            wanted = [
                path for path in files if _SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts[:-1])
            ]
            base = root if package == STDLIB else root.parent
            for start in range(0, len(wanted), _FILES_PER_TASK):
                tasks.append(_Task(package, base, tuple(wanted[start : start + _FILES_PER_TASK])))
    return tasks


def _map(function: Callable[[_Task], list[Docstring]], tasks: list[_Task]) -> Iterator[list[Docstring]]:
    """In order; in several processes where that saves more time than their start costs."""
    if len(tasks) < 4:
        yield from map(function, tasks)
        return
    # Parsing makes millions of objects and no garbage cycles: collecting takes a third of the time.
    with ProcessPoolExecutor(
        max_workers=min(os.cpu_count() or 1, 8), mp_context=get_context("spawn"), initializer=gc.disable
    ) as pool:
        yield from pool.map(function, tasks)


def _harvest_files(task: _Task) -> list[Docstring]:
    rows = []
    mask = _mask(task.package)
    for path in task.files:
        relative = path.relative_to(task.base)
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        for name, docstring in _docstrings(path):
            pair = split(docstring)
            if pair is not None:
                summary, document = pair
                text = mask.sub("[package]", f"{summary} {document}")
                qualified = f"{module}.{name}" if name else module
                rows.append(Docstring(task.package, relative.as_posix(), qualified, summary, document, text))
    return rows


def _roots(package: str) -> tuple[Path, ...]:
    if package == STDLIB:
        return (Path(sysconfig.get_path("stdlib")),)
    if not package.isidentifier():
        return ()
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return ()
    if spec is None:
        return ()
    if spec.submodule_search_locations:
        return tuple(sorted(Path(folder) for folder in spec.submodule_search_locations))
    return (Path(spec.origin),) if spec.has_location and spec.origin else ()


def _mask(package: str) -> re.Pattern[str]:
    names = (package, *_SHORT_NAMES.get(package, ()))
    return re.compile(rf"\b({'|'.join(map(re.escape, names))})\b", re.IGNORECASE)


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Qualified name within the module, and docstring, of the module, its classes and functions."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # foreign code: its invalid escapes are not ours to report
            module = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    # Only bodies of modules and classes are entered: walking every expression takes twice as long.
    nodes: list[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]] = [
        ("", module)
    ]
    while nodes:
        name, node = nodes.pop()
        docstring = ast.get_docstring(node, clean=False)
        if docstring:
            yield name, docstring
        if isinstance(node, ast.Module | ast.ClassDef):
            inner = [
                (f"{name}.{child.name}" if name else child.name, child)
                for child in node.body
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            nodes.extend(reversed(inner))
