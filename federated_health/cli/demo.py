"""A whole run on one machine: hospitals' CSVs, a server, and one client per hospital, as processes on loopback.

They use mutual TLS with the demo's own authority. All keys are made in one place only because it is a demo.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federated_health.cli import parsing
from federated_health.data.dataset_folder import EXAMPLE_PATIENTS
from federated_health.data.hospital import load_hospital
from federated_health.data.manifest import read_manifest
from federated_health.data.sources.generated_patients import generate_patients, held_out_probability
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.task_files import DEFAULT_TASK, HEART_DISEASE, READMISSION, READMISSION_30D, task_name
from federated_health.errors import RunError
from federated_health.files import make_folder, write_text
from federated_health.hospital.policy_draft import draft_policy
from federated_health.messages.run_terms import RunTerms
from federated_health.ml.scores import roc_auc
from federated_health.names import METRICS, MODEL
from federated_health.processes import command, free_port, interrupt, process
from federated_health.security.authority import make_demo_identities
from federated_health.security.certificates import fingerprint, public_key_of
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role
from federated_health.setting_fields import Value
from federated_health.settings import Settings

POLL_INTERVAL = 0.1

MARK = "demo.txt"
"""File that marks a demo's folder."""


@dataclass(frozen=True)
class Scenario:
    """The federation of a demo.

    Attributes:
        source: value of --source of `create-dataset`.
        strategy: value of --strategy of `server`.
        hospitals: number of hospitals into which the source is divided by default.
    """

    source: str
    strategy: str
    hospitals: int


SCENARIOS = {
    HEART_DISEASE.name: Scenario("uci", "fedavg", 4),
    READMISSION_30D.name: Scenario("diabetes", "average", 2),
    READMISSION.name: Scenario("readmission", "average", 2),
}


EXAMPLES = ("", "--task readmission-30d", "--secure-aggregation --dp-epsilon 2")


def main() -> None:
    """The command `demo`: parse the flags, and run the demo."""
    description = "Runs a server and its hospitals as processes on this machine; they train one model over mutual TLS."
    parser = parsing.CommandParser(description, examples=EXAMPLES)
    help_text = f"what to predict: {', '.join(SCENARIOS)} (default: %(default)s)"
    choices = tuple(SCENARIOS)
    parser.add_argument("--task", type=task_name, choices=choices, default=DEFAULT_TASK, metavar="TASK", help=help_text)
    help_text = "folder for all files; an earlier demo in it is overwritten"
    help_text += " (default: runs/demo, or runs/demo-TASK for another --task)"
    parser.add_argument("--out", type=parsing.path, metavar="DIR", help=help_text)
    help_text = f"rounds of training and averaging (at least 1; default: the task's, or {Settings.rounds})"
    parser.add_argument("--rounds", type=parsing.whole, metavar="N", help=help_text)
    help_text = "train with differential privacy of this epsilon over the whole run (0.01 to 100; default: without)"
    parser.add_argument("--dp-epsilon", type=parsing.epsilon, metavar="EPSILON", help=help_text)
    help_text = "the server learns sums over the hospitals only, never a single hospital's update (default: no)"
    parser.add_argument("--secure-aggregation", action="store_true", help=help_text)
    flags = parser.parse_args()
    out = flags.out or Path("runs/demo" if flags.task == DEFAULT_TASK else f"runs/demo-{flags.task}")
    settings = {"rounds": flags.rounds, "dp-epsilon": flags.dp_epsilon}
    given: dict[str, Value] = {name: value for name, value in settings.items() if value is not None}
    run_demo(out, flags.task, {**given, "secure-aggregation": flags.secure_aggregation})


def run_demo(out: Path, task: str, settings: Mapping[str, Value]) -> None:
    """Create the hospitals, run the federation, and leave everything in `out`; an earlier demo in it is overwritten.

    The server writes to this terminal, each hospital to a log of its own.

    Args:
        task: one of SCENARIOS.
        settings: further settings of the server, by flag.

    Raises:
        SettingsError, MissingLibraryError: the server would not start with these settings; nothing is written.
        RunError: `out` holds files of another origin, or a process failed; a hospital's last line is in the message.
    """
    data, scenario = out / "data", SCENARIOS[task]
    shared: dict[str, Value] = {"task": task, "hospitals": scenario.hospitals, "strategy": scenario.strategy}
    checked = Settings.from_config({**shared, **settings})
    _begin(out)
    create = command("create-dataset", "--source", scenario.source, "--out", data, "--force")
    if code := subprocess.run(create, check=False).returncode:
        raise RunError(f"create-dataset failed with code {code}")
    for account in data.glob("privacy-*.jsonl"):  # from an earlier demo; nothing else ever removes a privacy account
        account.unlink()
    manifest = read_manifest(data)
    files = {entry["name"]: data / entry["file"] for entry in manifest["hospitals"]}
    own_tls, tls = make_demo_identities(out / "tls", list(files))
    address = f"127.0.0.1:{free_port()}"
    logs = {name: out / "hospitals" / name / "console.log" for name in files}
    print(f"\nA server and {len(files)} hospitals start as separate processes. Most of the time goes")
    print(f"into importing TensorFlow. Output and policy of each hospital are in\n  {out / 'hospitals'}/NAME/")
    print(f"Connections use mutual TLS. All keys are in\n  {out / 'tls'}/")
    print("only because this is a demo: in real use each key is made on its owner's")
    print("machine and stays there.\n", flush=True)
    with ExitStack() as stack:
        flags = _as_flags({**shared, **settings, "address": address, "tls": own_tls, "out": out})
        server = stack.enter_context(process(command("server", *flags, "--force")))
        clients = {}
        for name, path in files.items():
            folder = logs[name].parent
            policy = write_policy(folder, checked, path, own_tls)
            flags = _as_flags({"data": path, "name": name, "task": task, "tls": tls[name], "server": address})
            join = command("client", *flags, "--policy", policy, "--out", folder)
            clients[name] = stack.enter_context(process(join, log=logs[name]))
        try:
            _watch(server, clients, logs)
        except KeyboardInterrupt:
            interrupt([server, *clients.values()])
            raise
    if "generator_seed" in manifest["source"]:
        print(_compare(manifest["source"], json.loads((out / METRICS).read_text())["federation"]))
    predict = [sys.executable, "-m", "federated_health", "predict", out / MODEL, data / EXAMPLE_PATIENTS]
    print(f"Everything is in {out}/. Score new patients:\n  {shlex.join(map(str, predict))}")


def _begin(out: Path) -> None:
    """Mark a new folder as a demo's; RunError if it holds files of another origin, which a demo would overwrite."""
    mark = out / MARK
    try:
        if out.exists() and not mark.exists() and any(out.iterdir()):
            raise RunError(f"{out}: holds files that no demo wrote; name another --out")
        make_folder(out)
        write_text(mark, "federated-health demo overwrites the files in this folder.\n")
    except OSError as error:
        raise RunError(f"{out}: cannot be written to ({error.strerror})") from None


def write_policy(folder: Path, settings: Settings, data: Path, server: Path) -> Path:
    """Write a hospital's policy, which allows the run of this demo, and return its path.

    Args:
        folder: the hospital's own; it is made.
        data: the hospital's CSV.
        server: the server's TLS folder.
    """
    task = settings.task_declaration
    rows = len(load_hospital(data, task, folder.name, DEFAULT_SPLIT_SEED).train)
    key = public_key_of(load_identity(server, Role.SERVER).certificate)
    make_folder(folder)
    policy = folder / "policy.toml"
    write_text(policy, draft_policy(RunTerms.of(settings), task, train_rows=rows, server=fingerprint(key)))
    return policy


def _as_flags(flags: Mapping[str, object]) -> list[object]:
    words: list[object] = []
    for flag, value in flags.items():
        if value is not False:
            words += [f"--{flag}"] if value is True else [f"--{flag}", value]
    return words


def _compare(source: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """The federation's ROC-AUC beside the best that any model can expect on the same held-out patients."""
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
    """Wait until all have ended; raise RunError as soon as one has failed."""
    while server.poll() is None or any(client.poll() is None for client in clients.values()):
        time.sleep(POLL_INTERVAL)
        if server.poll():
            raise RunError(f"the server ended with code {server.returncode}")
        for name, client in clients.items():
            if client.poll():
                lines = [line for line in logs[name].read_text(errors="replace").splitlines() if line.strip()]
                reason = lines[-1] if lines else "its log is empty"
                raise RunError(f"{name} ended with code {client.returncode}: {reason}")
