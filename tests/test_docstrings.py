import sys

from sweeper.data.docstrings import harvest, installed

PAIR = '"""{}\n\n{}\n"""\n'
REST = "This is said at length, so that {} is known well enough to be told apart from all the others."


def source(summary, what):
    return PAIR.format(summary, REST.format(what))


def make(folder, name, files):
    for path, text in files.items():
        file = folder / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_packages_are_read_in_order_and_never_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    method = f"class Inner:\n    def method(self):\n        {source('Do what a method does.', 'method')}"
    make(
        tmp_path,
        "zoo",
        {
            "__init__.py": source("Keep all kinds of animals.", "Zoo, my zoo,")
            + "raise SystemExit('imported')\n",
            "b.py": method,
            "a.py": "async def go():\n    " + source("Go to the other side.", "go"),
            "broken.py": "def (",
            "latin.py": b"# -*- coding: utf-8 -*-\n'\xe9'".decode("latin-1"),
            "tests/test_a.py": source("Test what is tested here.", "test"),
            "copy.py": "def again():\n    " + source("Go to another side again.", "go"),
        },
    )
    (tmp_path / "single.py").write_text(source("Hold everything in one file.", "single"))
    rows = list(harvest(["zoo", "absent", "single", "zoo"]))
    assert [(row.package, row.file, row.name) for row in rows] == [
        ("single", "single.py", "single"),
        ("zoo", "zoo/__init__.py", "zoo"),
        ("zoo", "zoo/a.py", "zoo.a.go"),
        ("zoo", "zoo/b.py", "zoo.b.Inner.method"),
    ]
    assert "Zoo, my zoo," in rows[1].document
    assert "zoo" not in rows[1].text.lower()
    assert "[package], my [package]," in rows[1].text
    assert rows == list(harvest(["single", "zoo"]))


def test_what_a_package_is_also_called_is_masked(tmp_path, monkeypatch):
    # The real one is not looked at: this folder comes first on the path.
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    make(tmp_path, "pandas", {"__init__.py": source("Pandas reads any table there is.", "pd.read")})
    (row,) = harvest(["pandas"])
    assert row.text.startswith(
        "[package] reads any table there is. This is said at length, so that [package].read"
    )


def test_only_installed_packages_are_found():
    assert set(installed(["stdlib", "numpy", "no_such_package", "not a name", "sys", "numpy.linalg"])) == {
        "numpy",
        "stdlib",
    }


def test_many_files_are_read_by_several_processes_in_the_same_order(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    files = {f"m{i:03}.py": source(f"Do the thing with number {i}.", f"number {i}") for i in range(350)}
    make(tmp_path, "many", files)
    rows = list(harvest(["many"]))
    assert [row.file for row in rows] == [f"many/{name}" for name in sorted(files)]
