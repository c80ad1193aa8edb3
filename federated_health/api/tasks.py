"""Tasks of the Python API: from a file or the package, and to a file."""

from pathlib import Path

from federated_health.data import task_writing
from federated_health.data.task_files import TASKS, get_task, read_task_file, task_name
from federated_health.data.tasks import Task
from federated_health.errors import SettingsError
from federated_health.files import write_text


def read_task(source: str | Path) -> Task:
    """The task that a task file declares, or the one of the package with this name, such as "heart-disease".

    Raises:
        DataError: it is neither.
        SettingsError: the source is no text and no path.
    """
    if not isinstance(source, str | Path):
        raise SettingsError(f"task: expected a name or the path of a task file, got {type(source).__name__}")
    if isinstance(source, str) and task_name(source) in TASKS:
        return get_task(source)
    return read_task_file(Path(source))


def write_task(task: Task, path: str | Path) -> None:
    """Write a task as a task file, to be reviewed, edited, and used with `--task-file`.

    Raises:
        StorageError: the file cannot be written.
    """
    write_text(Path(path), task_writing.write_task(task))
