"""The federations of an audit: which there are, who is trained on in each, and what becomes of one.

Halved     on a random half of each hospital's training rows, to be attacked by membership inference
Whole      on all training rows, as a federation would: what the model is worth
Shrunken   on all, but of the smallest hospital a few rows only, of which one update is inverted
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from federated_health.data.hospital import Hospital
from federated_health.data.tasks import Task
from federated_health.settings import Settings

FINAL, UPDATES, AVERAGES = "final", "updates", "averages"
"""What is attacked: the final model, one hospital's updates, the averages of the rounds."""

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class HalfShadowRun:
    """One of the federations that are attacked, by its number from 0."""

    privacy: str
    run: int


@dataclass(frozen=True, kw_only=True)
class FullShadowRun:
    """One of the federations of all training rows, by its number from 0."""

    privacy: str
    run: int


@dataclass(frozen=True, kw_only=True)
class SmallShadowRun:
    """A federation in which the smallest hospital has some rows only; `draw` numbers who they are."""

    privacy: str
    rows: int
    draw: int


Trial = HalfShadowRun | FullShadowRun | SmallShadowRun


@dataclass(frozen=True, kw_only=True)
class Worth:
    """How good a final model is: held-out ROC-AUC; None where undefined.

    Attributes:
        everyone: over all hospitals' patients.
        mean: of those of the hospitals that have one.
    """

    everyone: float | None
    mean: float | None


@dataclass(frozen=True, kw_only=True)
class Inverted:
    """Shares of the columns of patients that are recovered.

    Attributes:
        update: from their hospital's update.
        average: from the average that all hospitals get.
        typical: by guessing the same typical patient for all.
        random: by guessing other patients of the hospital, mean over `trials.GUESSES` draws.
    """

    update: float
    average: float
    typical: float
    random: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a federation.

    Attributes:
        worth: of Halved and Whole ones.
        statistics: of Halved ones: what is seen of each patient of all hospitals, [patients], by what is attacked.
        inverted: of Shrunken ones.
    """

    worth: Worth | None = None
    statistics: Mapping[str, Mapping[str, Array]] | None = None
    inverted: Inverted | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an audit goes.

    Attributes:
        hospitals: with the training rows that are attacked.
        privacies: name -> settings of its federations.
        runs: Halved federations of each; even.
        wholes: Whole federations of each.
        sizes: rows of the smallest hospital in Shrunken federations.
        draws: Shrunken federations of each size.
    """

    hospitals: Mapping[str, Hospital]
    privacies: Mapping[str, Settings]
    runs: int
    wholes: int
    sizes: tuple[int, ...]
    draws: int
    seed: int

    @property
    def task(self) -> Task:
        return next(iter(self.hospitals.values())).task

    @property
    def smallest(self) -> str:
        """The hospital with the fewest training rows."""
        return min(self.hospitals, key=lambda name: len(self.hospitals[name].train))

    def trials(self) -> list[Trial]:
        """All federations."""
        trials: list[Trial] = []
        for privacy in self.privacies:
            trials += [HalfShadowRun(privacy=privacy, run=run) for run in range(self.runs)]
            trials += [FullShadowRun(privacy=privacy, run=run) for run in range(self.wholes)]
            trials += [
                SmallShadowRun(privacy=privacy, rows=rows, draw=draw)
                for rows in self.sizes
                for draw in range(self.draws)
            ]
        return trials

    def places(self) -> dict[str, slice]:
        """Where each hospital's patients are among all."""
        ends = np.cumsum([0, *(len(one.train) for one in self.hospitals.values())]).tolist()
        return {name: slice(*pair) for name, pair in zip(self.hospitals, pairwise(ends), strict=True)}

    def members(self) -> Flags:
        """Who is trained on in each Halved federation, [runs, patients]: half of every hospital's, at random.

        Every second one has the complement of the one before it, so that every patient is in half of them.
        """
        generator = np.random.default_rng([self.seed, 0])
        rows = []
        for _ in range(self.runs // 2):
            parts = []
            for one in self.hospitals.values():
                chosen = np.zeros(len(one.train), dtype=bool)
                chosen[generator.permutation(len(chosen))[: len(chosen) // 2]] = True
                parts.append(chosen)
            half = np.concatenate(parts)
            rows += [half, ~half]
        return np.array(rows)
