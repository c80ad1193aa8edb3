"""The kind of run that the settings ask for, the transport that it needs, and the size of its replies."""

from dataclasses import replace

import numpy as np
import pytest

from federated_health import encryption
from federated_health.data.task_files import TASKS
from federated_health.encryption.ckks import SecretKey
from federated_health.encryption.run import EncryptedRun
from federated_health.errors import SettingsError
from federated_health.messages.records import size_of
from federated_health.ml.networks import Network, weight_shapes
from federated_health.server.plain_run import PlainRun, make_run
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport

PLAIN = Settings()
ENCRYPTED = replace(PLAIN, encrypt=True)


class Forgetful(InProcessTransport):
    """A transport like those over Flower's engines, which end a hospital's process with each message."""

    keeps_processes = False


def transport_of_no_hospitals(kind: type[InProcessTransport] = InProcessTransport) -> InProcessTransport:
    return kind(lambda message, _context: message, {})


def test_the_settings_decide_which_kind_of_run_is_made() -> None:
    assert type(make_run(transport_of_no_hospitals(), PLAIN)) is PlainRun
    assert type(make_run(transport_of_no_hospitals(), ENCRYPTED)) is EncryptedRun


def test_an_encrypted_run_needs_a_transport_that_keeps_processes() -> None:
    assert type(make_run(transport_of_no_hospitals(Forgetful), PLAIN)) is PlainRun
    with pytest.raises(SettingsError, match=r"encrypt: needs server\.py and client\.py"):
        make_run(transport_of_no_hospitals(Forgetful), ENCRYPTED)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_encrypted_weights_and_keys_fit_into_a_reply(task: str, model: str) -> None:
    limit = encryption.max_reply_bytes(TASKS[task], Network(model))
    key = SecretKey()
    weights = np.zeros(size_of(weight_shapes(TASKS[task], Network(model))) // 4)
    assert sum(map(len, key.encrypt(weights))) + 10_000 < limit
    assert 4 * len(key.content) < limit
