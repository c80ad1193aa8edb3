"""What Flower's simulation is checked for before a run: its folder of hospitals, and how many there are.

It is the only way of running where the server can see the hospitals' folder: all are on its machine.
"""

from pathlib import Path

from flwr.serverapp import Grid

from federated_health.data.data_check import MIN_PATIENTS
from federated_health.data.manifest import read_manifest
from federated_health.errors import DataError, SettingsError
from federated_health.settings import Settings
from federated_health.transport.flower_engines import is_simulation


def check_simulation(grid: Grid, settings: Settings) -> None:
    """Refuse a simulation whose hospitals cannot be found, or are not as many as its settings say.

    Else each virtual hospital would be left out for a reason that stays with it, and the server wait for them in vain.

    Raises:
        DataError: there is no folder of hospitals where it is looked for.
        SettingsError: there is not a virtual node for every CSV, or more hospitals are waited for than can join, or the
            task is another one.
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
    there, nodes = len(manifest["hospitals"]), len(list(grid.get_node_ids()))
    small = sum(entry["rows"] < MIN_PATIENTS for entry in manifest["hospitals"])
    if nodes != there or settings.hospitals > there - small:
        fewer = f", {small} of them with fewer than {MIN_PATIENTS} patients, who may not join" if small else ""
        raise SettingsError(
            f"{folder} holds {there} hospitals{fewer}; the simulation has {nodes} nodes, and hospitals is "
            f"{settings.hospitals}: say --federation-config num-supernodes={there} "
            f"--run-config hospitals={there - small}"
        )
    if manifest["task"] != settings.task:
        raise SettingsError(
            f"{folder} is of the task {manifest['task']}, and the run of {settings.task}; say "
            f"--run-config \"task='{manifest['task']}'\""
        )
