"""Figures in Flower's records are read strictly."""

from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from federated_health.messages.records import MalformedMessageError, read_floats, read_metrics, read_number, read_whole

VALUES: dict[str, Any] = {"whole": 3, "number": 0.25, "floats": [0.5, -1.0], "wholes": [1, 2], "none": []}


def metrics_of(value: Any) -> MetricRecord:
    return MetricRecord({"rows": value})


def test_the_one_set_of_metrics_is_read() -> None:
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
    ids=["none", "another name", "two", "another kind"],
)
def test_none_and_two_sets_of_metrics_are_refused(content: RecordDict) -> None:
    with pytest.raises(MalformedMessageError, match="exactly one set of metrics"):
        read_metrics(content, set(VALUES))


@pytest.mark.parametrize(
    "keys", [set(VALUES) - {"none"}, set(VALUES) | {"more"}, set()], ids=["a key less", "a key more", "none"]
)
def test_a_key_more_and_a_key_less_are_refused(keys: set[str]) -> None:
    with pytest.raises(MalformedMessageError, match="its metrics are not"):
        read_metrics(RecordDict({"metrics": MetricRecord(VALUES)}), keys)


@pytest.mark.parametrize("value", [2, 3])
def test_a_whole_number_of_at_least_the_minimum_is_read(value: int) -> None:
    assert read_whole(metrics_of(value), "rows", 2) == value


@pytest.mark.parametrize("value", [1, -3, 2.0, 2.5, float("nan"), [2], []])
def test_what_is_no_such_number_is_refused_without_its_value(value: Any) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        read_whole(metrics_of(value), "rows", 2)

    assert str(caught.value) == "its rows is not a whole number of at least 2"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1, [0.5], []])
def test_a_number_is_a_finite_float(value: Any) -> None:
    assert read_number(metrics_of(-0.5), "rows") == -0.5
    with pytest.raises(MalformedMessageError, match="its rows is not a finite number"):
        read_number(metrics_of(value), "rows")


@pytest.mark.parametrize("key", ["rows", "lacking"])
@pytest.mark.parametrize("value", [0.5, 1, [], [0.5], [0.5, 0.5, 0.5], [0.5, float("nan")], [float("inf"), 0.5]])
def test_floats_are_finite_and_as_many_as_asked_for(value: Any, key: str) -> None:
    with pytest.raises(MalformedMessageError, match=f"its {key} is not 2 finite numbers"):
        read_floats(metrics_of(value), key, 2)


@pytest.mark.parametrize("value", [[0.5, -2.0], [1, 2]])
def test_floats_are_read_as_float64(value: Any) -> None:
    array = read_floats(metrics_of(value), "rows", 2)

    assert array.tolist() == value
    assert array.dtype == np.float64


@pytest.mark.parametrize("read", [read_whole, read_number])
def test_a_lacking_number_is_refused(read: Any) -> None:
    with pytest.raises(MalformedMessageError, match="its rows is not"):
        read(MetricRecord({}), "rows", *([0] if read is read_whole else []))
