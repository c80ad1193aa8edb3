"""Checks Flower's simulation before a run: its folder of hospitals, and their number.

Only in a simulation can the server see the hospitals' folder: they are all on its machine.
"""

from pathlib import Path

from flwr.serverapp import Grid

from federated_health.data.data_check import MIN_PATIENTS
from federated_health.data.manifest import read_manifest
from federated_health.errors import DataError, SettingsError
from federated_health.settings import Settings
from federated_health.transport.flower_engines import is_simulation


def check_simulation(grid: Grid, settings: Settings) -> None:
    """Refuse a simulation whose hospitals cannot be found, or differ in number from the settings.

    Otherwise every virtual hospital would be left out, and the server would wait for them in vain.

    Raises:
        DataError: the folder has no manifest.
        SettingsError: nodes and CSVs differ in number, more hospitals are awaited than can join, or the task differs.
    """
    if not is_simulation(grid):
        return
    folder = Path(settings.data).absolute()
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        where = "" if Path(settings.data).is_absolute() else ", which is where Flower's local SuperLink was started"
        raise DataError(
            f"{error}. data={settings.data!r} was looked for in {Path.cwd()}{where}; name a folder, such as: "
            "--run-config \"data='$PWD/data'\""
        ) from None
    count, nodes = len(manifest["hospitals"]), len(list(grid.get_node_ids()))
    small = sum(hospital["rows"] < MIN_PATIENTS for hospital in manifest["hospitals"])
    if nodes != count or settings.hospitals > count - small:
        fewer = f", {small} of them with fewer than {MIN_PATIENTS} patients, which may not join" if small else ""
        raise SettingsError(
            f"{folder} holds {count} hospitals{fewer}; the simulation has {nodes} nodes, and hospitals is "
            f"{settings.hospitals}: say --federation-config num-supernodes={count} "
            f"--run-config hospitals={count - small}"
        )
    if manifest["task"] != settings.task:
        raise SettingsError(
            f"{folder}: expected a folder of the task {settings.task}, got {manifest['task']}; say "
            f"--run-config \"task='{manifest['task']}'\""
        )
