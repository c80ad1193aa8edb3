"""A hospital's node of Flower's deployment: its CSV, name and key, checked, and the command that starts it."""

from dataclasses import dataclass
from pathlib import Path

from federated_health.cli.processes import free_port
from federated_health.data.hospital import Hospital, load_hospital
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.tasks import Task
from federated_health.hospital.registry import ONLY_ENCRYPTED
from federated_health.privacy.guard import BUDGET
from federated_health.security import Identity
from federated_health.settings import Value
from federated_health.transport.channels import split_address
from federated_health.transport.deployment.flower import authority_file, config_words, executable, write_node_key


@dataclass(frozen=True, kw_only=True)
class SuperNode:
    """One hospital as a SuperNode.

    Its runtime listens on loopback alone, for the processes that it starts a message each.

    Attributes:
        data: its CSV.
        identity: its name, and the key that it proves itself with.
        superlink: HOST:PORT of the SuperLink.
        split_seed: which patients are held out, for good.
        budget: epsilon that may be spent over all runs; None without differential privacy.
        encrypted_only: whether it takes part in encrypted runs alone.

    Raises:
        AddressError: `superlink` is not HOST:PORT.
    """

    data: Path
    identity: Identity
    superlink: str
    split_seed: int = DEFAULT_SPLIT_SEED
    budget: float | None = None
    encrypted_only: bool = False

    def __post_init__(self) -> None:
        split_address(self.superlink)

    def load(self, task: Task) -> Hospital:
        """The hospital as each of its processes will read it.

        Raises:
            DataError: its CSV cannot be used.
        """
        return load_hospital(self.data, task, self.identity.name, self.split_seed)

    def node_config(self) -> dict[str, Value]:
        """What a ClientApp of this node learns of its hospital: a path of this machine, since it runs elsewhere."""
        budget: dict[str, Value] = {} if self.budget is None else {BUDGET: self.budget}
        only: dict[str, Value] = {ONLY_ENCRYPTED: True} if self.encrypted_only else {}
        own: dict[str, Value] = {"data": str(self.data.absolute()), "name": self.identity.name}
        own["tls"] = str(self.identity.folder.absolute())
        return {**own, "split-seed": self.split_seed, **budget, **only}

    def command(self) -> list[str]:
        """Flower's command; its key is written first, in the form that it reads. Each has a port of its own.

        Raises:
            CertificateError: the key cannot be read or written.
            RunError: Flower is not there, or a path cannot be told it.
        """
        program, config = executable("flower-supernode"), config_words(self.node_config())  # before a key is written
        return [
            program,
            *("--superlink", self.superlink),
            *("--root-certificates", str(authority_file(self.identity))),
            *("--auth-supernode-private-key", str(write_node_key(self.identity).absolute())),
            *("--node-config", config),
            *("--host", "127.0.0.1", "--port", str(free_port())),
        ]
