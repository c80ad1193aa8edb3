"""Finds the hospital whose updates oppose the others' while the federated model gets worse.

Directions alone accuse honest hospitals: near the end of a training, and between hospitals with different shares of a
label, honest updates are opposed, too. Updates are therefore compared only while the held-out loss is well above its
lowest, and an update counts as opposed only while the others agree. `benchmarks/lying_hospitals.py` measures how often
honest hospitals are accused, and how often the right one is found.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.messages.content import Update
from federated_health.ml.metrics import EvaluationSums
from federated_health.ml.networks import Weights
from federated_health.ml.targets import Target
from federated_health.names import FEDERATION
from federated_health.server.problem_log import ProblemLog
from federated_health.server.replies import AcceptedReply

logger = logging.getLogger(__name__)

SAMPLE = 4096
"""Largest number of weights per update that are compared."""

OPPOSED, AGREED = -0.1, 0.1
"""Mean cosine with most others below which an update is opposed, and mean cosine between these, which must be above."""

MIN_ROUNDS = 3
"""Number of rounds in a row with an opposed update from which a hospital is named."""

ADVICE = "--strategy fedmedian and --strategy trimmed resist single hospitals"


def note_opposed(
    updates: Sequence[AcceptedReply[Update]], sent: Weights, before: Mapping[str, int], problems: ProblemLog
) -> list[str]:
    """Count the hospitals whose updates of a round are opposed, and warn of those that are in MIN_ROUNDS in a row.

    Args:
        sent: weights from which the hospitals trained.
        before: number of rounds in a row until now, by hospital.

    Returns:
        The hospitals of this round.
    """
    if len(updates) < 2:
        return []
    positions = draw_positions(sent, SAMPLE)
    start = take(sent, positions)
    moves = np.array([take(reply.content.weights, positions) - start for reply in updates])
    opposed = [updates[place].hospital for place in find_opposed(moves)]
    for name in opposed:
        problems.opposed_updates[name] += 1
        if before.get(name, 0) + 1 == MIN_ROUNDS:
            text = describe(len(updates))
            problems.warn(name, text)
            logger.warning("%s: %s", name, text)
    return opposed


def describe(hospitals: int) -> str:
    """What is said of a hospital whose updates are opposed, in rounds with this number of updates."""
    if hospitals == 2:
        return "its updates and the other hospital's are opposed while the model gets worse; either may be the cause"
    return f"its updates are opposed to the others' while the model gets worse; {ADVICE}"


def draw_positions(weights: Weights, most: int) -> dict[str, npt.NDArray[np.int64]]:
    """Positions of at most so many of the weights, by array; the same in every round."""
    ends = np.cumsum([array.size for array in weights.values()])
    size = int(ends[-1])
    chosen = np.random.default_rng(0).choice(size, most, replace=False) if size > most else np.arange(size)
    parts = np.split(np.sort(chosen), np.searchsorted(np.sort(chosen), ends[:-1]))
    return {name: part - end + weights[name].size for name, part, end in zip(weights, parts, ends, strict=True)}


def take(weights: Weights, positions: Mapping[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.float64]:
    """The weights at these positions, as one vector."""
    return np.concatenate([weights[name].reshape(-1)[part] for name, part in positions.items()]).astype(np.float64)


def find_opposed(updates: npt.NDArray[np.float64]) -> list[int]:
    """Positions of opposed updates among at least two of a round, [hospitals, weights].

    The signs of the first eigenvector of the updates' cosines divide them into two groups. An update of the smaller one
    is opposed if its mean cosine with the larger one is below OPPOSED, and that between two of the larger one is above
    AGREED. Lengths do not matter, so that a long update sways nothing. Of two updates, both are opposed or neither is;
    of two groups of the same size, none.
    """
    number, lengths = len(updates), np.linalg.norm(updates, axis=1, keepdims=True)
    directions = np.divide(updates, lengths, out=np.zeros_like(updates), where=(lengths > 0) & np.isfinite(lengths))
    cosines = directions @ directions.T
    if number == 2:
        return [0, 1] if cosines[0, 1] < OPPOSED else []
    _, vectors = np.linalg.eigh(cosines)
    is_positive = vectors[:, -1] > 0
    is_larger = is_positive if is_positive.sum() * 2 > number else ~is_positive
    size = is_larger.sum()
    if size < 2 or size * 2 <= number:
        return []
    among = cosines[np.ix_(is_larger, is_larger)]
    agreement = (among.sum() - np.trace(among)) / (size * (size - 1))
    is_opposed = ~is_larger & (cosines[:, is_larger].mean(axis=1) < OPPOSED) & (agreement > AGREED)
    return np.flatnonzero(is_opposed).tolist()


def name_most_opposed(problems: ProblemLog) -> str:
    """Whose updates were most often opposed, as the end of a sentence about a run that failed; empty if nobody's."""
    if not problems.opposed_updates:
        return ""
    most = max(problems.opposed_updates.values())
    names = ", ".join(sorted(name for name, rounds in problems.opposed_updates.items() if rounds == most))
    rounds = "1 round" if most == 1 else f"{most} rounds"
    return f"while the model got worse, the updates of {names} were opposed to the others' in {rounds}; {ADVICE}"


def note_harm(
    target: Target[Any], counts: EvaluationSums, roc_auc: float | None, times: float, problems: ProblemLog
) -> None:
    """Warn of a federated model that is worse than chance, or else than in its best round.

    It is worse than chance if its ROC-AUC is below 0.5 by more than two standard errors: without a relation one is at
    most sqrt(1 / (6 n)), where n is the number of rows of the rarest class.

    Args:
        counts: of the final weights.
        times: held-out loss over that of the best round, if it is much higher; else 0.
    """
    rarest = max(1, min(target.rows_of_groups(counts).values(), default=1))
    if roc_auc is not None and roc_auc < 0.5 - 2 * (1 / (6 * rarest)) ** 0.5:
        what = f"the model's ROC-AUC of {roc_auc:.2f} is worse than chance"
    elif times:
        what = f"the model's held-out loss is {times:.1f} times that of its best round"
    else:
        return
    unknown = "no single hospital's updates stand out; several may be harmful together, or the training overfits"
    problems.warn(FEDERATION, f"{what}; {name_most_opposed(problems) or unknown}")
