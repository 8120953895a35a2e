"""A file too large to be loaded: what its audit costs in time, memory and room for temporary files.

    python -m tests.benchmarks.audit_size --gigabytes 0.01     # does it run at all?
    python -m tests.benchmarks.audit_size --gigabytes 1 --format csv --folder /var/tmp

Rows have about 500 characters, a third of them in scripts other than Latin. Every 20th nearly repeats the row
before it, others have an e-mail address, broken encoding, tags, or no answer. The file is removed at the end.
"""

import argparse
import csv
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ALPHABETS = {
    "latin": "abcdefghijklmnopqrstuvwxyz",
    "umlauts": "abcdefghijklmnoprstuvwzäöüßéèñç",
    "cyrillic": "абвгдежзийклмнопрстуфхцчшщыьэюя",
    "greek": "αβγδεζηθικλμνξοπρστυφχψω",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "devanagari": "अआइईउऊकखगघचछजझटठडढतथदधनपफबभमयरलवशषसह",
    "han": "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生",
}
_WORDS = 3000


def rows() -> Iterator[tuple[str, str]]:
    """Inputs and answers without end, always the same ones."""
    rng = random.Random(0)
    words = {
        name: ["".join(rng.choices(letters, k=rng.randint(3, 9))) for _ in range(_WORDS)]
        for name, letters in _ALPHABETS.items()
    }
    scripts = ["latin"] * 12 + [name for name in _ALPHABETS if name != "latin"]
    before = words["latin"][:70]
    for number in itertools.count():
        if number % 20 == 19:
            chosen = [*before]
            chosen[number % len(chosen)] = "changed"
        else:
            chosen = rng.choices(words[scripts[number % len(scripts)]], k=72)
        before = chosen
        text, answer = " ".join(chosen), " ".join(chosen[5:50:6])
        match number % 100:
            case 50:
                text += f" write to {words['latin'][number % _WORDS]}@mail.example.com"
            case 51:
                text += " cafÃ© au lait"
            case 52:
                text = f"<p>{text}</p>"
            case 53:
                answer = ""
        yield text, answer


def write(path: Path, size: int) -> int:
    """Fill `path`, a .jsonl or .csv file, with `size` bytes; the rows written."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        if path.suffix == ".csv":
            table.writerow(["input", "target"])
        for number, (text, answer) in enumerate(rows(), start=1):
            if path.suffix == ".csv":
                table.writerow([text, answer])
            else:
                file.write(json.dumps({"input": text, "target": answer}, ensure_ascii=False) + "\n")
            if number % 1000 == 0 and file.tell() >= size:
                return number
    raise AssertionError("rows() ends nowhere")


@dataclass
class Cost:
    """Of an audit; bytes, at most."""

    seconds: float = 0.0
    resident: int = 0
    own: int = 0
    """Of the resident size what is no mapped file: the system can't take it back. 0: can't be told."""
    temporary: int = 0
    """Files."""


def measure(rows: Path, folder: Path) -> Cost:
    """Audit a file in a process of its own."""
    command = [sys.executable, "-m", "sweeper", "audit", "+experiment=summarize", "data=file"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, f"data.path={rows}", f"sweep.folder={folder}", "data.audit.fail_on=never"],
        stdout=subprocess.DEVNULL,
    )
    cost, over = Cost(), threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            cost.temporary = max(cost.temporary, _temporary(process.pid))
            cost.own = max(cost.own, _own(process.pid))

    watching = threading.Thread(target=watch)
    watching.start()
    _, status, usage = os.wait4(process.pid, 0)
    over.set()
    watching.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"the audit of {rows} failed with exit code {process.returncode}")
    cost.resident = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cost.seconds = time.perf_counter() - started
    return cost


def _own(process: int) -> int:
    """Resident bytes of a process that are no file; 0 where that can't be told."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


def _temporary(process: int) -> int:
    """Bytes of files that a process holds open without a name; 0 where that can't be told."""
    size = 0
    try:
        for link in Path(f"/proc/{process}/fd").iterdir():
            size += link.stat().st_size if os.readlink(link).endswith("(deleted)") else 0
    except OSError:
        pass
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--format", choices=["jsonl", "csv"], default="jsonl")
    parser.add_argument("--folder", type=Path, default=None, help="for the file and the audit of it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / f"rows.{options.format}"
        count = write(path, round(options.gigabytes * 1e9))
        print(f"{path.stat().st_size / 1e9:.2f} GB, {count:,} rows", flush=True)
        cost = measure(path, Path(folder) / "sweeps")
        print(f"{cost.seconds:.0f} s, {cost.temporary / 1e9:.2f} GB of temporary files")
        print(f"{cost.resident / 2**30:.2f} GiB of memory, {cost.own / 2**30:.2f} of it no mapped file")


if __name__ == "__main__":
    main()
