"""The kind of run that the settings ask for, the transport that it needs, and the size of its replies."""

from dataclasses import replace

import numpy as np
import pytest

from federated_health import secure_aggregation
from federated_health.data.task_files import TASKS
from federated_health.errors import SettingsError
from federated_health.messages.records import size_of
from federated_health.ml.networks import Network, weight_shapes
from federated_health.ml.targets import target_of
from federated_health.secure_aggregation import figures, masks
from federated_health.secure_aggregation.run import SecureRun
from federated_health.server.plain_run import PlainRun, make_run
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport

PLAIN = Settings()
SECURE = replace(PLAIN, secure_aggregation=True)


class Forgetful(InProcessTransport):
    """A transport like those over Flower's engines, which end a hospital's process with each message."""

    keeps_processes = False


def transport_of_no_hospitals(kind: type[InProcessTransport] = InProcessTransport) -> InProcessTransport:
    return kind(lambda message, _context: message, {})


def test_the_settings_decide_which_kind_of_run_is_made() -> None:
    assert type(make_run(transport_of_no_hospitals(), PLAIN)) is PlainRun
    assert type(make_run(transport_of_no_hospitals(), SECURE)) is SecureRun


def test_secure_aggregation_needs_a_transport_that_keeps_processes() -> None:
    assert type(make_run(transport_of_no_hospitals(Forgetful), PLAIN)) is PlainRun
    with pytest.raises(SettingsError, match=r"secure-aggregation: needs server\.py and client\.py"):
        make_run(transport_of_no_hospitals(Forgetful), SECURE)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_masked_weights_and_figures_fit_into_a_reply(task: str, model: str) -> None:
    limit = secure_aggregation.max_reply_bytes(TASKS[task], Network(model))
    weights = masks.write_weights(np.zeros(size_of(weight_shapes(TASKS[task], Network(model))) // 4), 1.0)
    length = figures.length_of_final(target_of(TASKS[task]), len(TASKS[task].columns))
    assert weights.nbytes + masks.write_figures(np.zeros(length)).nbytes + 10_000 < limit
