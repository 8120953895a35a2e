"""Everything that an audit looks for in the text of rows; `types` and `lengths` are looked at in any case."""

from sweeper.config import Config
from sweeper.data.checks.amount import Amount
from sweeper.data.checks.answers import Copies, Unrelated
from sweeper.data.checks.bias import Bias
from sweeper.data.checks.calls import Calls
from sweeper.data.checks.duplicates import Duplicates
from sweeper.data.checks.entities import Entities
from sweeper.data.checks.labels import Balance, Spellings
from sweeper.data.checks.language import Languages, Spelling
from sweeper.data.checks.mislabeled import Mislabeled
from sweeper.data.checks.quality import Controls, Empty, Encoding, Markup
from sweeper.data.checks.shapes import Formats, LengthOutliers
from sweeper.data.checks.toxicity import Toxicity
from sweeper.data.findings import Check
from sweeper.data.personal import Personal


def checks(config: Config) -> list[Check]:
    """A fresh check of every kind that fits the task.

    Raises DataError if one needs a library or a model that isn't there.
    """
    kind, seed, options = config.task.kind, config.sweep.seed, config.data.audit
    found: list[Check] = [
        Amount(kind),
        Empty(kind),
        Duplicates(kind, options.near_duplicates),
        Encoding(),
        Controls(),
        Markup(),
        Formats(kind),
        LengthOutliers(kind),
        Languages(kind, seed),
        Spelling(seed),
        Personal(),
        Bias(kind, options.terms),
    ]
    if options.presidio:
        found.append(Entities(options.spacy, seed))
    if options.toxicity is not None:
        found.append(Toxicity(options.toxicity, seed))
    if kind == "generate":
        found += [Copies(), Unrelated()]
    if kind == "chat":
        found.append(Calls())
    if kind == "classify":
        found += [Balance(), Spellings(), Mislabeled(seed)]
    return found
