"""What would leave a hospital in a run with default settings, before it joins one: for `client.py --check`."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from federated_health.data.hospital import Hospital
from federated_health.data.manifest import is_public
from federated_health.hospital import release_memory
from federated_health.hospital.disclosure import disclose
from federated_health.hospital.handlers import describe_rows
from federated_health.hospital.ledger import LEDGER
from federated_health.hospital.policy import policy_of
from federated_health.hospital.policy_draft import MAX_PARAMETERS_PER_ROW
from federated_health.messages.benefit import Benefit
from federated_health.messages.content import ROUND_EVALUATION, Evaluation, TrainingScores
from federated_health.messages.releases import RELEASES, size_of
from federated_health.messages.run_terms import RunTerms
from federated_health.ml.metrics import DEFAULT_THRESHOLD
from federated_health.ml.networks import Network, number_of_weights
from federated_health.ml.normalisation import ColumnSums
from federated_health.ml.targets import target_of
from federated_health.report.formatting import list_some, number_of
from federated_health.settings import Settings

TEXTS = ("name", "error")
"""Releases without a size."""


class ExpectedReleases:
    """What would leave a hospital in a run with default settings.

    Args:
        data: its CSV.
        config: its node config, for its policy and its earlier releases.

    Raises:
        DataError: its policy cannot be used.
        DisclosureError: its earlier releases are not known.
    """

    def __init__(self, hospital: Hospital, data: Path, config: Mapping[str, Any]) -> None:
        policy = replace(policy_of(config), public=is_public(data))
        self.notes: tuple[str, ...] = ()
        if not policy.public:
            folder = config.get(LEDGER)
            memory = release_memory.path_beside(data, hospital.name, Path(str(folder)) if folder else None)
            hospital = release_memory.choose_rows(hospital, memory, policy.min_cell, is_recorded=False)
            self.notes = hospital.notes
        self._hospital, self._policy = hospital, policy
        self._terms = RunTerms.of(Settings.from_config({}, hospital.task))
        disclosed = disclose(describe_rows(hospital), hospital, policy)
        contents = [disclosed, *(disclose(content, hospital, policy) for content in self._others())]
        contents.append(disclose(self._evaluation, hospital, policy, is_final=True))
        self._suppressed = {name: reason for content in contents for name, reason in content.suppressed.items()}
        self._suppressed_sums = self._name_suppressed_sums(disclosed.sums)

    def releases(self) -> list[str]:
        """One line per release: its size in one message, whether it is suppressed now, and what it is."""
        lines = []
        for name in self._terms.releases:
            size, reason = size_of(name, self._hospital.task, self._terms), self._suppressed.get(name)
            now = f" Now suppressed, wholly or in part: {reason}." if reason else ""
            if size or name in TEXTS:
                lines.append(f"{name}{f' ({size:,} bytes)' if size else ''}: {RELEASES[name].words}{now}")
        return lines

    def remarks(self) -> list[str]:
        """What the policy suppresses, and how large the network is for the training rows."""
        return [*self._describe_policy(), *self.notes, *self._describe_size()]

    def _describe_policy(self) -> Iterator[str]:
        policy, cell = self._policy, self._policy.min_cell
        if policy.public:
            yield "manifest.json says that the data are public: nothing is suppressed"
            return
        yield f"policy: {policy.file or 'the default'}; counts of 1 to {cell - 1} patients are suppressed"
        if self._suppressed_sums:
            yield f"measurements whose sums are suppressed now: {list_some(self._suppressed_sums, ', ')}"
        if ROUND_EVALUATION not in self._suppressed and target_of(self._hospital.task).has_classes:
            yield "the evaluation of a round, or of the final model, is suppressed when one of its counts is that small"
        for refusal in policy.refusals(self._terms, train_rows=len(self._hospital.train), task=self._hospital.task):
            yield f"the policy refuses a run with default settings: {refusal}"

    def _describe_size(self) -> Iterator[str]:
        rows, task = len(self._hospital.train), self._hospital.task
        smaller = number_of_weights(task, Network("logistic"))
        yield (
            f"{number_of(self._terms.parameters, 'weight')} are {self._terms.parameters / rows:.2f} per training row "
            f"({rows:,}); DataSHIELD allows {MAX_PARAMETERS_PER_ROW}. Fewer weights reveal less about "
            f"single patients: server.py --model logistic trains {smaller:,}, {smaller / rows:.2f} per row"
        )

    @property
    def _evaluation(self) -> Evaluation:
        """The evaluation of a model that knows nothing. Its counts are the numbers of patients of each class."""
        target, test = target_of(self._hospital.task), self._hospital.test
        outputs = self._no_outputs(len(test))
        return Evaluation(
            counts=target.measure(outputs, test.labels, DEFAULT_THRESHOLD),
            roc_auc=target.roc_auc(outputs, test.labels),
            scores=target.group_scores(outputs, test.labels, test.ids),
        )

    def _others(self) -> Iterator[Any]:
        """A round's evaluation, scores for the threshold, and the benefit of joining."""
        target, train, columns = target_of(self._hospital.task), self._hospital.train, len(self._hospital.task.columns)
        yield replace(self._evaluation, roc_auc=None, scores={})
        if target.has_threshold:
            groups = target.group_scores(self._no_outputs(len(train)), train.labels, train.ids)
            yield TrainingScores(positives=groups["positives"], negatives=groups["negatives"])
        observed = (~np.isnan(train.values)).sum(axis=0).astype(np.float64)
        yield Benefit(comparisons={}, calibration={}, importance=np.zeros(columns), observed=observed)

    def _no_outputs(self, rows: int) -> Any:
        outputs = target_of(self._hospital.task).outputs
        return np.zeros((rows, outputs) if outputs > 1 else rows, dtype=np.float32)

    def _name_suppressed_sums(self, disclosed: ColumnSums) -> list[str]:
        """Measurements whose sums do not leave though some patients have them."""
        observed = ~np.isnan(self._hospital.train.values[:, list(self._hospital.task.measurement_positions)])
        is_suppressed = observed.any(axis=0) & (disclosed.count == 0)
        pairs = zip(self._hospital.task.measurements, is_suppressed, strict=True)
        return [measurement.name for measurement, suppressed in pairs if suppressed]
