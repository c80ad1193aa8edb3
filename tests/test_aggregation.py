"""How the server validates and averages what hospitals send: small arrays, and expected values worked out by hand."""

from dataclasses import replace
from itertools import count, permutations
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import RunError
from federated_health.messages.content import EQUAL_WEIGHT, NUM_EXAMPLES, Evaluation, Update
from federated_health.messages.records import weights_to_record
from federated_health.messages.validation import read_update
from federated_health.ml.networks import Weights
from federated_health.ml.strategies import STRATEGIES
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import Counts
from federated_health.server.problem_log import ProblemLog
from federated_health.server.replies import grid_of
from federated_health.server.run_summary import summarise_run
from federated_health.server.strategies import make_strategy
from federated_health.transport import backoff
from tests.support.light_hospitals import run_of, settings_of, shift_of, three
from tests.support.updates import accept, reply

pytestmark = pytest.mark.usefixtures("server_identity")


def kernel_of(*values: float) -> Weights:
    return {"kernel": np.array(values, np.float32)}


NAMES = {1: "cleveland", 2: "hungary", 3: "zurich"}
UPDATES = {
    1: Update(weights=kernel_of(1, 2), examples=200, loss=0.5),
    2: Update(weights=kernel_of(3, 4), examples=100, loss=0.5),
    3: Update(weights=kernel_of(7, 0), examples=100, loss=0.5),
}


def average(updates: dict[int, Update], strategy: str = "fedavg") -> tuple[list[float], ProblemLog]:
    """The server's average of a round's valid updates, which arrive in this order, and the problems that it counts."""

    def read(node: int, content: RecordDict) -> Update:
        return read_update(content, {"kernel": (2,)}, UPDATES[node].examples)

    replies = [reply(node, update.to_content()) for node, update in updates.items()]
    accepted, problems = accept(replies, read, NAMES)
    averaging = make_strategy(settings_of(strategy))
    averaging.configure_train(1, weights_to_record(kernel_of(1, 1)), ConfigRecord(), grid_of(list(NAMES)))
    arrays, _ = averaging.aggregate_train(1, [valid.message for valid in accepted])
    assert arrays is not None
    return arrays["kernel"].numpy().tolist(), problems


def test_fedavg_weighs_hospitals_by_their_training_rows() -> None:
    assert average(UPDATES)[0] == [(200 * 1 + 100 * 3 + 100 * 7) / 400, (200 * 2 + 100 * 4 + 100 * 0) / 400]


def test_simple_averaging_counts_hospitals_alike() -> None:
    assert average(UPDATES, "average")[0] == pytest.approx([(1 + 3 + 7) / 3, (2 + 4 + 0) / 3])


@pytest.mark.parametrize(
    ("strategy", "key"), [("fedavg", NUM_EXAMPLES), ("average", EQUAL_WEIGHT), ("fedprox", NUM_EXAMPLES)]
)
@pytest.mark.parametrize("hospitals", [1, 2, 5])
def test_the_average_has_the_bits_of_flower_s(strategy: str, key: str, hospitals: int) -> None:
    """Some updates are as Flower's engines deliver them, in NumPy's format."""
    generator = np.random.default_rng(hospitals)
    shapes = {"kernel": (300, 401), "bias": (7,), "scalar": ()}
    replies = []
    for node in range(hospitals):
        weights = {name: np.asarray(generator.standard_normal(shape), np.float32) for name, shape in shapes.items()}
        weights["bias"][:3] = [-0.0, 1e-45, 3e38]
        content = Update(weights=weights, examples=10 + 7 * node, loss=0.5).to_content()
        if node % 2:
            content["arrays"] = ArrayRecord({name: Array(array) for name, array in weights.items()})
        content.metric_records["metrics"][EQUAL_WEIGHT] = 1.0
        replies.append(reply(node, content))
    ours, _ = make_strategy(settings_of(strategy)).aggregate_train(1, replies)
    theirs = aggregate_arrayrecords([message.content for message in replies], key)
    assert ours is not None
    assert {name: array.data for name, array in ours.items()} == {name: array.data for name, array in theirs.items()}


@pytest.mark.parametrize("strategy", ["fedavg", "average"])
def test_a_hospital_alone_keeps_its_weights(strategy: str) -> None:
    alone = kernel_of(0.1, -1 / 3)
    assert average({1: replace(UPDATES[1], weights=alone)}, strategy)[0] == alone["kernel"].tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_average_is_the_same_to_the_bit_in_whatever_order_hospitals_reply(strategy: str) -> None:
    kernels = {1: [1e8, 1e8], 2: [0.1, 0.1], 3: [-2e8, -1e8]}  # large values cancel: a sum depends on its order
    updates = {node: replace(UPDATES[node], weights=kernel_of(*kernel)) for node, kernel in kernels.items()}
    averages = [average({node: updates[node] for node in order}, strategy)[0] for order in permutations(NAMES)]
    assert averages == [averages[0]] * 6


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weights": kernel_of(np.nan, 0)}, "not all finite"),
        ({"weights": kernel_of(0, -np.inf)}, "not all finite"),
        ({"weights": kernel_of(0, 0, 0)}, "type or shape"),
        ({"weights": {"bias": np.zeros(2, np.float32)}}, "names"),
        ({"examples": 10**9}, "number of training rows"),
        ({"loss": float("nan")}, "train-loss"),
    ],
)
def test_an_invalid_update_is_left_out_and_counted(changes: dict[str, Any], reason: str) -> None:
    kernel, problems = average(UPDATES | {3: replace(UPDATES[3], **changes)})
    assert kernel == pytest.approx([(200 * 1 + 100 * 3) / 300, (200 * 2 + 100 * 4) / 300])
    assert list(problems.rejected) == ["zurich"]
    assert [(reason in text, times) for text, times in problems.rejected["zurich"].items()] == [(True, 1)]


@pytest.mark.parametrize("strategy", ["fedmedian", "trimmed"])
def test_a_robust_strategy_resists_one_hostile_update(strategy: str) -> None:
    updates = UPDATES | {3: replace(UPDATES[3], weights=kernel_of(1e30, -1e30))}
    assert average(updates, strategy)[0] == [3.0, 2.0]  # the middle one of 1, 3 and 1e30, and of 2, 4 and -1e30
    assert average(updates, "fedavg")[0][0] > 1e29


def test_a_round_with_too_few_valid_updates_is_repeated_and_not_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.001)
    hospitals = three()  # they add 0.1, 0.2 and 0.7 to the weights, and have 30, 10 and 5 training rows
    attempts = count(1)
    hospitals[2].spoil = lambda update: replace(update, examples=5 if next(attempts) > 2 else 6)
    run = run_of(hospitals, min_hospitals=3, rounds=1, wait=60.0)
    run.run()
    assert run.problems.repeated_rounds == 2
    assert run.problems.rejected["c"].total() == 2
    assert shift_of(run) == pytest.approx((30 * 0.1 + 10 * 0.2 + 5 * 0.7) / 45, abs=1e-5)


def test_a_round_that_never_gets_enough_updates_ends_the_run_and_changes_no_weight() -> None:
    hospitals, attempts = three(), count(1)
    hospitals[2].spoil = lambda update: replace(update, **({"loss": -1.0} if next(attempts) % 2 else {"examples": 6}))
    run = run_of(hospitals, min_hospitals=3, wait=0.05)
    run.gather()
    with pytest.raises(RunError, match="round 1: 2 of 3 hospitals"):
        next(run.rounds())
    assert shift_of(run) == 0.0


def test_positives_in_no_cell_count_in_the_average_precision_of_the_federation() -> None:
    cells = np.array([[20.0, -2.0, 0.1]])
    both = {"positives": cells, "negatives": np.tile(cells, (4, 1))}  # equal scores: the prevalence
    counts = Counts(false_negatives=20, true_negatives=80, squared_error_sum=16.0)
    parts = {"a": both, "b": {**both, "positives": np.zeros((0, 3))}}
    evaluations = {name: Evaluation(counts=counts, scores=scores) for name, scores in parts.items()}
    federation = summarise_run(target_of(HEART_DISEASE), evaluations, {"a": 60, "b": 60})["federation"]
    assert federation["average_precision"] == pytest.approx(0.2, abs=0.02)
    assert federation["calibration_intercept"] == pytest.approx(2.0 + np.log(0.2 / 0.8), abs=0.01)


def test_merged_counts_give_the_figures_of_the_federation() -> None:
    large = Counts(true_positives=6, false_positives=2, true_negatives=10, false_negatives=2)
    small = Counts(true_positives=2, false_positives=4, true_negatives=1, false_negatives=3)
    evaluations = {"large": Evaluation(counts=large), "small": Evaluation(counts=small)}
    federation = summarise_run(target_of(HEART_DISEASE), evaluations, {"large": 60, "small": 30})["federation"]
    assert (federation["train_examples"], federation["test_examples"]) == (90, 30)
    assert federation["accuracy"] == (8 + 11) / 30  # the mean of the hospitals' 16/20 and 3/10 would be 0.55
    assert federation["precision"] == 8 / (8 + 6)
    assert federation["recall"] == 8 / (8 + 5)
    assert federation["f1"] == 2 * 8 / (2 * 8 + 6 + 5)
