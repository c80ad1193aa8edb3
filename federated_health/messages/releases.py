"""What may leave a hospital, by name, in plain words: one list for run terms, policies, the ledger and explanations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """One kind of values that a hospital sends.

    Attributes:
        words: what it is, for a reader who knows neither the code nor machine learning.
        may_be_off: whether a hospital's policy may switch it off and still take part.
        counts_patients: whether it is counts of patients, which a minimum cell applies to.
    """

    words: str
    may_be_off: bool = False
    counts_patients: bool = False


RELEASES: dict[str, Release] = {
    "name": Release("the hospital's name, and the columns, units and codes of the task"),
    "row-counts": Release("how many training and held-out rows it has"),
    "column-sums": Release("per measurement: how many training rows have it, and the sum and sum of squares"),
    "associations": Release("per column: its correlation with the label, two decimals", may_be_off=True),
    "class-counts": Release("how many training rows are of each class", counts_patients=True),
    "weights": Release("the network's weights after local training, one set per round"),
    "training-loss": Release("per round: the mean loss over the training rows"),
    "round-evaluation": Release(
        "per round: how the model's predictions compare with the outcomes of the held-out patients, as counts",
        may_be_off=True,
        counts_patients=True,
    ),
    "final-evaluation": Release("once: the same counts for the final model", counts_patients=True),
    "roc-auc": Release("once: the exact ROC-AUC over the held-out patients", may_be_off=True, counts_patients=True),
    "scores": Release("once: scores of the held-out patients, averaged over groups of at least 5", may_be_off=True),
    "threshold-scores": Release(
        "once: scores of the training patients, averaged over groups of at least 5", may_be_off=True
    ),
    "appraisal": Release(
        "once: what the hospital gains by joining, and how much the model depends on each column", may_be_off=True
    ),
    "error": Release("in place of any of these: why there is no answer, without values"),
}
