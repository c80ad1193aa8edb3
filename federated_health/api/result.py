"""The result of a run of the Python API: figures as DataFrames, the model, and the files that a server writes."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from federated_health import report
from federated_health.api.model import Model
from federated_health.api.tasks import write_task
from federated_health.data.task_files import TASKS
from federated_health.data.tasks import Task
from federated_health.errors import RunError
from federated_health.files import make_folder, write_json
from federated_health.ml.networks import weights_hash
from federated_health.ml.rounds import rounds_csv, write_rounds
from federated_health.ml.targets import target_of
from federated_health.ml.verdicts import verdict_text
from federated_health.names import DEFAULT_WAIT, FEDERATION, HOSPITAL_COLUMN, MODEL, REPORT, ROUNDS, SETTINGS
from federated_health.report.formatting import number_of
from federated_health.server.run import FederatedRun
from federated_health.server.run_folder import files_of_run
from federated_health.server.run_summary import recalibrations_of, summarise, write_metrics

TASK_FILE = "task.toml"


class Result:
    """A completed run: what its server knows, which is also in the files that it would write.

    Attributes:
        task: what was predicted.
        problems: what is suspicious in the hospitals' data, and what went wrong during the run; one line each.
    """

    def __init__(self, run: FederatedRun, figures: Mapping[str, Any], warnings: Sequence[str]) -> None:
        self._run, self._figures = run, figures
        self.task: Task = run.settings.task_declaration
        self._target = target_of(self.task)
        self.problems: tuple[str, ...] = (*warnings, *run.problems.describe())

    @property
    def threshold(self) -> float | None:
        """Risk from which a patient is predicted positive; None for a label that needs none."""
        return self._run.threshold if self._target.has_threshold else None

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Figures of the final model on held-out patients, as in metrics.json: a row per hospital and `federation`.

        The federation's figures are over all patients, not means of the hospitals' figures.
        """
        rows = {**self._figures["hospitals"], FEDERATION: self._figures["federation"]}
        columns = list(next(iter(rows.values())))
        return _table(rows.values(), pd.Index(rows, name=HOSPITAL_COLUMN))[columns]

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Figures of each round, as in rounds.csv: a row per round and hospital, then one of the federation."""
        return pd.read_csv(StringIO(rounds_csv(self._run.history, self._target)))

    @cached_property
    def benefit(self) -> pd.DataFrame:
        """What each hospital gains by joining: a row per hospital and figure by which models are compared.

        Columns: the figure of its own model (`own`) and of the federated model (`federated`), and by how much the
        federated model is better (`difference`, above 0 where it is better, also of a figure of which less is better),
        each with the ends of its interval (`..._low`, `..._high`); the difference's `p_value`; and the `verdict`,
        adjusted for the number of hospitals. Empty if hospitals were not asked (`appraisal=False`, differential
        privacy).
        """
        rows = {
            (name, figure): _flatten(comparison)
            for name, benefit in self._figures.get("joining", {}).items()
            for figure, comparison in benefit["comparisons"].items()
        }
        levels = list(zip(*rows, strict=True)) or [(), ()]
        return _table(rows.values(), pd.MultiIndex.from_arrays(levels, names=(HOSPITAL_COLUMN, "figure")))

    @cached_property
    def verdicts(self) -> pd.Series:
        """What each hospital gains by joining, in a sentence or two; empty where `benefit` is."""
        from federated_health.report.verdict_sentences import describe_verdict  # noqa: PLC0415  # where it is asked for

        joining = self._figures.get("joining", {})
        sentences = [describe_verdict(self._target, benefit) for benefit in joining.values()]
        return pd.Series(sentences, index=pd.Index(joining, name=HOSPITAL_COLUMN), name="verdict", dtype=object)

    @cached_property
    def model(self) -> Model:
        """The trained model."""
        from federated_health.ml.keras_models import build_model  # noqa: PLC0415  # as late as TensorFlow

        config, weights = self._run.train_config(), self._weights
        keras_model = build_model(self.task, config.network, config.normalisation, weights)
        saved_model = report.load().saved_model
        sites = saved_model.sites_of(recalibrations_of(self._figures))
        description = saved_model.describe_model(self.task, config, weights, sites)
        return Model(keras_model, self.task, self._run.threshold, description)

    def write_report(self, path: str | Path) -> None:
        """Write the page of the run, and its tables to a folder beside it; RunError if they cannot be written.

        The folder is `tables` beside a page report.html, else NAME-tables beside NAME.html.
        """
        self._write_report(Path(path), {"SHA-256 of the weights": weights_hash(self._weights)})

    def save(self, folder: str | Path) -> None:
        """Write the files of a run's folder: model.keras, metrics.json, rounds.csv, settings.json, report.html and its
        tables.

        A task that does not come with the package is written, too, to task.toml.

        Raises:
            RunError: the folder holds a run already, or cannot be written to.
        """
        folder = Path(folder)
        if present := files_of_run(folder):
            raise RunError(f"{folder}: holds a run already ({', '.join(present)}); name another folder")
        make_folder(folder)
        config = {**self._run.settings.to_config(), "wait": DEFAULT_WAIT}  # in process there was none
        if TASKS.get(self.task.name) is not self.task:
            write_task(self.task, folder / TASK_FILE)
            config["task-file"] = str(folder / TASK_FILE)
        write_json(folder / SETTINGS, config)
        write_rounds(folder / ROUNDS, self._run.history, self._target)
        write_metrics(folder, self._run, self._figures, stopped=False)
        self.model.save(folder / MODEL)
        self._write_report(folder / REPORT, report.load().run_page.hashes_of_model(folder / MODEL, self._weights))

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {figure:.3f}" for name, figure in self._headline().items())
        return f"<Result of {self._size()}: {figures}>"

    def _repr_html_(self) -> str:
        table = self.metrics.to_html(na_rep="-", float_format="{:.3f}".format, border=0)
        problems = f"<p>{len(self.problems)} in <code>problems</code></p>" if self.problems else ""
        return f"<p>{escape(self.task.label.meaning)}: {self._size()}</p>{table}{problems}"

    @property
    def _weights(self) -> dict[str, Any]:
        return self._run.weights

    def _write_report(self, path: Path, facts: Mapping[str, str]) -> None:
        date = report.load().formatting.today()
        summary = summarise(self._run, self._figures, stopped=False, facts=facts, date=date)
        report.load().run_page.write_run_report(path, summary)

    def _size(self) -> str:
        hospitals, rounds = len(self._run.registrations), len(self._run.history)
        return f"{number_of(hospitals, 'hospital')}, {number_of(rounds, 'round')}"

    def _headline(self) -> dict[str, float]:
        """The federation's figures, without numbers of rows and those that are not defined."""
        figures = {name: self._figures[FEDERATION][name] for name in self.metrics.columns}
        return {name: figure for name, figure in figures.items() if isinstance(figure, float)}


def _table(rows: Iterable[Mapping[str, Any]], index: pd.Index) -> pd.DataFrame:
    """A row per entry of the index; a figure that is not defined is NaN."""
    table = pd.DataFrame(list(rows), index=index)
    undefined = table.columns[table.isna().all()]
    return table.astype(dict.fromkeys(undefined, "float64"))


def _flatten(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Intervals as three columns: the figure, and its `..._low` and `..._high`."""
    row: dict[str, Any] = {}
    for part in ("own", "federated", "difference"):
        interval = comparison[part]
        row |= {part: interval["value"], f"{part}_low": interval["low"], f"{part}_high": interval["high"]}
    return {**row, "p_value": comparison["difference"]["p_value"], "verdict": verdict_text(comparison["verdict"])}
