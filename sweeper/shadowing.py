"""The folder that somebody works in is no place to import from: a `datasets.py` there is not the library's.

Python puts it before its own library and before what is installed. Nothing but `os` and `sys` is imported
here: whatever else was, might be a file of that folder already.
"""

import os
import sys


def leave_out(folder: str | os.PathLike[str] = ".") -> None:
    """Import nothing from `folder` because it comes first, here and in the processes that this one starts.

    Where it also stands behind the standard library, as the folder of a package that is installed from
    there, it stays: nothing is hidden from there.
    """
    first = sys.path.index(_LIBRARY) if _LIBRARY in sys.path else len(sys.path)
    sys.path[:first] = _without(folder, sys.path[:first])
    os.environ["PYTHONSAFEPATH"] = "1"
    if given := os.environ.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(_without(folder, given.split(os.pathsep)))


_LIBRARY = os.path.dirname(os.__file__)


def _without(folder: str | os.PathLike[str], places: list[str]) -> list[str]:
    """`places` without `folder`; an empty one is the working folder."""
    left_out = os.path.realpath(folder)
    return [place for place in places if os.path.realpath(place or ".") != left_out]
