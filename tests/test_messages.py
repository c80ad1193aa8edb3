"""Messages survive the wire; malformed ones are refused with reasons that quote no value."""

import io
import math
import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from federated_health.data.columns import Measurement
from federated_health.data.task_files import HEART_DISEASE
from federated_health.messages.content import (
    Evaluation,
    Registration,
    TrainConfig,
    TrainingScores,
    Update,
)
from federated_health.messages.records import (
    MalformedMessageError,
    weights_from_record,
    weights_to_record,
)
from federated_health.messages.server_messages import read_train_config, read_value
from federated_health.messages.validation import read_evaluation, read_registration, read_training_scores, read_update
from federated_health.ml.metrics import MAX_BINARY_CELLS
from federated_health.ml.microaggregates import choose_threshold
from federated_health.ml.networks import Network
from federated_health.ml.normalisation import ColumnSums, Normalisation, column_sums, withheld_sums
from federated_health.ml.scores import microaggregate
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import Counts
from federated_health.names import is_hospital_name

SHAPES: dict[str, tuple[int, ...]] = {"logit/kernel": (3, 1), "logit/bias": (1,)}
KERNEL = np.array([[0.25], [-1.5], [3.0e-8]], dtype=np.float32)
BIAS = np.array([0.1], dtype=np.float32)


def over_the_wire(content: RecordDict) -> RecordDict:
    return recorddict_from_proto(ProtoRecordDict.FromString(recorddict_to_proto(content).SerializeToString()))


def assert_no_value(error: BaseException, *values: str) -> None:
    for value in values:
        assert value not in str(error)


# Names


@pytest.mark.parametrize("name", ["cleveland", "va-long-beach", "h1", "7", "a" * 63])
def test_a_hospital_s_name_is_letters_digits_and_hyphens(name: str) -> None:
    assert is_hospital_name(name)


@pytest.mark.parametrize(
    "name", ["", "-a", "Cleveland", "a b", "a_b", "a/b", "..", "a\n", "zürich", "a" * 64, "federation"]
)
def test_other_names_are_not_a_hospital_s(name: str) -> None:
    assert not is_hospital_name(name)


# Weights


def npy(array: np.ndarray[Any, Any], *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def record_of(data: bytes, stype: str = "numpy.ndarray") -> ArrayRecord:
    """A kernel of any bytes, and a valid bias."""
    return ArrayRecord({"logit/kernel": Array("float32", (3, 1), stype, data), "logit/bias": Array(BIAS)})


def refusal_of_weights(record: ArrayRecord) -> str:
    with pytest.raises(MalformedMessageError) as caught:
        weights_from_record(record, SHAPES)
    return str(caught.value)


def test_weights_survive_the_wire_bit_for_bit() -> None:
    record = weights_to_record({"logit/kernel": KERNEL, "logit/bias": BIAS})

    weights = weights_from_record(over_the_wire(RecordDict({"arrays": record})).array_records["arrays"], SHAPES)

    assert list(weights) == list(SHAPES)
    assert weights["logit/kernel"].tobytes() == KERNEL.tobytes()
    assert weights["logit/bias"].tobytes() == BIAS.tobytes()
    assert weights["logit/kernel"].dtype == np.float32


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    kernel = KERNEL.copy()
    kernel[1] = value

    message = refusal_of_weights(weights_to_record({"logit/kernel": kernel, "logit/bias": BIAS}))

    assert "logit/kernel are not all finite" in message


@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(KERNEL.astype(np.float64), id="float64"),
        pytest.param(KERNEL.astype(np.float16), id="float16"),
        pytest.param(KERNEL.astype(np.int32), id="int32"),
        pytest.param(KERNEL.astype(np.complex64), id="complex"),
        pytest.param(KERNEL.astype(">f4"), id="another byte order"),
        pytest.param(KERNEL.reshape(1, 3), id="turned"),
        pytest.param(KERNEL[:, 0], id="flat"),
        pytest.param(KERNEL[:2], id="too few"),
        pytest.param(np.zeros((3, 2), np.float32), id="too many"),
        pytest.param(np.zeros((0, 1), np.float32), id="none"),
        pytest.param(np.array(1.0, np.float32), id="a scalar"),
        pytest.param(np.zeros((3, 1), [("weight", np.float32)]), id="structured"),
    ],
)
def test_weights_of_another_type_or_shape_are_refused(kernel: np.ndarray[Any, Any]) -> None:
    message = refusal_of_weights(ArrayRecord({"logit/kernel": Array(kernel), "logit/bias": Array(BIAS)}))

    assert "logit/kernel" in message
    assert "another type or shape" in message


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["logit/kernel"],
        ["logit/bias", "logit/kernel"],
        ["logit/kernel", "logit/bias", "hidden/bias"],
        ["kernel", "bias"],
    ],
)
def test_weights_of_other_names_or_in_another_order_are_refused(names: list[str]) -> None:
    arrays = {"logit/kernel": KERNEL}

    message = refusal_of_weights(ArrayRecord({name: Array(arrays.get(name, BIAS)) for name in names}))

    assert "names" in message


GOOD_BYTES = npy(KERNEL)


def zip_of_arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, kernel=KERNEL)
    return buffer.getvalue()


def replaced(old: bytes, new: bytes) -> bytes:
    """The valid bytes with one part replaced by another of the same length."""
    assert GOOD_BYTES.count(old) == 1
    assert len(old) == len(new)
    return GOOD_BYTES.replace(old, new)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"not an array at all", id="other bytes"),
        pytest.param(GOOD_BYTES[:7], id="half a magic"),
        pytest.param(GOOD_BYTES[:30], id="half a header"),
        pytest.param(zip_of_arrays(), id="npz"),
        pytest.param(b"PK\x03\x04 and no zip", id="broken npz"),
        pytest.param(replaced(b"(3, 1), } ", b"(3, 1), (} "[:10]), id="broken header"),
        pytest.param(replaced(b"'descr'", b"'dascr'"), id="a header of other keys"),
        pytest.param(replaced(b"'<f4'", b"'<x4'"), id="no type"),
        pytest.param(replaced(b"(3, 1), }   ", b"(3, 'a'), } "), id="no shape"),
        pytest.param(GOOD_BYTES[:8] + b"\xff\xff" + GOOD_BYTES[10:], id="a header longer than all"),
        pytest.param(GOOD_BYTES[:8] + b"\xff\xff" + b"(" * 70_000, id="a header that is too deep"),
    ],
)
def test_weights_that_cannot_be_read_are_refused(data: bytes) -> None:
    assert "logit/kernel cannot be read" in refusal_of_weights(record_of(data))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(npy(np.array([[None]] * 3), allow_pickle=True), id="pickle"),
        pytest.param(replaced(b"'fortran_order': False", b"'fortran_order': True "), id="Fortran's order"),
        pytest.param(replaced(b"NUMPY\x01\x00", b"NUMPY\x02\x00"), id="version 2.0"),
        pytest.param(replaced(b"NUMPY\x01\x00", b"NUMPY\x01\x01"), id="version 1.1"),
        pytest.param(replaced(b"(3, 1), }        ", b"(2000000000000,)}"), id="8 TB"),
        pytest.param(replaced(b"(3, 1), }  ", b"(-3, -1), }"), id="negative"),
    ],
)
def test_weights_whose_header_claims_something_else_are_refused_unread(data: bytes) -> None:
    assert "another type or shape" in refusal_of_weights(record_of(data))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(GOOD_BYTES[:-1], id="a byte short"),
        pytest.param(GOOD_BYTES[:-12], id="only a header"),
        pytest.param(GOOD_BYTES + b"\0", id="a byte more"),
        pytest.param(GOOD_BYTES + GOOD_BYTES, id="twice"),
    ],
)
def test_weights_of_another_length_are_refused(data: bytes) -> None:
    assert "logit/kernel are cut off or too long" in refusal_of_weights(record_of(data))


def test_a_header_that_numpy_warns_about_is_refused_without_a_warning() -> None:
    data = replaced(b"(3, 1), } ", b"(3L, 1), }")  # as Python 2 wrote it
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert "logit/kernel cannot be read" in refusal_of_weights(record_of(data))
    assert caught == []


# Train configs

TRAIN_CONFIG = TrainConfig(
    task="heart-disease",
    schema="ab" * 32,
    network=Network(),
    strategy="fedavg",
    strategy_args="",
    rounds=3,
    local_epochs=5,
    batch_size=0,
    learning_rate=0.05,
    l2=0.0,
    seed=42,
    threshold=0.4375,
    normalisation=Normalisation(mean=(54.4, 1 / 3), variance=(81.0, 1e-9)),
)


def test_a_train_config_survives_the_wire() -> None:
    content = over_the_wire(RecordDict({"config": TRAIN_CONFIG.to_record()}))

    assert read_train_config(content.config_records["config"]) == TRAIN_CONFIG


def test_a_train_config_is_read_beside_keys_that_flower_adds() -> None:
    record = TRAIN_CONFIG.to_record()
    record["server-round"] = 4

    assert read_train_config(record) == TRAIN_CONFIG


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in TRAIN_CONFIG.to_record().items() if name != key}


@pytest.mark.parametrize("record", [{}, *(without(key) for key in TRAIN_CONFIG.to_record())])
def test_a_train_config_that_lacks_a_key_is_malformed(record: dict[str, Any]) -> None:
    (missing, *_) = (key for key in ("mean", "variance", *TRAIN_CONFIG.to_record()) if key not in record)
    with pytest.raises(MalformedMessageError, match=f"lacks {missing}$"):
        read_train_config(record)


@pytest.mark.parametrize("key", ["mean", "variance"])
def test_a_train_config_with_a_number_for_a_list_is_malformed(key: str) -> None:
    with pytest.raises(MalformedMessageError, match=f"{key}: expected a list"):
        read_train_config({**TRAIN_CONFIG.to_record(), key: 54.4})


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_the_weight_of_the_proximal_term_is_read(value: float) -> None:
    record = TRAIN_CONFIG.to_record()
    assert read_value(record, "proximal-mu", 0.0) == 0.0
    record["proximal-mu"] = value
    assert read_value(record, "proximal-mu", 0.0) == value


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, 1, "0.1", [0.1], True])
def test_an_invalid_weight_of_the_proximal_term_is_malformed(value: Any) -> None:
    with pytest.raises(MalformedMessageError, match="proximal-mu"):
        read_value({"proximal-mu": value}, "proximal-mu")


# Registrations

MEASUREMENTS = (
    Measurement(name="age", meaning="age", unit="years", low=0, high=120),
    Measurement(name="trestbps", meaning="blood pressure", unit="mm Hg", low=50, high=300),
    Measurement(name="oldpeak", meaning="ST depression", unit="mm", low=-10, high=5),
)


def registration(**changes: Any) -> RecordDict:
    """A valid registration's content with some of its metrics changed; None takes one away."""
    good: dict[str, Any] = {
        "train-examples": 227,
        "test-examples": 76,
        "count": [227.0, 100.0, 0.0],
        "total": [12345.5, 13000.0, 0.0],
        "squares": [700000.25, 1700000.5, 0.0],
    }
    metrics = {key: value for key, value in {**good, **changes}.items() if value is not None}
    return RecordDict({"hospital": ConfigRecord({"name": "cleveland"}), "metrics": MetricRecord(metrics)})


def test_a_registration_survives_the_wire() -> None:
    sums = ColumnSums(
        count=np.array([227.0, 0.0, 5.0]), total=np.array([1e5 / 7, 0.0, -1 / 3]), squares=np.array([1e6, 0.0, 1 / 7])
    )
    original = Registration(name="cleveland", train_examples=227, test_examples=76, sums=sums)

    result = read_registration(over_the_wire(original.to_content()), MEASUREMENTS)

    assert (result.name, result.train_examples, result.test_examples) == ("cleveland", 227, 76)
    for name in ("count", "total", "squares"):
        np.testing.assert_array_equal(getattr(result.sums, name), getattr(sums, name))


def test_associations_survive_the_wire_and_may_be_absent() -> None:
    associations = np.array([0.25, -1.0, 0.0, 1.0])
    empty = withheld_sums(3)
    original = Registration(name="a", train_examples=9, test_examples=3, sums=empty, associations=associations)

    result = read_registration(over_the_wire(original.to_content()), MEASUREMENTS, 4)
    absent = read_registration(over_the_wire(registration()), MEASUREMENTS, 4)

    np.testing.assert_array_equal(result.associations, associations)
    assert absent.associations.size == 0  # of an earlier release, or withheld


@pytest.mark.parametrize(
    "associations",
    [
        pytest.param([0.1] * 3, id="too few"),
        pytest.param([0.1] * 5, id="too many"),
        pytest.param([0.1, 0.1, 0.1, 1.01], id="above 1"),
        pytest.param([-1.01, 0.1, 0.1, 0.1], id="below -1"),
        pytest.param([0.1, math.nan, 0.1, 0.1], id="not a number"),
        pytest.param([0.1, math.inf, 0.1, 0.1], id="infinite"),
        pytest.param([], id="none"),
        pytest.param(0.5, id="not a list"),
    ],
)
def test_impossible_associations_are_refused(associations: Any) -> None:
    with pytest.raises(MalformedMessageError, match="associations"):
        read_registration(registration(associations=associations), MEASUREMENTS, 4)


def test_a_registration_holds_only_its_documented_fields() -> None:
    rows = {"train-examples", "test-examples"}
    for sums, released in (
        (
            ColumnSums(count=np.full(1, 5.0), total=np.full(1, 5.0), squares=np.full(1, 5.0)),
            {"count", "total", "squares"},
        ),
        (ColumnSums(count=np.zeros(1), total=np.zeros(1), squares=np.zeros(1)), set()),
    ):
        content = Registration(name="a", train_examples=5, test_examples=0, sums=sums).to_content()

        assert set(content) == {"hospital", "metrics"}
        assert set(content.config_records["hospital"]) == {"name"}
        assert set(content.metric_records["metrics"]) == rows | released


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"train-examples": 0}, "train-examples is not a whole"),
        ({"train-examples": -731}, "train-examples is not a whole"),
        ({"train-examples": 731.0}, "train-examples is not a whole"),
        ({"train-examples": [731]}, "train-examples is not a whole"),
        ({"test-examples": -731}, "test-examples is not a whole"),
        ({"count": 731.0}, "count is not 3 finite"),
        ({"count": [731.0]}, "count is not 3 finite"),
        ({"total": [731.0, 731.0, 731.0, 731.0]}, "total is not 3 finite"),
        ({"total": [731.0, math.nan, 0.0]}, "total is not 3 finite"),
        ({"squares": [731.0, math.inf, 0.0]}, "squares is not 3 finite"),
        ({"squares": []}, "squares is not 3 finite"),
        ({"train-examples": None}, "not exactly: .*count, squares"),
        ({"count": None}, "not exactly: .*count, squares"),
        ({"age-of-first-patient": 731.0}, "not exactly: .*count, squares"),
    ],
)
def test_a_malformed_registration_is_refused(changes: dict[str, Any], pattern: str) -> None:
    with pytest.raises(MalformedMessageError, match=pattern) as caught:
        read_registration(over_the_wire(registration(**changes)), MEASUREMENTS)

    assert_no_value(caught.value, "731")


@pytest.mark.parametrize("record", [None, {}, {"name": "Mercy Hospital"}, {"name": 731}, {"name": ["cleveland"]}])
def test_a_registration_without_a_proper_name_is_refused(record: dict[str, Any] | None) -> None:
    content = RecordDict({"metrics": registration().metric_records["metrics"]})
    if record is not None:
        content["hospital"] = ConfigRecord(record)

    with pytest.raises(MalformedMessageError, match="its name: expected lower-case letters"):
        read_registration(content, MEASUREMENTS)


IMPOSSIBLE_COUNTS = "counts of observed rows"
OUTSIDE = "outside what plausible values"
TOO_SMALL = "sums of squares are smaller"


@pytest.mark.parametrize(
    ("column", "count", "total", "squares", "pattern"),
    [
        pytest.param(0, -1000, 0, 0, IMPOSSIBLE_COUNTS, id="negative count"),
        pytest.param(0, 226.5, 12345.5, 700000, IMPOSSIBLE_COUNTS, id="fractional count"),
        pytest.param(0, 1, 54, 54**2, IMPOSSIBLE_COUNTS, id="count of one"),
        pytest.param(0, 4, 216, 4 * 54**2, IMPOSSIBLE_COUNTS, id="count below five"),
        pytest.param(0, 228, 12345.5, 700000, IMPOSSIBLE_COUNTS, id="more than its rows"),
        pytest.param(0, 227, -1, 700000, OUTSIDE, id="negative ages"),
        pytest.param(1, 100, 4900, 490000, OUTSIDE, id="below 50 each"),
        pytest.param(2, 100, 510, 3000, OUTSIDE, id="above 5 each"),
        pytest.param(2, 100, -1010, 10201, OUTSIDE, id="below -10 each"),
        pytest.param(0, 227, 12345.5, 227 * 120**2 + 10, OUTSIDE, id="squares above 120 each"),
        pytest.param(2, 100, 0, 10001, OUTSIDE, id="squares above -10 each"),
        pytest.param(2, 0, 5, 25, OUTSIDE, id="sums over no rows"),
        pytest.param(2, 0, 0, 25, OUTSIDE, id="squares over no rows"),
        pytest.param(2, 0, -5, 0, OUTSIDE, id="negative sum over no rows"),
        pytest.param(0, 227, 12345.5, 671000, TOO_SMALL, id="squares below those of the mean"),  # 671404.4
        pytest.param(2, 100, 100, 99.9, TOO_SMALL, id="squares a little below those of the mean"),
        pytest.param(2, 100, 0, -1e12, TOO_SMALL, id="negative squares"),
        pytest.param(2, 100, 0, -1e308, TOO_SMALL, id="very negative squares"),
    ],
)
def test_a_registration_with_impossible_sums_is_refused(
    column: int, count: float, total: float, squares: float, pattern: str
) -> None:
    changed = {key: list(registration().metric_records["metrics"][key]) for key in ("count", "total", "squares")}  # type: ignore[arg-type]
    for key, value in (("count", count), ("total", total), ("squares", squares)):
        changed[key][column] = float(value)

    with pytest.raises(MalformedMessageError, match=pattern):
        read_registration(registration(**changed), MEASUREMENTS)


@pytest.mark.parametrize(
    "patients",
    [
        pytest.param([[0.0, 50.0, -10.0]] * 5, id="the lowest"),
        pytest.param([[120.0, 300.0, 5.0]] * 227, id="the highest"),
        pytest.param([[54.1, 130.7, 0.1]] * 227, id="all alike"),
        pytest.param([[0.1, 50.0, 0.0]] * 5 + [[119.9, 299.9, -10.0]] * 5, id="far apart"),
        pytest.param([[54.0, math.nan, math.nan]] * 5, id="missing"),
    ],
)
def test_sums_of_plausible_patients_are_read(patients: list[list[float]]) -> None:
    sums = column_sums(np.array(patients))
    content = Registration(name="a", train_examples=len(patients), test_examples=0, sums=sums).to_content()

    result = read_registration(over_the_wire(content), MEASUREMENTS).sums

    np.testing.assert_array_equal([result.count, result.total, result.squares], [sums.count, sums.total, sums.squares])


# Updates


def update(**changes: Any) -> RecordDict:
    metrics = {"num-examples": 227, "train-loss": 0.5, **changes}
    return RecordDict(
        {
            "arrays": weights_to_record({"logit/kernel": KERNEL, "logit/bias": BIAS}),
            "metrics": MetricRecord({key: value for key, value in metrics.items() if value is not None}),
        }
    )


def test_an_update_survives_the_wire() -> None:
    original = Update(weights={"logit/kernel": KERNEL, "logit/bias": BIAS}, examples=227, loss=1 / 3)

    result = read_update(over_the_wire(original.to_content()), SHAPES, 227)

    assert (result.examples, result.loss) == (227, 1 / 3)
    assert [array.tobytes() for array in result.weights.values()] == [KERNEL.tobytes(), BIAS.tobytes()]


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"num-examples": 226}, "num-examples is not the number of training rows"),
        ({"num-examples": 10**9}, "num-examples is not the number of training rows"),
        ({"num-examples": None}, "not exactly: num-examples, train-loss"),
        ({"train-loss": None}, "not exactly: num-examples, train-loss"),
        ({"equal-weight": 731.0}, "not exactly: num-examples, train-loss"),
        ({"num-examples": 0}, "num-examples is not a whole"),
        ({"num-examples": -731}, "num-examples is not a whole"),
        ({"num-examples": 731.5}, "num-examples is not a whole"),
        ({"train-loss": math.nan}, "train-loss is out of range"),
        ({"train-loss": math.inf}, "train-loss is out of range"),
        ({"train-loss": [731.5]}, "train-loss is not a finite"),
        ({"train-loss": -731.5}, "train-loss is out of range"),
        ({"train-loss": 7.31e6}, "train-loss is out of range"),
    ],
)
def test_a_malformed_update_is_refused(changes: dict[str, Any], pattern: str) -> None:
    with pytest.raises(MalformedMessageError, match=pattern):
        read_update(over_the_wire(update(**changes)), SHAPES, 227)


BINARY = target_of(HEART_DISEASE)
COUNTS = Counts(
    true_positives=40,
    false_positives=6,
    true_negatives=20,
    false_negatives=10,
    loss_sum=31.5,
    squared_error_sum=9.25,
)


def test_an_update_holds_the_counts_that_the_server_requested() -> None:
    weights = {"logit/kernel": KERNEL, "logit/bias": BIAS}
    original = Update(weights=weights, examples=227, loss=0.5, counts=COUNTS)
    result = read_update(over_the_wire(original.to_content()), SHAPES, 227, evaluated=76, target=BINARY)
    assert (result.counts, result.examples, result.loss) == (COUNTS, 227, 0.5)


@pytest.mark.parametrize(
    ("evaluated", "changes", "pattern"),
    [
        (None, {}, "not exactly: num-examples, train-loss"),
        (75, {}, "sums of the evaluation are not over"),
        (76, {"true_positives": 41}, "sums of the evaluation are not over"),
        (76, {"true_positives": -1}, "true_positives is not a whole"),
        (76, {"loss_sum": 76 * 28.5}, "sums of the evaluation are impossible"),
        (76, {"squared_error_sum": -0.5}, "sums of the evaluation are impossible"),
        (
            76,
            {"loss_sum": None},
            "not exactly: .*loss_sum",
        ),
    ],
)
def test_malformed_counts_in_an_update_are_refused(
    evaluated: int | None, changes: dict[str, Any], pattern: str
) -> None:
    with pytest.raises(MalformedMessageError, match=pattern):
        read_update(
            over_the_wire(update(**{**asdict(COUNTS), **changes})), SHAPES, 227, evaluated=evaluated, target=BINARY
        )


def test_an_update_without_the_requested_counts_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match="its metrics are not"):
        read_update(over_the_wire(update()), SHAPES, 227, evaluated=76, target=BINARY)


def test_an_update_without_weights_or_with_two_sets_of_them_is_refused() -> None:
    empty, twofold, renamed = update(), update(), update()
    del empty["arrays"]
    twofold["more"] = twofold.array_records["arrays"]
    renamed["weights"] = renamed.array_records["arrays"]
    del renamed["arrays"]

    for content in (empty, twofold, renamed, RecordDict()):
        with pytest.raises(MalformedMessageError, match="exactly one set of weights"):
            read_update(content, SHAPES, 227)


def test_an_update_without_metrics_or_with_two_sets_of_them_is_refused() -> None:
    empty, twofold = update(), update()
    del empty["metrics"]
    twofold["more"] = MetricRecord({"num-examples": 10**6})

    for content in (empty, twofold):
        with pytest.raises(MalformedMessageError, match="exactly one set of metrics"):
            read_update(content, SHAPES, 227)


def test_an_update_with_bad_weights_is_refused() -> None:
    content = update()
    content["arrays"] = weights_to_record({"logit/kernel": KERNEL * np.float32(np.nan), "logit/bias": BIAS})

    with pytest.raises(MalformedMessageError, match="not all finite"):
        read_update(content, SHAPES, 227)


# Evaluations

BINARY = target_of(HEART_DISEASE)
COUNTS = Counts(
    true_positives=30, false_positives=6, true_negatives=33, false_negatives=7, loss_sum=31.25, squared_error_sum=9.1
)


def evaluation(**changes: Any) -> RecordDict:
    metrics = {**dict(Evaluation(counts=COUNTS, roc_auc=0.9).to_content().metric_records["metrics"]), **changes}
    return RecordDict({"metrics": MetricRecord({key: value for key, value in metrics.items() if value is not None})})


def test_an_evaluation_survives_the_wire() -> None:
    result = read_evaluation(over_the_wire(Evaluation(counts=COUNTS).to_content()), BINARY, 76)

    assert result == Evaluation(counts=COUNTS, roc_auc=None, scores={})


def test_a_final_evaluation_survives_the_wire() -> None:
    generator = np.random.default_rng(1)
    positives, negatives = microaggregate(generator.normal(1, 1, 37)), microaggregate(generator.normal(-1, 1, 39))
    original = Evaluation(counts=COUNTS, roc_auc=0.875, scores={"positives": positives, "negatives": negatives})

    result = read_evaluation(over_the_wire(original.to_content()), BINARY, 76, final=True)

    assert (result.counts, result.roc_auc) == (COUNTS, 0.875)
    np.testing.assert_array_equal(result.scores["positives"], positives)
    np.testing.assert_array_equal(result.scores["negatives"], negatives)


def test_a_class_too_small_for_cells_is_read() -> None:
    counts = Counts(true_positives=30, false_negatives=7, true_negatives=2, false_positives=1)
    cells = microaggregate(np.random.default_rng(1).normal(-1, 1, 3))

    result = read_evaluation(
        over_the_wire(Evaluation(counts=counts, scores={"negatives": cells}).to_content()), BINARY, 40, final=True
    )

    assert {name: groups.shape for name, groups in result.scores.items()} == {"negatives": (0, 3)}


@pytest.mark.parametrize("auc", [0.0, 1.0])
def test_figures_at_their_bounds_are_read(auc: float) -> None:
    counts = Counts(false_negatives=7, squared_error_sum=7.0)

    result = read_evaluation(Evaluation(counts=counts, roc_auc=auc).to_content(), BINARY, 7, final=True)

    assert (result.counts, result.roc_auc) == (counts, auc)


@pytest.mark.parametrize(("key", "value"), [("roc_auc", 0.9), ("positives", [37.0, 1.0, 1.0]), ("negatives", [])])
def test_fields_of_the_final_evaluation_are_refused_in_other_rounds(key: str, value: Any) -> None:
    content = evaluation(**{"roc_auc": None, key: value})

    assert read_evaluation(content, BINARY, 76, final=True).counts == COUNTS
    with pytest.raises(MalformedMessageError, match="not exactly"):
        read_evaluation(content, BINARY, 76)


def test_the_largest_number_of_cells_is_read() -> None:
    cells = np.tile([5.0, 0.1, 0.2], (MAX_BINARY_CELLS, 1))
    content = Evaluation(
        counts=Counts(true_positives=5 * MAX_BINARY_CELLS - 20, false_negatives=20), scores={"positives": cells}
    ).to_content()

    result = read_evaluation(content, BINARY, 5 * MAX_BINARY_CELLS, final=True)

    assert len(result.scores["positives"]) == MAX_BINARY_CELLS


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"true_positives": None}, "not exactly: .*loss_sum"),
        ({"num-examples": None}, "not exactly: .*loss_sum"),
        ({"loss_sum": None}, "not exactly: .*loss_sum"),
        ({"equal-weight": 731.0}, "not exactly: .*loss_sum"),
        ({"num-examples": -731}, "num-examples is not a whole"),
        ({"true_positives": -731}, "true_positives is not a whole"),
        ({"false_positives": 731.0}, "false_positives is not a whole"),
        ({"false_negatives": [731]}, "false_negatives is not a whole"),
        ({"true_negatives": 731}, "sums of the evaluation are not over"),
        ({"num-examples": 731}, "sums of the evaluation are not over"),
        (
            {"true_negatives": 34, "num-examples": 77},
            "sums of the evaluation are not over",
        ),
        ({"loss_sum": -0.731}, "sums of the evaluation are impossible"),
        ({"squared_error_sum": -0.731}, "sums of the evaluation are impossible"),
        ({"squared_error_sum": 76.731}, "sums of the evaluation are impossible"),
        ({"loss_sum": 731}, "loss_sum is not a finite"),
        ({"loss_sum": math.nan}, "loss_sum is not a finite"),
        ({"squared_error_sum": -math.inf}, "squared_error_sum is not a finite"),
        ({"roc_auc": 1.731}, "ROC-AUC is not between"),
        ({"roc_auc": -0.731}, "ROC-AUC is not between"),
        ({"roc_auc": math.nan}, "roc_auc is not a finite"),
        ({"positives": [5.0, 731.0]}, "positives are not .* finite"),
        ({"positives": 731.0}, "positives are not .* finite"),
        ({"negatives": [5.0, math.nan, 731.0]}, "negatives are not .* finite"),
        (
            {"negatives": [5.0, 731.0, 1.0] * (MAX_BINARY_CELLS + 1)},
            "negatives are not .* finite",
        ),
        ({"positives": [4.0, 731.0, 1.0]}, "positives are too small"),
        (
            {"positives": [5.0, 1.0, 1.0, -5.0, 731.0, 1.0]},
            "positives are too small",
        ),
        ({"negatives": [5.5, 731.0, 1.0]}, "negatives are too small"),
        ({"negatives": [5.0, 731.0, -0.1]}, "negatives are too small"),
        ({"positives": [39.0, 731.0, 1.0]}, "positives do not add up"),
        (
            {"positives": [31.0, 731.0, 1.0, 5.0, 731.0, 1.0]},
            "positives do not add up",
        ),
        ({"negatives": [37.0, 731.0, 1.0]}, "negatives do not add up"),
        ({"negatives": [1e9, 731.0, 1.0]}, "negatives do not add up"),
    ],
)
def test_a_malformed_evaluation_is_refused(changes: dict[str, Any], pattern: str) -> None:
    with pytest.raises(MalformedMessageError, match=pattern) as caught:
        read_evaluation(over_the_wire(evaluation(**changes)), BINARY, 76, final=True)

    assert_no_value(caught.value, "731")


def test_an_evaluation_without_metrics_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match="exactly one set of metrics"):
        read_evaluation(RecordDict(), BINARY, 76)


def test_a_boolean_is_not_a_count() -> None:
    """Readers need not distinguish True from 1: Flower's records refuse it, and its wire format has no booleans."""
    with pytest.raises(TypeError, match="bool"):
        MetricRecord({"num-examples": True})


def test_an_evaluation_merged_from_no_hospital_survives() -> None:
    content = over_the_wire(Evaluation(counts=Counts()).to_content())

    assert read_evaluation(content, BINARY, 0) == Evaluation(counts=Counts())


def test_squares_over_no_rows_cannot_be_negative() -> None:
    zeros = np.zeros(5)
    registration = Registration(
        name="a", train_examples=9, test_examples=3, sums=ColumnSums(count=zeros, total=zeros, squares=zeros - 1e12)
    )
    with pytest.raises(MalformedMessageError, match="of squares"):
        read_registration(registration.to_content(), HEART_DISEASE.measurements)


def test_weights_that_flower_could_not_read_are_refused() -> None:
    good = Array(np.zeros((2, 1), dtype=np.float32))
    record = ArrayRecord({"logit/kernel": Array(good.dtype, good.shape, "torch.tensor", good.data)})
    with pytest.raises(MalformedMessageError, match="not a NumPy array"):
        weights_from_record(record, {"logit/kernel": (2, 1)})


# Scores of training rows


def training_scores(**changes: Any) -> RecordDict:
    metrics = {"positives": [6.0, 1.0, 0.5, 5.0, 2.0, 0.1], "negatives": [7.0, -1.0, 0.0], **changes}
    return RecordDict({"metrics": MetricRecord({key: value for key, value in metrics.items() if value is not None})})


def test_training_scores_survive_the_wire() -> None:
    generator = np.random.default_rng(1)
    positives, negatives = microaggregate(generator.normal(1, 1, 137)), microaggregate(generator.normal(-1, 1, 90))
    content = over_the_wire(TrainingScores(positives=positives, negatives=negatives).to_content())

    result = read_training_scores(content, 227)

    np.testing.assert_array_equal(result.positives, positives)
    np.testing.assert_array_equal(result.negatives, negatives)
    assert list(content) == ["metrics"]
    assert set(content.metric_records["metrics"]) == {"positives", "negatives"}


def test_training_scores_of_a_class_without_cells_are_read() -> None:
    nothing = np.zeros((0, 3))
    original = TrainingScores(positives=nothing, negatives=nothing)

    result = read_training_scores(over_the_wire(original.to_content()), 3)

    assert (result.positives.shape, result.negatives.shape) == ((0, 3), (0, 3))


@pytest.mark.parametrize("declared", [18, 22])  # up to 4 patients per class may be withheld
def test_training_scores_of_as_many_rows_as_were_declared_are_read(declared: int) -> None:
    result = read_training_scores(over_the_wire(training_scores()), declared)

    assert result.positives.tolist() == [[6, 1, 0.5], [5, 2, 0.1]]
    assert result.negatives.tolist() == [[7, -1, 0]]


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"positives": None}, "not exactly: negatives, positives"),
        ({"negatives": None}, "not exactly: negatives, positives"),
        ({"num-examples": 18}, "not exactly: negatives, positives"),
        ({"negatives": [8.0, 731.0, 0.0]}, "more than the training rows"),
        ({"positives": [19.0, 731.0, 0.0]}, "more than the training rows"),
        ({"positives": [1e30, 731.0, 0.0] * 64}, "more than the training rows"),
        ({"positives": [5.0, 731.0]}, "positives are not .* finite"),
        ({"positives": 731.0}, "positives are not .* finite"),
        ({"negatives": [5.0, math.nan, 731.0]}, "negatives are not .* finite"),
        ({"negatives": [5.0, 731.0, math.inf]}, "negatives are not .* finite"),
        ({"negatives": [5.0, 731.0, 1e308]}, "negatives are not .* finite"),
        ({"negatives": [5.0, -1e308, 731.0]}, "negatives are not .* finite"),
        ({"positives": [1e308, 731.0, 0.0] * 64}, "positives are not .* finite"),
        ({"negatives": [5.0, 731.0, 1.0] * (MAX_BINARY_CELLS + 1)}, "negatives are not .* finite"),
        ({"positives": [4.0, 731.0, 1.0]}, "positives are too small"),
        ({"positives": [0.0, 731.0, 1.0]}, "positives are too small"),
        ({"positives": [-5.0, 731.0, 1.0]}, "positives are too small"),
        ({"negatives": [5.5, 731.0, 1.0]}, "negatives are too small"),
        ({"negatives": [5.0, 731.0, -0.1]}, "negatives are too small"),
    ],
)
def test_malformed_training_scores_are_refused(changes: dict[str, Any], pattern: str) -> None:
    with pytest.raises(MalformedMessageError, match=pattern) as caught:
        read_training_scores(over_the_wire(training_scores(**changes)), 18)

    assert_no_value(caught.value, "731")


def test_training_scores_without_metrics_are_refused() -> None:
    twofold = training_scores()
    twofold["more"] = MetricRecord({"positives": [5.0, 1.0, 1.0]})

    for content in (RecordDict(), twofold):
        with pytest.raises(MalformedMessageError, match="exactly one set of metrics"):
            read_training_scores(content, 18)


def test_the_most_extreme_cells_that_are_read_give_a_threshold_without_overflow() -> None:
    largest = float(np.finfo(np.float32).max)
    extreme = training_scores(positives=[5.0, largest, largest], negatives=[5.0, -largest, largest])

    result = read_training_scores(over_the_wire(extreme), 10)

    threshold = choose_threshold(result.positives, result.negatives)  # warnings are errors here
    assert threshold is not None
    assert 0 <= threshold <= 1
