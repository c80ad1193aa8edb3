"""Runs a federation in this process: the server's run over DataFrames, with the handlers of hospitals."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from flwr.app import Context, Message

from federated_health.api.progress import show_progress
from federated_health.api.result import Result
from federated_health.api.tasks import read_task
from federated_health.data.data_check import check_table
from federated_health.data.data_frames import read_frame
from federated_health.data.hospital import Hospital, split_hospital
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.tasks import Task
from federated_health.errors import AnswerError, RunError, SettingsError
from federated_health.hospital import handlers
from federated_health.names import NETWORK, is_hospital_name
from federated_health.server.plain_run import make_run
from federated_health.server.run import FederatedRun
from federated_health.settings import OPERATIONAL, Settings
from federated_health.transport.in_process import InProcessTransport

NOT_IN_PROCESS = (OPERATIONAL - {NETWORK}) | {"task", "hospitals", "secure-aggregation"}
"""Settings, spelled with dashes, that have no meaning where all hospitals are in one process."""

NO_WAIT = 0.1
"""Seconds to wait for hospitals: in process, one that cannot take part at once never will."""

logging.getLogger("federated_health").addHandler(logging.NullHandler())  # a library is silent unless asked


def federate(
    hospitals: Mapping[str, pd.DataFrame],
    task: Task | str | Path,
    *,
    split_seed: int = DEFAULT_SPLIT_SEED,
    progress: bool | None = None,
    **settings: Any,
) -> Result:
    """Train one model with these hospitals, as `server.py` and `client.py` do: the same weights to the bit.

    All rows are in this process: use it for research, simulation and teaching, not between hospitals that must not
    share patients.

    Args:
        hospitals: name (lower-case letters, digits, hyphens) -> its patients; checked like a hospital's CSV. The
            frames are not changed, and their index is ignored.
        task: what to predict: a task, the name of one of the package, or the path of a task file.
        split_seed: decides which quarter of each hospital's patients is held out, as `client.py --split-seed`.
        progress: whether to show the completed rounds; by default in notebooks only.
        settings: those of `server.py` with underscores, such as `rounds=30`, `strategy="fedprox"` or `seed=1`;
            docs/settings.md lists them.

    Raises:
        SettingsError: a setting or a name is not valid, or has no meaning in one process.
        DataError: a hospital's table cannot be used; the text names hospital and column, and no value.
        NetworkError: the file of `network` cannot be used.
        RunError: too few hospitals could train, or the weights are not finite.
    """
    declared = task if isinstance(task, Task) else read_task(task)
    if not isinstance(_plain(split_seed), int):
        raise SettingsError(f"split_seed: expected a whole number, got {split_seed!r}")
    checked = _read_settings(settings, declared, hospitals)
    ready = {name: _prepare(name, table, declared, split_seed) for name, table in hospitals.items()}
    with _quiet_libraries():
        run, figures = _run(ready, checked, progress)
    warnings = [f"{name}: {warning}" for name, hospital in ready.items() for warning in hospital.warnings]
    return Result(run, figures, warnings)


def _read_settings(given: Mapping[str, Any], task: Task, hospitals: Mapping[str, object]) -> Settings:
    config = {name.replace("_", "-"): _plain(value) for name, value in given.items()}
    for name in given:
        if name.replace("_", "-") in NOT_IN_PROCESS:
            raise SettingsError(f"{name}: has no meaning where all hospitals are in one process")
    if not isinstance(hospitals, Mapping):
        raise SettingsError(f"hospitals: expected a table by name, as in a dict, got {type(hospitals).__name__}")
    for name in hospitals:
        if not (isinstance(name, str) and is_hospital_name(name)):
            shown = repr(name) if isinstance(name, str) else type(name).__name__
            raise SettingsError(f"hospitals: expected names of lower-case letters, digits and hyphens, got {shown}")
    own = {"hospitals": len(hospitals), "wait": NO_WAIT}
    settings = Settings.from_config({**config, **own}, declared_task=task)
    settings.check_given(config)
    return settings


def _plain(value: object) -> Any:
    """A setting as a run config holds it: Python's own number for one of NumPy, and the text of a path."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def _prepare(name: str, table: pd.DataFrame, task: Task, split_seed: int) -> Hospital:
    """A hospital whose table was checked and split as a CSV is."""
    return split_hospital(check_table(name, task, read_frame(table, name, task)), name, int(split_seed))


def _run(
    hospitals: Mapping[str, Hospital], settings: Settings, progress: bool | None
) -> tuple[FederatedRun, dict[str, Any]]:
    """The completed run, and its figures as in metrics.json."""
    failures: list[AnswerError] = []

    def answer(message: Message, context: Context) -> Message:
        try:
            return handlers.answer(message, context)
        except AnswerError as failure:
            failures.append(failure)
            raise

    network = settings.network_declaration.path
    contexts = {name: handlers.InMemoryHospital(hospital, network) for name, hospital in hospitals.items()}
    run = make_run(InProcessTransport(answer, contexts), settings)
    try:
        run.gather()
        with show_progress(settings.rounds, progress) as show:
            for completed in run.rounds():
                show(completed)
        return run, run.evaluate()
    except RunError as error:
        counted = (*run.problems.rejected.values(), *run.problems.unanswered.values())
        reasons = sorted({reason for reasons in counted for reason in reasons if reason not in str(error)})
        raise RunError("; ".join([str(error), *reasons])) from (failures[-1].error if failures else error)
    finally:
        handlers.local_model.cache_clear()  # it would keep the hospitals' rows


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Hide what Flower logs of each round, and TensorFlow's warnings of repeated compilation."""
    levels = {"flwr": logging.WARNING, "tensorflow": logging.ERROR}
    before = {name: logging.getLogger(name).level for name in levels}
    try:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
