"""Figures of subgroups in a study, from out-of-fold scores."""

from typing import Any

from federated_health.data.hospital import Patients
from federated_health.data.subgroups import subgroups_of
from federated_health.ml.subgroup_figures import summarise_subgroups
from federated_health.ml.subgroups import measure_groups
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.comparison import Scores
from federated_health.studies.benefit.training_setups import TrainingSetup

EVERYONE = "all"
"""Key of all hospitals together in evidence.json."""


def study_subgroups(cohort: Cohort, scores: Scores, model: str = TrainingSetup.FEDERATED) -> dict[str, Any]:
    """Figures of the task's subgroups as under `subgroups` in evidence.json; nothing if the task declares none.

    Each figure is the mean over repeats, at the threshold of each fold's model.
    """
    task = cohort.task
    if not task.subgroups:
        return {}
    groups, figures = subgroups_of(task), {}
    for name, labels in scores.labels.items():
        of_hospital = scores.models[model][name]
        values = Patients.from_table(cohort.tables[name], task).values
        figures[name] = measure_groups(
            groups,
            values,
            of_hospital.outputs,
            labels,
            of_hospital.thresholds,
            scores.ids.get(name),
            scores.folds[name],
        )
    return summarise_subgroups(task, figures, EVERYONE)
