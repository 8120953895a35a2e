import pytest

from sweeper.data.prose import split

NUMPY = """Return the *number* of rows, e.g. Three. Then the :class:`~a.b.Table` is closed for good.

    Parameters
    ----------
    table : Table, default=None
        The table whose rows are counted, see `the guide <https://example.org>`_.

    Returns
    -------
    n : int
        How many there are.

    Examples
    --------
    >>> rows(t)
    3

    See Also
    --------
    columns : The other way round.

    Notes
    -----
    Counting is slow [1]_, for instance::

        while True: count()

    .. math:: x^2

    .. note:: Empty rows count.
    """

GOOGLE = """Open a file for reading and
    writing.

    ```python
    open("file")
    ```

    Args:
        path (str, *optional*, defaults to `"a"`): Where the **file** is.
        *modes (`list[str]`): How to open it.

    Returns:
        `File`: the opened file, to be closed by the caller.

    Example:
        not this line

    Raises:
        OSError: if there is no such file.
    """

REST = """Send a message to every listener.

    :param message: what they are told, in their own language
    :type message: str
    :return: how many have heard it, not counting the sender

    +-----+-----+
    | a   | b   |
    +-----+-----+
    """


@pytest.mark.parametrize(
    ("docstring", "summary", "document"),
    [
        (
            NUMPY,
            "Return the number of rows, e.g. Three.",
            "Then the Table is closed for good. table: The table whose rows are counted, see the guide. "
            "Returns: n: How many there are. Counting is slow, for instance. Empty rows count.",
        ),
        (
            GOOGLE,
            "Open a file for reading and writing.",
            "path: Where the file is. *modes: How to open it. Returns: File: the opened file, to be closed "
            "by the caller. Raises: OSError: if there is no such file.",
        ),
        (
            REST,
            "Send a message to every listener.",
            "message: what they are told, in their own language. Returns: how many have heard it, "
            "not counting the sender.",
        ),
    ],
)
def test_markup_types_and_examples_go_and_prose_stays(docstring, summary, document):
    assert split(docstring) == (summary, document)


LONG = "The rest of it says at some length what this function does and when it should be called."


@pytest.mark.parametrize(
    "docstring",
    [
        "",
        "Only a summary that has nothing after it, however long it may be made by adding words to it.",
        f"Short.\n\n{LONG}",
        f"{'A first sentence that goes on ' * 10}.\n\n{LONG}",
        f"Count the rows of a table.\n\nCount the rows of a table. {LONG}",
        f"Args:\n    path: Where the file lies.\n    mode: {LONG}",
        f"Count the rows of a table.\n\n{'1.5 2.5 ' * 30}",
        f"x_1 = a[0] + b[1] * (c - 2)\n\n{LONG}",
        ">>> code()\n1\n",
    ],
)
def test_what_is_no_honest_pair_gives_none(docstring):
    assert split(docstring) is None


def test_a_summary_without_a_full_stop_ends_with_its_paragraph():
    assert split(f"Count the rows of a table\n\n{LONG}") == ("Count the rows of a table", LONG)


def test_what_a_doctest_prints_goes_with_it_up_to_the_next_empty_line():
    printed = "A line that a doctest has printed, which nobody has written as a text."
    assert split(f"Count the rows of a table.\n\n>>> code()\n{printed}\n\n{LONG}") == (
        "Count the rows of a table.",
        LONG,
    )
