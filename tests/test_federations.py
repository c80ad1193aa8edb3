"""Which kind of run settings ask for, and what goes with it."""

from dataclasses import replace

import numpy as np
import pytest
from federated_health.server.kinds import check_tls, make_run, max_reply_bytes
from flwr.clientapp import ClientApp

from federated_health.data.tasks import TASKS
from federated_health.encryption.ckks import SecretKey
from federated_health.encryption.run import EncryptedRun
from federated_health.errors import SettingsError
from federated_health.messages import content
from federated_health.messages.records import size_of
from federated_health.ml.networks import weight_shapes
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings, read_defaults
from federated_health.transport.in_process import InProcessTransport

PLAIN = Settings.from_config(read_defaults())
ENCRYPTED = replace(PLAIN, encrypt=True)


def test_the_settings_decide() -> None:
    grid = InProcessTransport(ClientApp(), {})
    assert type(make_run(grid, PLAIN)) is PlainRun
    assert type(make_run(grid, ENCRYPTED)) is EncryptedRun


@pytest.mark.parametrize("engine", ["InMemoryGrid", "HttpGrid"])
def test_flowers_own_engines_would_keep_nothing_of_an_encrypted_run(engine: str) -> None:
    grid = type(engine, (InProcessTransport,), {})(ClientApp(), {})
    assert type(make_run(grid, PLAIN)) is PlainRun
    with pytest.raises(SettingsError, match="encrypt: goes between terminals only"):
        make_run(grid, ENCRYPTED)


def test_an_encrypted_run_over_streams_needs_an_identity() -> None:
    check_tls(ENCRYPTED, has_identity=True)
    check_tls(PLAIN, has_identity=False)
    with pytest.raises(SettingsError, match=r"^tls: --encrypt needs it"):
        check_tls(ENCRYPTED, has_identity=False)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_encrypted_weights_and_keys_fit_into_a_reply(task: str, model: str) -> None:
    settings = replace(ENCRYPTED, task=task, model=model)
    key = SecretKey.make()
    weights = np.zeros(size_of(weight_shapes(settings.task_declaration, model)) // 4)
    assert sum(map(len, key.encrypt(weights))) + 10_000 < max_reply_bytes(settings)
    assert 4 * len(key.to_bytes()) < max_reply_bytes(settings)
    plain = replace(settings, encrypt=False)
    assert max_reply_bytes(plain) == content.max_reply_bytes(plain.task_declaration, model)
