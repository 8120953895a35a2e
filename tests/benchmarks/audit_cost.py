"""What an audit costs, and how the cost grows with the rows: make bench-audit

    python -m tests.benchmarks.audit_cost --rows 1000 3000     # does it run at all?

Every size is audited in a process of its own, twice: the second run finds the result of the first. Rows have
about 500 characters; a twentieth nearly repeats another row, a hundredth has an e-mail address in it.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_WORDS = 3000


def write_rows(path: Path, count: int) -> None:
    """`count` rows of about 500 characters; the same ones for the same count."""
    rng = random.Random(count)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(3, 9))) for _ in range(_WORDS)]
    earlier = words[:70]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            if number % 20 == 19:
                chosen = [*earlier]
                chosen[rng.randrange(len(chosen))] = "changed"
            else:
                chosen = rng.choices(words, k=72)
            earlier = chosen
            text = " ".join(chosen)
            if number % 100 == 50:
                text += f" write to {rng.choice(words)}@{rng.choice(words)}.com"
            file.write(json.dumps({"input": text, "target": " ".join(rng.sample(chosen, 8))}) + "\n")


def measure(folder: Path, rows: Path) -> tuple[float, float]:
    """Seconds of an audit, and the largest resident size of its process in bytes."""
    command = [sys.executable, "-m", "sweeper", "audit", "+experiment=summarize", "data=file"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, f"data.path={rows}", f"sweep.folder={folder}", "data.audit.fail_on=never"],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"the audit of {rows} failed with exit code {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    sizes = parser.parse_args().rows
    print(f"{'rows':>8} {'seconds':>8} {'ms a row':>9} {'GiB':>6} {'again, s':>9}")
    for size in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            rows = Path(temporary) / "rows.jsonl"
            write_rows(rows, size)
            first, memory = measure(Path(temporary) / "sweeps", rows)
            again, _ = measure(Path(temporary) / "sweeps", rows)
        print(f"{size:>8} {first:>8.1f} {1000 * first / size:>9.2f} {memory / 2**30:>6.2f} {again:>9.1f}")


if __name__ == "__main__":
    main()
