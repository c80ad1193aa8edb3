"""Federated runs in this process, over hospitals whose rows are in memory. Every model of a study is trained here."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from federated_health.data.hospital import Hospital
from federated_health.errors import RunError
from federated_health.hospital import handlers
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.in_process import App, InProcessTransport

if TYPE_CHECKING:
    from federated_health.hospital.local_model import LocalModel

NO_WAIT = 0.1
"""Seconds. In process, a hospital that cannot take part at once never will."""


def open_run(hospitals: Mapping[str, Hospital], settings: Settings, app: App) -> PlainRun:
    """A run that has not begun, over all of these hospitals.

    The norm of updates is not limited: hospitals in process are honest, and the smaller of two may well move further.
    """
    # TensorFlow warns of repeated compilation: here hospitals of many sizes share one process.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    contexts = {name: InMemoryHospital(hospital) for name, hospital in hospitals.items()}
    settings = replace(settings, hospitals=len(hospitals), appraisal=False, max_update_norm=0.0, wait=NO_WAIT)
    return PlainRun(InProcessTransport(app, contexts), settings)


def require_all_updates(run: PlainRun, hospitals: Mapping[str, Hospital]) -> None:
    """Raise RunError if a hospital's update is missing in a round: a study compares models of the same hospitals."""
    for record in run.history:
        updated = {name for name, figures in record.hospitals.items() if figures.train_examples}
        if missing := sorted(hospitals.keys() - updated):
            raise RunError(f"{', '.join(missing)} sent no usable update in round {record.number}")


def local_model(run: PlainRun, hospital: Hospital) -> "LocalModel":
    """A hospital's rows under the run's network and normalisation; the hospital need not be part of the run."""
    config = run.train_config()
    return handlers.local_model(hospital, config.model, config.normalisation)


forget_local_models = handlers.local_model.cache_clear
"""Frees the rows that `local_model` and the hospitals' handlers keep."""
