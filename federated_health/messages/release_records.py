"""The values in messages that belong to each release (see `releases`)."""

from fnmatch import fnmatchcase
from functools import lru_cache

from federated_health.messages.content import BENEFIT, DISCLOSURE, FINAL, REGISTRATION, THRESHOLD
from federated_health.messages.releases import RELEASES

_SUMS = (
    *("metrics/true_positives", "metrics/false_positives", "metrics/true_negatives", "metrics/false_negatives"),
    *("metrics/confusion", "metrics/loss_sum", "metrics/squared_error_sum", "metrics/absolute_error_sum"),
    *("metrics/label_sum", "metrics/label_squares", "metrics/prediction_sum", "metrics/prediction_squares"),
    *("metrics/product_sum", "metrics/observed_sum", "metrics/expected_sum", "metrics/log_sum"),
)
_SCORES = ("metrics/positives*", "metrics/negatives*", "metrics/predictions")
_JOIN = (
    *("metadata/hospital", "metadata/terms", "metadata/process", "metadata/accepted-terms"),
    "metadata/server-challenge",
)

VALUES: dict[str, tuple[str, tuple[str, ...]]] = {
    "name": ("*", (*_JOIN, "hospital/name", "envelope/metadata", "offers/content", "metrics/last-round")),
    "error": ("*", ("error/*", "metadata/unfit")),
    "row-counts": (
        "*",
        ("metrics/train-examples", "metrics/test-examples", "metrics/num-examples", "metrics/examples"),
    ),
    "column-sums": (REGISTRATION, ("metrics/count", "metrics/total", "metrics/squares")),
    "associations": (REGISTRATION, ("metrics/associations",)),
    "class-counts": (REGISTRATION, ("metrics/class-counts",)),
    "weights": ("train", ("arrays/*",)),
    "training-loss": ("train", ("metrics/train-loss",)),
    "round-evaluation": ("train evaluate", _SUMS),
    "final-evaluation": (FINAL, (*_SUMS, "metrics/noisy-counts")),
    "roc-auc": (FINAL, ("metrics/roc_auc",)),
    "scores": (FINAL, _SCORES),
    "subgroups": (FINAL, ("metrics/subgroups",)),
    "threshold-scores": (THRESHOLD, _SCORES),
    "masked": ("query.masked", ("vector/content",)),
    "appraisal": (
        BENEFIT,
        (
            *("metrics/own-*", "metrics/federated-*", "metrics/difference-*"),
            *("metrics/importance", "metrics/observed", "metrics/recalibration-*"),
        ),
    ),
}
"""Release -> types of messages, separated by spaces, and `record/name` of its values in them; `*` is any text."""


@lru_cache(maxsize=4096)
def release_of(kind: str, record: str, name: str) -> str | None:
    """The release to which a value of a message belongs; None if no release explains it.

    Args:
        kind: type of the message, or of the metadata that begins a stream.
        record, name: of the value, as the egress ledger has them.
    """
    if record == DISCLOSURE:
        return name if name in RELEASES else None
    for release, (kinds, keys) in VALUES.items():
        is_of_kind = kinds == "*" or kind in kinds.split()
        if is_of_kind and any(fnmatchcase(f"{record}/{name}", key) for key in keys):
            return release
    return None
