"""How often the server warns of honest hospitals, and names the right one of those that harm the model; prints JSON.

Runs in process on the heart data, with the same apps and strategies as over gRPC, one per configuration and seed. A
lying hospital trains as it should, and then changes its update, in one of the ways of LIES. A run counts as harmed if
the AUC is more than 0.05 below that of the same run without lies, or if it ends in an error.
"""

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import quieten, write_source
from flwr.app import Context, Message

from federated_health.data.hospital import Hospital, load_hospital
from federated_health.data.partitions import Partition
from federated_health.data.sources.source import read_uci
from federated_health.errors import RunError
from federated_health.hospital import handlers
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.messages.content import ARRAYS
from federated_health.messages.records import elements_of, weights_to_record
from federated_health.names import FEDERATION
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport

Array = npt.NDArray[np.float32]
Lie = Callable[[Array, Array], Array]
"""The array that a hospital sends, of the received one and the one that it trained."""

NAMES = ("cleveland", "hungary", "switzerland", "va-long-beach")
HARM = 0.05


def times(factor: float) -> Lie:
    return lambda sent, trained: sent + np.float32(factor) * (trained - sent)


def noise(factor: float) -> Lie:
    """A random direction, the same in every round, this many times as long as the update."""

    def lie(sent: Array, trained: Array) -> Array:
        direction = np.random.default_rng(sent.size).standard_normal(sent.shape)
        length = factor * np.linalg.norm(trained - sent) / np.linalg.norm(direction)
        return (sent + length * direction).astype(np.float32)

    return lie


LIES: Mapping[str, Lie] = {
    "opposite": times(-1.0),
    "opposite, 0.3 times as long": times(-0.3),
    "opposite, 5 times as long": times(-5.0),
    "5 times as long": times(5.0),
    "random, 5 times as long": noise(5.0),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run, and which hospitals lie in it; `partition` is a number of hospitals and Dirichlet's alpha, or names."""

    label: str
    seed: int
    partition: tuple[int, float] | tuple[str, ...] = NAMES
    settings: Mapping[str, Any] = field(default_factory=dict)
    liars: tuple[int, ...] = ()
    lie: str = ""

    @property
    def honest(self) -> "Case":
        return replace(self, liars=(), lie="", label="")


def honest_cases(seeds: int) -> Iterator[Case]:
    for seed in range(seeds):
        for strategy in ("fedavg", "fedprox", "average", "fedadam", "fedyogi", "fedavgm", "fedmedian", "trimmed"):
            yield Case(label=f"four hospitals, {strategy}", seed=seed, settings={"strategy": strategy})
        for changes in (
            {"local_epochs": 1},
            {"local_epochs": 20},
            {"learning_rate": 0.2},
            {"optimizer": "adam", "learning_rate": 0.005},
            {"model": "logistic"},
            {"hidden": "32,16", "dropout": 0.2},
            {"local_epochs": 20, "learning_rate": 0.2, "l2": 0.0},
        ):
            what = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in changes.items())
            yield Case(label=f"four hospitals, {what}", seed=seed, settings=changes)
        for number in (2, 3):
            for names in combinations(NAMES, number):
                yield Case(label=f"{number} of the hospitals", seed=seed, partition=names)
        for hospitals, alpha in ((4, 0.5), (6, 0.5), (10, 0.5), (4, 0.1)):
            label = f"Dirichlet alpha {alpha}, {hospitals} hospitals"
            yield Case(label=label, seed=seed, partition=(hospitals, alpha))


def lying_cases(seeds: int) -> Iterator[Case]:
    for seed in range(seeds):
        for lie in LIES:
            for liar in range(4):
                yield Case(label=f"one of four: {lie}", seed=seed, liars=(liar,), lie=lie)
        for strategy in ("fedadam", "fedmedian", "trimmed"):
            for lie in ("opposite", "opposite, 5 times as long"):
                yield Case(
                    label=f"one of four, {strategy}: {lie}",
                    seed=seed,
                    settings={"strategy": strategy},
                    liars=(seed % 4,),
                    lie=lie,
                )
        for pair in combinations(range(4), 2):
            yield Case(label="two of four collude: opposite", seed=seed, liars=pair, lie="opposite")
        for three in combinations(NAMES, 3):
            for lie in ("opposite", "opposite, 5 times as long"):
                yield Case(label=f"one of three: {lie}", seed=seed, partition=three, liars=(seed % 3,), lie=lie)
        for two in combinations(NAMES, 2):
            yield Case(label="one of two: opposite", seed=seed, partition=two, liars=(seed % 2,), lie="opposite")
        for hospitals in (4, 10):
            for lie in ("opposite", "opposite, 5 times as long"):
                yield Case(
                    label=f"one of {hospitals}, Dirichlet alpha 0.5: {lie}",
                    seed=seed,
                    partition=(hospitals, 0.5),
                    liars=(0,),
                    lie=lie,
                )


class Laboratory:
    """Runs cases; hospitals and honest AUCs are made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hospitals: dict[Any, list[Hospital]] = {}
        self._honest: dict[str, float | None] = {}

    def run(self, case: Case) -> tuple[PlainRun, float | None, str]:
        """The run, its AUC, and the error with which it ended."""
        hospitals = self._load(case)
        liars = {hospitals[liar % len(hospitals)].name for liar in case.liars}

        def answer(message: Message, context: Context) -> Message:
            reply = handlers.answer(message, context)
            assert isinstance(context, InMemoryHospital)
            if context.hospital.name in liars and message.metadata.message_type == "train" and reply.has_content():
                sent, trained = (part.content.array_records[ARRAYS] for part in (message, reply))
                changed = {
                    name: LIES[case.lie](elements_of(sent[name]), elements_of(trained[name])) for name in trained
                }
                reply.content[ARRAYS] = weights_to_record(changed)
            return reply

        settings = Settings(hospitals=len(hospitals), seed=case.seed, wait=0.5, appraisal=False, **case.settings)
        run = PlainRun(
            InProcessTransport(answer, {hospital.name: InMemoryHospital(hospital) for hospital in hospitals}), settings
        )
        try:
            figures = run.run()
        except RunError as error:
            return run, None, str(error)
        return run, (figures["federation"] or {}).get("roc_auc"), ""

    def names_of_liars(self, case: Case) -> set[str]:
        hospitals = self._load(case)
        return {hospitals[liar % len(hospitals)].name for liar in case.liars}

    def honest_auc(self, case: Case) -> float | None:
        key = repr(case.honest)
        if key not in self._honest:
            self._honest[key] = self.run(case.honest)[1]
        return self._honest[key]

    def _load(self, case: Case) -> list[Hospital]:
        key = case.partition, case.seed
        if key not in self._hospitals:
            count, alpha = case.partition if isinstance(case.partition[0], int) else (0, 0.0)
            partition = (
                Partition(by="dirichlet", seed=case.seed, hospitals=int(count), alpha=float(alpha), min_patients=10)
                if count
                else Partition(by="hospital", seed=0)
            )
            paths = write_source(self._folder / str(len(self._hospitals)), read_uci(), partition)
            task = read_uci().task
            self._hospitals[key] = [
                load_hospital(path, task, name, case.seed)
                for name, path in paths.items()
                if count or name in case.partition
            ]
        return self._hospitals[key]


def named_in(run: PlainRun, error: str) -> set[str]:
    """Hospitals that the problem log or the error suspects of harmful updates."""
    texts = {name: [text for text in texts if "opposed" in text] for name, texts in run.problems.data_warnings.items()}
    named = {name for name, found in texts.items() if found and name != FEDERATION}
    _, _, blamed = error.partition("the updates of ")
    names = blamed.partition(" were opposed")[0]
    return named | {name for name in names.split(", ") if name}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="seeds per configuration (default: %(default)s)")
    parser.add_argument("--part", default="1/1", help="K/N: every N-th run, from the K-th on (default: %(default)s)")
    flags = parser.parse_args()
    part, parts = map(int, flags.part.split("/"))
    quieten()
    honest, lying = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(Path(folder))
        for case in list(honest_cases(flags.seeds))[part - 1 :: parts]:
            run, _, error = laboratory.run(case)
            is_warned = bool(run.problems.opposed_updates) and bool(named_in(run, error))
            honest[case.label].update(
                runs=1, a_hospital_named=int(is_warned), the_model_named=int(FEDERATION in run.problems.data_warnings)
            )
        for case in list(lying_cases(flags.seeds))[part - 1 :: parts]:
            run, auc, error = laboratory.run(case)
            named, liars = named_in(run, error), laboratory.names_of_liars(case)
            before = laboratory.honest_auc(case)
            is_harmed = bool(error) or before is None or auc is None or auc < before - HARM
            outcomes = {
                "harmed": is_harmed,
                "only_liars_named": is_harmed and bool(named) and named <= liars,
                "liars_and_others_named": is_harmed and bool(named & liars) and bool(named - liars),
                "only_others_named": is_harmed and bool(named) and not named & liars,
                "only_the_model_named": is_harmed and not named and FEDERATION in run.problems.data_warnings,
                "named_without_harm": not is_harmed and bool(named),
            }
            lying[case.label].update({"runs": 1, **{what: int(holds) for what, holds in outcomes.items()}})
    print(json.dumps({"honest": honest, "lying": lying}, indent=2))


if __name__ == "__main__":
    main()
