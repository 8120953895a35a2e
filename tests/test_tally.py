from sweeper.data.checks.tally import Sample, Tally
from sweeper.data.findings import Batch
from tests.looking import Row, look


def test_a_tally_keeps_the_most_suspicious_and_counts_all():
    tally = Tally(3)
    for number in range(10):
        tally.add(str(number), "train", f"row\n{number}\x1b", number % 4 / 10)
    assert tally.count == 10
    assert tally.suspects == (("3", 0.3), ("7", 0.3), ("2", 0.2))
    assert tally.examples[0].text == "row 3<1b>"


class _Sampled:
    def __init__(self, sample):
        self.sample = sample

    def see(self, batch: Batch) -> None:
        self.sample.see(batch)

    def findings(self):
        return ()


def sampled(rows, size, batch, seed=0):
    check = _Sampled(Sample(size, seed, 20))
    look(check, rows, batch)
    return check.sample.rows


def test_a_sample_follows_from_the_seed_and_not_from_the_batches():
    rows = [Row(f"text {number} " * 9, "answer") for number in range(500)]
    drawn = sampled(rows, 50, 7)
    assert drawn == sampled(rows, 50, 500)
    assert drawn != sampled(rows, 50, 7, seed=1)
    assert len(drawn) == 50
    assert [int(row[0]) for row in drawn] == sorted(int(row[0]) for row in drawn)
    assert all(len(row[2]) <= 20 for row in drawn)
    assert 150 < sum(int(row[0]) for row in drawn) / 50 < 350


def test_fewer_rows_than_the_sample_holds_are_all_kept():
    assert [row[0] for row in sampled([Row("a"), Row("b")], 5, 1)] == ["0", "1"]
