"""Suspected label errors, for task.kind=classify: rows whose text speaks for another label."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.data.checks.tally import Sample
from sweeper.data.findings import MOST_EXAMPLES, Batch, Example, Finding, excerpt, printable
from sweeper.data.personal import masked_part

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_ROWS = 20_000
"""Rows that are looked at; of more, an even sample."""

_CHARACTERS = 2000
_FEATURES = 2**16
_FOLDS = 5
_WORK = 300_000
"""Rows times classes: what a linear model is fitted to in some 20 seconds on one core."""
_FEWEST = 100
_MOST_SUSPECTS = 1000
_SKILL = 0.4
"""Part of the way from the commonest label to all right that the model must come: a worse one suspects
whatever it does not understand."""

# Words, and single characters of scripts without spaces; pairs of neighbours are features too.
_TOKEN = r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]+"  # noqa: S105 - of a text


class Mislabeled:
    """Confident learning (Northcutt et al., arXiv 1911.00068, in cleanlab) on bags of words.

    The probability of every label is that of a logistic regression which has not seen the row (five folds).
    A row is suspected where both of cleanlab's filters agree, and ranked by how improbable its own label
    is. Abstains where classes are too many or too small for that,
    and where words do not tell the labels.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._sample = Sample(MOST_ROWS, seed, _CHARACTERS)

    def see(self, batch: Batch) -> None:
        self._sample.see(batch)

    def findings(self) -> Sequence[Finding]:
        """The rows whose words speak for another label; nothing where words do not tell the labels."""
        rows = [row for row in self._sample.rows if row[2].strip() and row[3].strip()]
        counts = Counter(row[3].strip() for row in rows)
        names = sorted(label for label, count in counts.items() if count >= _FOLDS)
        if len(names) < 2 or len(names) > _WORK // (20 * len(names)):
            return ()
        rows = [row for row in rows if counts[row[3].strip()] >= _FOLDS]
        rows = _thinned(rows, _WORK // len(names), self._seed)
        counts = Counter(row[3].strip() for row in rows)
        names = sorted(label for label, count in counts.items() if count >= _FOLDS)
        rows = [row for row in rows if counts[row[3].strip()] >= _FOLDS]
        if len(rows) < _FEWEST or len(names) < 2:
            return ()
        import numpy as np

        codes = {label: code for code, label in enumerate(names)}
        given = np.array([codes[row[3].strip()] for row in rows])
        probabilities = _cross_validated([row[2] for row in rows], given, len(names), self._seed)
        usual = float(np.bincount(given).max() / len(given))
        right = float((probabilities.argmax(axis=1) == given).mean())
        if right - usual < _SKILL * (1 - usual):
            return ()
        order = _suspected(given, probabilities)
        if not order:
            return ()
        return (self._finding(rows, names, given, probabilities, order),)

    def _finding(
        self,
        rows: Sequence[tuple[str, str, str, str]],
        names: Sequence[str],
        given: "npt.NDArray[np.int64]",
        probabilities: "npt.NDArray[np.float64]",
        order: Sequence[int],
    ) -> Finding:
        best = probabilities.argmax(axis=1)
        right = float((best == given).mean())

        def example(place: int) -> Example:
            row, split, text, label = rows[place]
            reads = f"labelled {label.strip()[:40]!r}, reads like {names[best[place]][:40]!r}"
            said = f"{reads}: {masked_part(text, 0, 200)}"
            return Example(row, split, printable(excerpt(said)))

        return Finding(
            "suspected label errors",
            "warning",
            f"{len(order):,} of {len(rows):,} rows read like another label than theirs, by a model of word "
            f"counts that tells {right:.0%} of the rows right",
            "Read them in the review queue, the first ones first: correct the label, or drop the row.",
            len(order),
            len(rows),
            tuple(example(place) for place in order[:MOST_EXAMPLES]),
            tuple(
                (rows[place][0], float(1 - probabilities[place, given[place]]))
                for place in order[:_MOST_SUSPECTS]
            ),
            {"share told right": right},
        )


def _thinned(rows: list[tuple[str, str, str, str]], most: int, seed: int) -> list[tuple[str, str, str, str]]:
    import numpy as np

    if len(rows) <= most:
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), most, replace=False)
    return [rows[place] for place in sorted(chosen)]


def _cross_validated(
    texts: Sequence[str], given: "npt.NDArray[np.int64]", classes: int, seed: int
) -> "npt.NDArray[np.float64]":
    """[rows, classes] probabilities, each by a model that was fitted without the row."""
    import numpy as np
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import StratifiedKFold

    words = HashingVectorizer(
        n_features=_FEATURES, ngram_range=(1, 2), token_pattern=_TOKEN, alternate_sign=False, norm=None,
        dtype=np.float32,
    )  # fmt: skip
    features = TfidfTransformer(sublinear_tf=True).fit_transform(words.transform(texts))
    probabilities = np.zeros((len(texts), classes))
    for fitted, held_out in StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(features, given):
        # Always ten passes: the same work whatever the rows, and no warning that more would help.
        model = SGDClassifier(loss="log_loss", alpha=1e-5, max_iter=10, tol=None, random_state=seed)
        model.fit(features[fitted], given[fitted])
        probabilities[held_out] = model.predict_proba(features[held_out])
    return probabilities


def _suspected(given: "npt.NDArray[np.int64]", probabilities: "npt.NDArray[np.float64]") -> Sequence[int]:
    """Rows in the order of suspicion."""
    from cleanlab.filter import find_label_issues

    found = find_label_issues(
        given, probabilities, filter_by="both", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    return [int(place) for place in found]
