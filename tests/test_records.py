"""Strict reading of figures from Flower's records."""

from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from federated_health.messages.records import MalformedMessageError
from federated_health.messages.validation import read_floats, read_metrics, read_number, read_whole

VALUES: dict[str, Any] = {"whole": 3, "number": 0.25, "floats": [0.5, -1.0], "wholes": [1, 2], "empty": []}


def metrics_of(value: Any) -> MetricRecord:
    return MetricRecord({"rows": value})


def test_the_only_set_of_metrics_is_read() -> None:
    content = RecordDict({"metrics": MetricRecord(VALUES), "config": ConfigRecord({"name": "a"})})

    assert dict(read_metrics(content, set(VALUES))) == VALUES
    assert dict(read_metrics(content, {"whole"}, set(VALUES) - {"whole"})) == VALUES
    assert dict(read_metrics(content, set(VALUES), {"more"})) == VALUES


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({}),
        RecordDict({"others": MetricRecord(VALUES)}),
        RecordDict({"metrics": MetricRecord(VALUES), "others": MetricRecord({})}),
        RecordDict({"metrics": ConfigRecord({"whole": 3})}),
    ],
    ids=["none", "another name", "two sets", "another kind"],
)
def test_no_or_several_sets_of_metrics_are_refused(content: RecordDict) -> None:
    with pytest.raises(MalformedMessageError, match="exactly one set of metrics"):
        read_metrics(content, set(VALUES))


@pytest.mark.parametrize(
    "keys", [set(VALUES) - {"empty"}, set(VALUES) | {"more"}, set()], ids=["unexpected key", "missing key", "no keys"]
)
def test_unexpected_and_missing_keys_are_refused(keys: set[str]) -> None:
    with pytest.raises(MalformedMessageError, match="not exactly"):
        read_metrics(RecordDict({"metrics": MetricRecord(VALUES)}), keys)


@pytest.mark.parametrize("value", [2, 3])
def test_a_whole_number_of_at_least_the_minimum_is_read(value: int) -> None:
    assert read_whole(metrics_of(value), "rows", 2) == value


@pytest.mark.parametrize("value", [1, -3, 2.0, 2.5, float("nan"), [2], []])
def test_other_values_are_no_whole_number_and_are_not_quoted(value: Any) -> None:
    with pytest.raises(MalformedMessageError, match="rows is not a whole number of at least 2") as caught:
        read_whole(metrics_of(value), "rows", 2)

    assert str(value) not in str(caught.value).removesuffix("2")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1, [0.5], []])
def test_a_number_is_a_finite_float(value: Any) -> None:
    assert read_number(metrics_of(-0.5), "rows") == -0.5
    with pytest.raises(MalformedMessageError, match="rows is not a finite number"):
        read_number(metrics_of(value), "rows")


@pytest.mark.parametrize("key", ["rows", "missing"])
@pytest.mark.parametrize("value", [0.5, 1, [], [0.5], [0.5, 0.5, 0.5], [0.5, float("nan")], [float("inf"), 0.5]])
def test_floats_must_be_finite_and_of_the_expected_number(value: Any, key: str) -> None:
    with pytest.raises(MalformedMessageError, match=f"{key} is not 2 finite numbers"):
        read_floats(metrics_of(value), key, 2)


@pytest.mark.parametrize("value", [[0.5, -2.0], [1, 2]])
def test_floats_are_read_as_float64(value: Any) -> None:
    array = read_floats(metrics_of(value), "rows", 2)

    assert array.tolist() == value
    assert array.dtype == np.float64


@pytest.mark.parametrize("read", [read_whole, read_number])
def test_a_missing_number_is_refused(read: Any) -> None:
    with pytest.raises(MalformedMessageError, match="rows is not"):
        read(MetricRecord({}), "rows", *([0] if read is read_whole else []))
