"""Small tasks with a label of each kind."""

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.labels import ClassLabel, CountLabel, NumberLabel
from federated_health.data.tasks import Task

STAGES = ClassLabel("stage", "stage of the disease", {0: "none", 1: "mild", 2: "severe"})
DAYS = NumberLabel("days", "length of the stay", "days", low=0, high=400)
VISITS = CountLabel("visits", "emergency visits in the year after", high=200)


def task_with(label: Label) -> Task:
    """A task of two columns with this label."""
    columns = (
        Measurement("age", "age", "years", low=0, high=120),
        Category("sex", "sex", {0: "female", 1: "male"}),
    )
    return Task(name="small", columns=columns, label=label)
