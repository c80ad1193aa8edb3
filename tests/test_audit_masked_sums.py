"""Sums with masks: those of one message cancel, and a server that sends different messages gets noise."""

from collections.abc import Mapping

import numpy as np
import pytest

from federated_health.ml.networks import Weights
from federated_health.studies.audit import masked_sums
from federated_health.studies.audit.masked_sums import masked_average, silent_weights, single_out
from federated_health.studies.audit.observations import Step

SHARES = {"a": 0.5, "b": 0.25, "c": 0.25}


def weights(value: float) -> Weights:
    return {
        "logit/kernel": np.full((2, 1), value, dtype=np.float32),
        "logit/bias": np.full(1, -value, dtype=np.float32),
    }


def steps(before: Mapping[str, Weights], after: Mapping[str, Weights]) -> dict[str, Step]:
    return {name: Step(before[name], after[name]) for name in SHARES}


def largest_difference(found: Weights, expected: Weights) -> float:
    assert list(found) == list(expected)
    return max(float(np.abs(found[name] - expected[name]).max()) for name in expected)


TRAINED = {"a": weights(2.0), "b": weights(4.0), "c": weights(-8.0)}
SAME = dict.fromkeys(SHARES, weights(1.0))
SINGLED_OUT = {"a": weights(1.0), "b": silent_weights(weights(1.0)), "c": silent_weights(weights(1.0))}


def test_the_server_gets_the_average_of_hospitals_that_received_the_same_weights() -> None:
    """2 x 0.5 + 4 x 0.25 - 8 x 0.25 = 0."""
    assert largest_difference(masked_average(steps(SAME, TRAINED), SHARES), weights(0.0)) < 1e-9


def test_the_server_gets_noise_if_one_hospital_received_other_weights() -> None:
    noise = masked_average(steps({**SAME, "c": weights(1.5)}, TRAINED), SHARES)
    assert largest_difference(noise, weights(0.0)) > 1000.0


def test_silent_hospitals_would_leave_a_single_one_in_the_sum_if_masks_did_not_depend_on_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = {"a": weights(2.0), "b": silent_weights(weights(1.0)), "c": silent_weights(weights(1.0))}
    hidden = single_out(masked_average(steps(SINGLED_OUT, trained), SHARES), SHARES["a"])
    assert largest_difference(hidden, weights(2.0)) > 1000.0
    monkeypatch.setattr(masked_sums, "weights_hash", lambda _: "the same for all")
    exposed = single_out(masked_average(steps(SINGLED_OUT, trained), SHARES), SHARES["a"])
    assert largest_difference(exposed, weights(2.0)) < 1e-6
