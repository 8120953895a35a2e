"""How much padding is left in the passes of the engine `packed`: a count, the same on every machine.

    python -m tests.benchmarks.packed_padding

Rows are docstrings of installed packages as a summarizing sweep has them, and rows whose lengths are spread
far more (log-normal, a few of them very long). `alone` is a batch of one trial, padded to its longest row, as
the engine `trainer` has it; `packed K` are the passes of a cycle of K trials.
"""

import argparse
import random
from collections.abc import Callable, Sequence

from sweeper.data.docstrings import harvest
from sweeper.engines.batches import Row
from sweeper.engines.packed.cycle import Share, passes
from sweeper.models.pretrained import load_tokenizer, resolve
from tests import tiny

_CYCLES = 50
_PACKAGES = ("stdlib", "numpy", "pandas", "scipy")


def docstrings(most: int) -> list[int]:
    """Tokens of prompt and answer, the prompt cut so that both have `most` tokens at most."""
    tokenizer = load_tokenizer(resolve(tiny.config().model))
    found = []
    for one in harvest(_PACKAGES):
        prompt, answer = (len(tokenizer(text)["input_ids"]) for text in (one.document, one.summary))
        found.append(min(most, prompt + answer + 8))
    return found


def skewed(most: int) -> list[int]:
    """A median of 60 tokens, and every tenth row of more than 400."""
    draw = random.Random(0)
    return [min(most, max(8, round(draw.lognormvariate(4.1, 1.5)))) for _ in range(20_000)]


def padding(lengths: Sequence[int], slots: int, batch: int, budget: int) -> tuple[float, float]:
    """Share of padding in all passes of some cycles, and passes per cycle."""
    draw = random.Random(1)
    real = whole = count = 0
    for _ in range(_CYCLES):
        rows = [[_row(length) for length in draw.sample(lengths, batch)] for _ in range(slots)]
        shares = [Share(slot, some, range(batch), 0.0, 0.0) for slot, some in enumerate(rows)]
        for one in passes(shares, budget, "causal"):
            sizes = [
                len(shares[i].rows[place].input_ids) for i, place in zip(one.shares, one.places, strict=True)
            ]
            real, whole, count = real + sum(sizes), whole + len(sizes) * max(sizes), count + 1
    return 1 - real / whole, count / _CYCLES


def _row(length: int) -> Row:
    return Row("", "", "", range(length), range(length), (), -1)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.packed_padding", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--budget", type=int, default=8192)
    arguments = parser.parse_args()
    sources: dict[str, tuple[Callable[[int], list[int]], int]] = {
        "docstrings, 68 tokens at most": (docstrings, 68),
        "docstrings, 512": (docstrings, 512),
        "skewed, 2,048": (skewed, 2048),
    }
    slots = (1, 4, 8, 16, 32)
    print("share of padding (passes per cycle)")
    print(f"{'rows':32}{'alone':>8}" + "".join(f"{f'packed {many}':>16}" for many in slots))
    for name, (read, most) in sources.items():
        lengths = read(most)
        alone, _ = padding(lengths, 1, arguments.batch, 1 << 30)
        print(f"{name:32}{alone:8.1%}", end="")
        for many in slots:
            share, count = padding(lengths, many, arguments.batch, arguments.budget)
            print(f"{f'{share:.1%} ({count:.1f})':>16}", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
