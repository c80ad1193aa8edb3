"""Finds the hospital whose updates oppose the others' while the federated model gets worse.

Directions alone accuse honest hospitals: near the end of a training, and between hospitals with different shares of a
label, honest updates are opposed, too. Updates are therefore compared only while the held-out loss is well above its
lowest, and an update counts as opposed only while the others agree. `benchmarks/lying_hospitals.py` measures how often
honest hospitals are accused, and how often the right one is found.
"""

import logging
from collections.abc import Mapping, Sequence

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

MAX_SMALL = 16
"""Largest number of updates of which each is compared with the median of the others, rather than of all."""

OPPOSED, AGREED = -0.2, 0.2
"""Cosine with the median of the others below which an update is opposed, and mean cosine above which these agree."""

MIN_ROUNDS = 3
"""Number of rounds with an opposed update from which a hospital is named."""

ADVICE = "--strategy fedmedian and --strategy trimmed resist single hospitals"


def note_opposed(updates: Sequence[AcceptedReply[Update]], sent: Weights, problems: ProblemLog) -> None:
    """Count the hospitals whose updates of a round are opposed, and warn of those that are in MIN_ROUNDS rounds.

    Args:
        sent: weights from which the hospitals trained.
    """
    if len(updates) < 2:
        return
    positions = draw_positions(sent, max(SAMPLE // (1 + len(updates) // MAX_SMALL), 64))
    start = take(sent, positions)
    names = [reply.hospital for reply in updates]
    for place in find_opposed(np.array([take(reply.content.weights, positions) - start for reply in updates])):
        problems.opposed_updates[names[place]] += 1
        if problems.opposed_updates[names[place]] == MIN_ROUNDS:
            text = describe(len(updates))
            problems.warn(names[place], text)
            logger.warning("%s: %s", names[place], text)


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
    """Positions of opposed updates among those of a round, [hospitals, weights].

    An update is opposed if its cosine with the coordinate-wise median of the others is below OPPOSED, while the mean
    cosine between two of these is above AGREED. Of two updates, both are opposed or none.
    """
    with np.errstate(all="ignore"):  # a scale that overflows is no direction
        directions = np.nan_to_num(updates / np.linalg.norm(updates, axis=1, keepdims=True), posinf=0.0, neginf=0.0)
    number = len(updates)
    cosines = directions @ directions.T
    median = np.median(updates, axis=0)
    opposed = []
    for i in range(number):
        if number <= MAX_SMALL:
            median = np.median(np.delete(updates, i, axis=0), axis=0)
        length = np.linalg.norm(median)
        others = np.delete(np.delete(cosines, i, axis=0), i, axis=1)
        pairs = others[np.triu_indices(number - 1, 1)]
        agree = number == 2 or pairs.mean() > AGREED
        if length > 0 and directions[i] @ median / length < OPPOSED and agree:
            opposed.append(i)
    return opposed


def name_most_opposed(problems: ProblemLog) -> str:
    """Which hospital's updates were most often opposed, as the end of a sentence about a run that failed."""
    if not problems.opposed_updates:
        return ""
    (name, rounds), *_ = problems.opposed_updates.most_common(1)
    return f"the updates of {name} were opposed to the others' in {rounds} rounds before; {ADVICE}"


def note_worse_than_chance(target: Target, counts: EvaluationSums, roc_auc: float | None, problems: ProblemLog) -> None:
    """Warn of a federated model whose ROC-AUC is below chance by more than two standard errors.

    The standard error without a relation is at most sqrt(1 / (6 n)) if n is the number of rows of the rarest class.
    """
    if roc_auc is None:
        return
    rarest = max(1, min(target.rows_of_groups(counts).values()))
    if roc_auc >= 0.5 - 2 * (1 / (6 * rarest)) ** 0.5:
        return
    cause = name_most_opposed(problems) or "no hospital's updates stand out; a hospital may have inverted its label"
    problems.warn(FEDERATION, f"the model's ROC-AUC of {roc_auc:.2f} is worse than chance; {cause}")
