"""Reading of replies in which a hospital suppressed something (see `hospital.disclosure`), which most hospitals do not.

What is absent becomes what stands for nothing, such as sums over no rows, so that the reply is then read as any other.
"""

from typing import Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from federated_health.messages.content import (
    DISCLOSURE,
    FINAL_EVALUATION,
    NUM_EXAMPLES,
    REASONS,
    ROUND_EVALUATION,
    THRESHOLD_SCORES,
)
from federated_health.messages.records import METRICS, MalformedMessageError, write_counts
from federated_health.ml.targets import Target


def read_suppressed(content: RecordDict, releases: tuple[str, ...], target: Target[Any] | None) -> dict[str, str]:
    """What is suppressed in a reply that may hold these releases, and why; completes the reply.

    Args:
        target: of a reply with an evaluation.

    Raises:
        MalformedMessageError: it suppresses other releases, or for unknown reasons.
    """
    record, metrics = content[DISCLOSURE], content.get(METRICS)
    is_known = isinstance(record, ConfigRecord) and set(record) <= set(releases)
    if not is_known or not all(reason in REASONS for reason in record.values()):
        raise MalformedMessageError(f"its {DISCLOSURE}: expected releases of this reply, and reasons that are known")
    if isinstance(metrics, MetricRecord):
        absent: dict[str, Any] = {"positives": [], "negatives": []} if THRESHOLD_SCORES in record else {}
        if target is not None and not {ROUND_EVALUATION, FINAL_EVALUATION}.isdisjoint(record):
            absent |= {NUM_EXAMPLES: 0, **write_counts(target.no_sums)}  # Flower expects the same of every hospital
        metrics.update({key: value for key, value in absent.items() if key not in metrics})
    return {name: str(reason) for name, reason in record.items()}
