"""Networks that a user's file builds: the file, and what Keras says of the network, without importing either.

A process that has loaded Keras, as a hospital's has, builds the network itself. Any other starts
`ml.network_process` for it, so that a server stays small.
"""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from federated_health.data.task_writing import write_task
from federated_health.data.tasks import Task
from federated_health.errors import NetworkError
from federated_health.file_access import read_file
from federated_health.ml.networks import FILE, Network, Weights
from federated_health.names import printable

BUILD = "build"
"""Name of the function in a network file."""

MAX_FILE_BYTES = 2**20
MAX_SECONDS = 60.0
"""Time limit for building and checking a network in another process."""


@dataclass(frozen=True)
class Description:
    """What Keras says of a network.

    Attributes:
        weights: initial weights and state by name, for the seed with which the network was built.
        state: names of the weights that are not trainable, such as moving statistics; gradients do not change them.
        is_random: whether training is random, as with Dropout.
        has_penalties: whether layers add losses or constraints of their own.
    """

    weights: Weights
    state: tuple[str, ...] = ()
    is_random: bool = False
    has_penalties: bool = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.weights.items()}


def read_network(path: Path) -> Network:
    """The network of a file, which is parsed but not executed; NetworkError if it cannot be read or has no `build`."""
    source = _read(path)
    try:
        code = compile(source, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        raise NetworkError(f"{path}: {where}{error.msg}") from None
    except Exception as error:  # such as a ValueError, or a RecursionError or MemoryError where it is nested too deeply
        raise NetworkError(f"{path}: is not Python ({error or type(error).__name__})") from None
    if BUILD not in code.co_names:
        raise NetworkError(f"{path}: has no function build(features, outputs) that returns a keras.Model")
    return Network(FILE, sha256=hashlib.sha256(source).hexdigest(), path=path)


def read_source(network: Network) -> tuple[Path, bytes]:
    """This side's copy of a network's file.

    Raises:
        NetworkError: this side has none, or has another one than the network's.
    """
    if network.path is None:
        raise NetworkError("the server's network is a file: give this hospital its copy with --network")
    source = _read(network.path)
    if hashlib.sha256(source).hexdigest() != network.sha256:
        raise NetworkError(f"{network.path}: is not the file of this run; it has changed, or is another copy")
    return network.path, source


def _read(path: Path) -> bytes:
    try:
        return read_file(path, MAX_FILE_BYTES)
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({error.strerror})") from None


def check_network(task: Task, network: Network, seed: int) -> Description:
    """Build the network, and try a training step and an evaluation; NetworkError for what does not work."""
    if "keras" in sys.modules and (task, network) not in _tried:
        from federated_health.ml import network_check  # noqa: PLC0415  # uses Keras, which is loaded already

        network_check.try_out(task, network)
        _tried.add((task, network))
    return describe_network(task, network, seed)  # in another process, this tries it out, too


def describe_network(task: Task, network: Network, seed: int | None = None) -> Description:
    """What Keras says of the network, with the initial weights for a seed, or without one for any seed.

    Raises:
        NetworkError: the file cannot be used.
    """
    known = _described.setdefault((task, network), {})
    if seed is None:
        seed = next(iter(known), 0)
    if seed not in known:
        if "keras" in sys.modules:
            from federated_health.ml import network_check  # noqa: PLC0415  # uses Keras, which is loaded already

            known[seed] = network_check.describe(task, network, seed)
        else:
            known[seed] = _ask_process(task, network, seed)
    return known[seed]


_tried: set[tuple[Task, Network]] = set()
"""Networks that this process has tried out."""

_described: dict[tuple[Task, Network], dict[int, Description]] = {}
"""Descriptions of a network by seed."""


def _ask_process(task: Task, network: Network, seed: int) -> Description:
    """The answer of `ml.network_process`, which loads Keras."""
    path, _ = read_source(network)
    request = {"task": write_task(task), "path": str(path.absolute()), "sha256": network.sha256, "seed": seed}
    try:
        finished = subprocess.run(
            [sys.executable, "-m", "federated_health.ml.network_process"],
            cwd=Path(__file__).resolve().parents[2],  # also where the package is not installed
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=MAX_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NetworkError(f"{path}: expected import, build and a training step within {MAX_SECONDS:g} s") from None
    except OSError as error:
        raise NetworkError(f"{path}: cannot be checked in a process of its own ({error.strerror})") from None
    if finished.returncode == REFUSED and finished.stdout:
        raise NetworkError(finished.stdout.decode())
    if finished.returncode != 0 or not finished.stdout:  # the file may end the process, too, with any code
        last = finished.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise NetworkError(f"{path}: its process ended with code {finished.returncode} ({printable(last)})")
    return read_description(finished.stdout)


REFUSED = 3
"""Exit code of the process whose answer is an error's text."""


def write_description(description: Description) -> bytes:
    """A description as NumPy's npz: the weights, and everything else as JSON."""
    file = BytesIO()
    rest = {name: value for name, value in vars(description).items() if name != "weights"}
    np.savez(file, allow_pickle=False, rest=json.dumps(rest), **description.weights)
    return file.getvalue()


def read_description(content: bytes) -> Description:
    """The inverse of `write_description`."""
    with np.load(BytesIO(content), allow_pickle=False) as file:
        weights = {name: file[name] for name in file.files}
    rest = json.loads(str(weights.pop("rest")))
    return Description(weights=weights, **{**rest, "state": tuple(rest["state"])})
