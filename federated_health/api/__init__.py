"""The Python API: `import federated_health as fh` offers its names as `fh.federate`, ...; see docs/python-api.md."""

from federated_health.api.model import Model, load_model
from federated_health.api.result import Result
from federated_health.api.simulation import federate
from federated_health.api.tasks import read_task, write_task
from federated_health.data.exports.frame_draft import draft_task
from federated_health.data.tasks import Task
from federated_health.errors import UserError

__all__ = ["Model", "Result", "Task", "UserError", "draft_task", "federate", "load_model", "read_task", "write_task"]
