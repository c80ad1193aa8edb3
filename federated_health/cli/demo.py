"""The whole thing on one machine: hospitals' CSVs, a server and a client a hospital as processes on loopback.

They speak mutual TLS, with an authority of the demo's own. That all keys are made in one place is a demo's way only.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federated_health.data.manifest import read_manifest
from federated_health.data.sources.generated_patients import generate_patients, held_out_probability
from federated_health.data.tasks import HEART_DISEASE, READMISSION
from federated_health.errors import RunError
from federated_health.ml.metrics import roc_auc
from federated_health.names import METRICS, MODEL, REPORT
from federated_health.processes import free_port, interrupt, process, script_command
from federated_health.security.authority import make_demo_identities
from federated_health.setting_fields import Value
from federated_health.settings import Settings, read_defaults

POLL_INTERVAL = 0.1


@dataclass(frozen=True)
class Scenario:
    """What a demo shows.

    Attributes:
        source: as create_dataset.py knows it.
        strategy: as server.py knows it.
        hospitals: that the source has.
        patients: example patients to score.
    """

    source: str
    strategy: str
    hospitals: int
    patients: str


SCENARIOS = {
    HEART_DISEASE.name: Scenario("uci", "fedavg", 4, "data/example_patients.csv"),
    READMISSION.name: Scenario("readmission", "average", 2, "data/example_patients_readmission.csv"),
}


def run_demo(out: Path, task: str = HEART_DISEASE.name, extra: Sequence[str] = (), *, encrypt: bool = False) -> None:
    """Create the hospitals, run the federation, and leave everything in `out`; what an earlier run left there goes.

    The server writes to this terminal, each hospital to a log of its own.

    Args:
        task: one of SCENARIOS.
        extra: further flags of server.py.
        encrypt: whether the server averages what it cannot read; the results are a hospital's then.

    Raises:
        RunError: a process failed; a hospital's last words are in the message.
    """
    data, scenario = out / "data", SCENARIOS[task]
    command = script_command("create_dataset.py", "--source", scenario.source, "--out", data, "--force")
    if code := subprocess.run(command, check=False).returncode:
        raise RunError(f"create_dataset.py failed with code {code}")
    for account in data.glob("privacy-*.jsonl"):  # of what an earlier demo spent; a hospital's own is never removed
        account.unlink()
    manifest = read_manifest(data)
    hospitals = manifest["hospitals"]
    own_tls, tls = make_demo_identities(out / "tls", [entry["name"] for entry in hospitals])
    address = f"127.0.0.1:{free_port()}"
    logs = {entry["name"]: out / "hospitals" / entry["name"] / "console.log" for entry in hospitals}
    print(f"\nA server and {len(hospitals)} hospitals start as processes of their own; each hospital's words are in")
    print(f"{out / 'hospitals'}/NAME/console.log. Most of the time goes into importing TensorFlow.")
    print(f"They speak mutual TLS. All keys are in {out / 'tls'}, in one place, only because this is a demo: else each")
    print("is made on its owner's machine and stays there.\n", flush=True)
    with ExitStack() as stack:
        count = len(hospitals)
        serve = ("--task", task, "--hospitals", count, "--strategy", scenario.strategy, "--address", address)
        own = ("--tls", own_tls, "--out", out, "--force", *(["--encrypt"] if encrypt else []))
        server = stack.enter_context(process(script_command("server.py", *serve, *own, *extra)))
        clients = {}
        for entry in hospitals:
            name = entry["name"]
            whose = ("--data", data / entry["file"], "--name", name, "--task", task, "--tls", tls[name])
            join = script_command("client.py", *whose, "--server", address, "--out", logs[name].parent)
            clients[name] = stack.enter_context(process(join, log=logs[name]))
        try:
            _watch(server, clients, logs)
        except KeyboardInterrupt:
            interrupt([server, *clients.values()])
            raise
    results = next(iter(logs.values())).parent if encrypt else out
    if "generator_seed" in manifest["source"]:
        print(_compare(manifest["source"], json.loads((results / METRICS).read_text())["federation"]))
    predict = f"{shlex.quote(sys.executable)} predict.py {results / MODEL} {scenario.patients}"
    report = f", the report in {results / REPORT}" if encrypt else ""
    print(f"Everything is in {out}/{report}. Score new patients:\n  {predict}")


def check_demo(task: str, *, encrypt: bool, given: Mapping[str, Value]) -> None:
    """Refuse what the server would, before there is anything in the demo's folder.

    Args:
        given: further settings, by flag.

    Raises:
        SettingsError: the server would not start with them.
    """
    scenario = SCENARIOS[task]
    own: dict[str, Value] = {"task": task, "hospitals": scenario.hospitals, "strategy": scenario.strategy}
    Settings.from_config({**read_defaults(), **own, "encrypt": encrypt, **given})


def _compare(source: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """The federation's figure beside the best one that any model can expect on the same held-out patients."""
    records = generate_patients(source["generated_patients"], source["generator_seed"])
    best, reached = roc_auc(*held_out_probability(records)), figures["roc_auc"]
    if best is None or reached is None:
        return "The ROC-AUC is not defined on these held-out patients."
    return (
        f"Bayes-optimal ROC-AUC of the same held-out patients: {best:.3f}. The federation's {reached:.3f} leaves a gap "
        f"of {round(best, 3) - round(reached, 3):.3f}."
    )


def _watch(
    server: "subprocess.Popen[bytes]", clients: dict[str, "subprocess.Popen[bytes]"], logs: dict[str, Path]
) -> None:
    """Return when all have ended well."""
    while server.poll() is None or any(client.poll() is None for client in clients.values()):
        time.sleep(POLL_INTERVAL)
        if server.poll():
            raise RunError(f"server.py ended with code {server.returncode}")
        for name, client in clients.items():
            if client.poll():
                raise RunError(f"{name} ended with code {client.returncode}: {_last_line(logs[name])}")


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
