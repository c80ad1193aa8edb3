"""The command `client.py`: joins a run with a ClientApp, checks a CSV, or shows what was sent and spent."""

import argparse
import logging
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context

from federated_health.cli import parsing
from federated_health.cli.console import configure_logging
from federated_health.data.hospital import load_hospital
from federated_health.data.manifest import OwnHospital, find_own_hospital
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.task_files import DEFAULT_TASK, TASK_FILE, TASKS, task_name
from federated_health.data.tasks import Task
from federated_health.errors import DataError, LedgerError, NetworkError, SettingsError, check_installed
from federated_health.hospital import handlers
from federated_health.hospital.ledger import LEDGER, Ledger
from federated_health.messages import accepted_terms
from federated_health.messages.content import SAME_PARTICIPANTS, SECURE_AGGREGATION_ONLY
from federated_health.ml.backend import load_tensorflow
from federated_health.ml.networks import Network, agreement_of
from federated_health.names import (
    ALLOWED_EPSILON,
    DEFAULT_ADDRESS,
    DEFAULT_DATA,
    DEFAULT_WAIT,
    MAPPING,
    NETWORK,
    POLICY,
)
from federated_health.transport.app_calls import App, hospital_context
from federated_health.transport.channels import check_address, is_loopback, proxy_of, split_address
from federated_health.transport.stream_client import join_run

if TYPE_CHECKING:
    from federated_health.security.identity import Identity
    from federated_health.setting_fields import Value

logger = logging.getLogger(__name__)

EXAMPLES = (
    "--hospital 1",
    "--data /path/to/patients.csv --check",
    "--data /path/to/patients.csv --name my-hospital --out my-results",
    "--data /path/to/patients.csv --tls my-tls --server fl.example.org:8080",
    "--data /path/to/patients.csv --tls my-tls --server fl.example.org:8080 --show-terms",
    "--show-egress data/egress-cleveland.jsonl",
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of client.py."""
    description = (
        "Runs one hospital: trains on its own CSV, and sends the server weights, sums and counts, never a row. Refuses "
        "messages that no run would send: see docs/privacy.md."
    )
    parser = parsing.CommandParser(description, examples=EXAMPLES)

    own = parser.add_argument_group("which hospital this is")
    help_text = f"take {DEFAULT_DATA}/client_N.csv, which create_dataset.py wrote"
    help_text += " (from 1; default: none; then give --data)"
    own.add_argument("--hospital", type=parsing.whole, metavar="N", help=help_text)
    help_text = (
        "this hospital's own CSV; needs --name or --tls, except with --check, or where a manifest.json beside it "
    )
    help_text += "lists it (default: none)"
    own.add_argument("--data", type=parsing.path, metavar="FILE", help=help_text)
    help_text = "this hospital's name: lower-case letters, digits and hyphens"
    help_text += " (default: with --tls the name in the certificate, else the name in the manifest beside the CSV)"
    own.add_argument("--name", metavar="NAME", help=help_text)
    help_text = f"what to predict, the same as at the server: {', '.join(TASKS)} (default: the task in the manifest "
    help_text += f"beside the CSV, else {DEFAULT_TASK})"
    own.add_argument("--task", type=task_name, choices=tuple(TASKS), metavar="TASK", help=help_text)
    help_text = "task file of your own, instead of --task (default: the one in the manifest beside the CSV, if any)"
    own.add_argument("--task-file", type=parsing.path, metavar="FILE", help=help_text)
    add_mapping(own)
    add_network(own)
    add_split_seed(own)

    connection = parser.add_argument_group("connection")
    help_text = "address of the server (default: %(default)s)"
    connection.add_argument("--server", default=DEFAULT_ADDRESS, metavar="HOST:PORT", help=help_text)
    help_text = "seconds to keep trying while the server cannot be reached"
    help_text += " (above 0, at most 10,000,000; default: %(default)s)"
    connection.add_argument("--wait", type=parsing.seconds, default=DEFAULT_WAIT, metavar="SECONDS", help=help_text)
    help_text = "folder of this hospital's key and certificate, which `python -m federated_health certificates` makes; "
    help_text += "without it messages are not encrypted and peers are not authenticated (default: none)"
    connection.add_argument("--tls", type=parsing.path, metavar="DIR", help=help_text)
    help_text = "allow a --server on another machine without --tls (default: no)"
    connection.add_argument("--insecure", action="store_true", help=help_text)

    consent = parser.add_argument_group("consent")
    help_text = "join only a run whose terms have this hash, without being asked (default: "
    help_text += "ask, except about a server on this machine without --tls)"
    consent.add_argument("--accept", metavar="TERMS_HASH", help=help_text)
    add_privacy(parser)

    results = parser.add_argument_group("results")
    help_text = "folder for a log and, at the end, the final model, this hospital's figures and a report "
    help_text += "(default: save none of them)"
    results.add_argument("--out", type=parsing.path, metavar="DIR", help=help_text)
    help_text = "show debug messages, and the logs of Flower and TensorFlow (default: no)"
    results.add_argument("--verbose", action="store_true", help=help_text)

    inspection = parser.add_argument_group("inspect and exit")
    help_text = "show what is in the CSV and whether the hospital can join; nothing is sent (default: no)"
    inspection.add_argument("--check", action="store_true", help=help_text)
    help_text = "show the terms of the server's run, and their hash; the hospital does not join (default: no)"
    inspection.add_argument("--show-terms", action="store_true", help=help_text)
    shown = inspection.add_mutually_exclusive_group()
    help_text = "show what was sent, from an egress ledger: egress-NAME.jsonl beside the CSV or in --ledger"
    help_text += " (default: none)"
    shown.add_argument("--show-egress", type=parsing.path, metavar="FILE", help=help_text)
    help_text = "with --show-egress: also write it to an .html file for a data protection officer (default: none)"
    inspection.add_argument("--page", type=parsing.path, metavar="FILE", help=help_text)
    help_text = "show the epsilon spent, from a privacy account: privacy-NAME.jsonl beside the CSV or in --ledger"
    help_text += " (default: none)"
    shown.add_argument("--show-privacy", type=parsing.path, metavar="FILE", help=help_text)
    return parser


def add_mapping(group: Any) -> None:
    """Add the file that states how a hospital's own export is written; `supernode` has the same flag."""
    help_text = "mapping file that states how --data writes the task's columns; `federated-health mapping draft` "
    help_text += "proposes one (default: the one in the manifest beside the CSV, else none)"
    group.add_argument("--mapping", type=parsing.path, metavar="FILE", help=help_text)


def add_network(group: Any) -> None:
    """Add the file of a network that the package does not have; `supernode` has the same flag."""
    help_text = "this hospital's copy of the Python file that builds the network, for a server with --network; it is "
    help_text += "executed (default: none)"
    group.add_argument("--network", type=parsing.path, metavar="FILE", help=help_text)


def add_split_seed(group: Any) -> None:
    """Add the seed of a hospital's split; `supernode` has the same flag."""
    help_text = (
        "seed of the split into training and held-out rows; the server cannot set it (from 0; default: %(default)s)"
    )
    group.add_argument("--split-seed", type=parsing.seed, default=DEFAULT_SPLIT_SEED, metavar="SEED", help=help_text)


def add_privacy(parser: Any) -> None:
    """Add a hospital's conditions for joining a run; `supernode` has the same flags."""
    group = parser.add_argument_group("privacy")
    help_text = "policy file of this hospital: which runs it joins, and what may leave; "
    help_text += "`federated-health policy draft` proposes one (default: none)"
    group.add_argument("--policy", type=parsing.path, metavar="FILE", help=help_text)
    help_text = "total epsilon that all runs together may spend; if given, the hospital joins only runs with "
    help_text += "differential privacy (above 0, at most 1000; default: the epsilon of the first such run)"
    group.add_argument("--dp-budget", type=parsing.epsilon, metavar="EPSILON", help=help_text)
    help_text = "folder for the egress ledger and the privacy account, for a CSV in a read-only folder (default: the "
    help_text += "CSV's folder)"
    group.add_argument("--ledger", type=parsing.path, metavar="DIR", help=help_text)
    help_text = "join only runs with secure aggregation: see server.py --secure-aggregation (default: any run)"
    group.add_argument("--secure-aggregation-only", action="store_true", help=help_text)
    help_text = "with secure aggregation, be part of sums over the same hospitals only, so that no two differ by one; "
    help_text += "a round then needs all of them: see server.py --min-hospitals (default: no)"
    group.add_argument("--same-participants", action="store_true", help=help_text)


def check_libraries(flags: argparse.Namespace) -> None:
    """Raise MissingLibraryError if a hospital's conditions need a library that is not installed."""
    if flags.dp_budget is not None:
        check_installed("dp_accounting")


def node_config(flags: argparse.Namespace, own: OwnHospital, tls: Path | None) -> "dict[str, Value]":
    """A hospital's node config, from its name, its files and the flags that `supernode` has, too."""
    config: dict[str, Value] = {"data": str(own.data), "name": own.name, "tls": str(tls or "")}
    config |= {"split-seed": flags.split_seed}
    if own.task_file is not None:
        config[TASK_FILE] = str(own.task_file)
    if own.mapping is not None:
        config[MAPPING] = str(own.mapping)
    if flags.network is not None:
        config[NETWORK] = str(flags.network.absolute())
    if flags.dp_budget is not None:
        config[ALLOWED_EPSILON] = flags.dp_budget
    if flags.secure_aggregation_only:
        config[SECURE_AGGREGATION_ONLY] = True
    if flags.policy is not None:
        config[POLICY] = str(flags.policy.absolute())
    if flags.same_participants:
        config[SAME_PARTICIPANTS] = True
    if flags.ledger is not None:
        config[LEDGER] = str(flags.ledger.absolute())
    return config


def prepare_ledger_folder(flags: argparse.Namespace) -> None:
    """Make the folder of --ledger, if it is given and not there; StorageError if it cannot be written to."""
    if flags.ledger is not None:
        from federated_health.files import PRIVATE_FOLDER, make_folder  # noqa: PLC0415  # where something is saved

        make_folder(flags.ledger, PRIVATE_FOLDER)


def main() -> None:
    """The installed command; it answers the same messages as the app of client.py."""
    run_client(handlers.answer)


def run_client(app: App) -> None:
    """Parse the flags; then show a ledger or an account, check the CSV, or join a run."""
    flags = make_parser().parse_args()
    if flags.show_egress is not None:
        from federated_health.cli.inspection import show_egress  # noqa: PLC0415  # a run does not need it

        show_egress(flags.show_egress, flags.page)
        return
    if flags.page is not None:
        raise SettingsError("--page: expected --show-egress, got none")
    if flags.show_privacy is not None:
        from federated_health.cli.inspection import show_privacy  # noqa: PLC0415  # as above

        show_privacy(flags.show_privacy)
        return
    identity = None
    if flags.tls:
        from federated_health.security import load_tls  # noqa: PLC0415  # optional feature

        identity = load_tls(flags.tls, "hospital")
    is_named = any(value is not None for value in (flags.hospital, flags.data, flags.name))
    hospital = _find_hospital(flags, identity) if is_named or not flags.show_terms else None
    if flags.show_terms and not (hospital and flags.check):
        from federated_health.cli.terms import show_terms  # noqa: PLC0415  # as above

        show_terms(flags, hospital, identity)
        return
    assert hospital is not None, "only --show-terms needs none"
    if flags.check:
        from federated_health.cli.inspection import show_hospital  # noqa: PLC0415  # as above

        show_hospital(hospital, node_config(flags, hospital, None))
    else:
        _join(app, flags, hospital, identity)


def _find_hospital(flags: argparse.Namespace, identity: "Identity | None") -> OwnHospital:
    """The hospital that the flags name; with --data, its name may be that of its certificate."""
    name = flags.name
    if flags.data and not name:
        name = _default_name(identity, is_check=flags.check or flags.show_terms)
    return find_own_hospital(
        Path(DEFAULT_DATA),
        flags.hospital,
        flags.data,
        name,
        task=flags.task,
        task_file=flags.task_file,
        mapping=flags.mapping,
    )


def _default_name(identity: "Identity | None", *, is_check: bool) -> str | None:
    """The name of a hospital with its own CSV but without --name; None if it needs one."""
    if identity is not None:
        return identity.name
    return "unnamed" if is_check else None  # a check sends nothing


def _join(app: App, flags: argparse.Namespace, own: OwnHospital, identity: "Identity | None") -> None:
    """Check the CSV, join the server, and answer its messages until the run is over."""
    check_libraries(flags)
    check_address(flags.server, encrypted=identity is not None, insecure=flags.insecure)
    proxy_of(flags.server, encrypted=identity is not None)  # refuses one that could read the messages
    prepare_ledger_folder(flags)
    ledger, network = Ledger.beside(own.data, own.name, flags.ledger), _read_network(flags.network)
    sent = ledger.path, ledger.size
    agreement = agreement_of(own.task, network)
    config = node_config(flags, own, identity.folder if identity else None)
    if flags.policy is not None:
        from federated_health.hospital.policy import policy_of  # noqa: PLC0415  # only where there is one

        policy_of(config)  # a mistake in its file ends the client before it waits for a server
    context = hospital_context(own.name, config)
    consent = partial(_accept_terms, flags, context, own.task, ledger, identity)

    def report(reason: str, **consent: Any) -> None:
        from federated_health.transport.unfit import report_unfit  # noqa: PLC0415  # most hospitals may join

        report_unfit(own.name, flags.server, agreement, reason, ledger, tls=identity, **consent)

    try:
        hospital = load_hospital(own.data, own.task, own.name, flags.split_seed, own.mapping)
    except DataError as error:
        # The reason is not sent if the ledger cannot record it, or if a privacy budget would have to account for it.
        with suppress(LedgerError):
            if flags.dp_budget is None:
                report(error.reason, consent=partial(consent, train_rows=0, may_ask=False))
        raise
    ledger.check()
    if flags.out is not None:
        from federated_health.files import make_folder  # noqa: PLC0415  # where something is saved

        make_folder(flags.out)
    configure_logging(verbose=flags.verbose, file=flags.out / f"{own.name}.log" if flags.out else None)
    for line in hospital.remarks():
        logger.info("%s", line)
    try:
        join_run(
            app,
            context,
            name=own.name,
            address=flags.server,
            agreement=agreement,
            wait=flags.wait,
            announce=logger.info,
            prepare=partial(_prepare, own.task, network),
            ledger=ledger,
            tls=identity,
            consent=partial(consent, train_rows=len(hospital.train), may_ask=True),
        )
    except NetworkError as error:
        with suppress(LedgerError):
            report(error.reason)
        raise
    finally:  # the final model is complete even if the server is lost after it
        from federated_health.cli.own_results import show_and_save  # noqa: PLC0415  # at the end of a run only

        show_and_save(context, flags.out, sent)
    logger.info("the run is over")


def _accept_terms(
    flags: argparse.Namespace,
    context: Context,
    task: Task,
    ledger: Ledger,
    identity: "Identity | None",
    text: str,
    server: str,
    **hospital: Any,
) -> None:
    """Accept the terms of a run, and record them; ConsentError if they are not accepted (see `cli.terms`)."""
    terms, accepted_by = accepted_terms.read_terms(text), accepted_terms.LOOPBACK
    is_local = identity is None and is_loopback(split_address(flags.server)[0])
    has_policy = flags.policy is not None or flags.dp_budget is not None or flags.secure_aggregation_only
    if not is_local or flags.accept is not None or has_policy:
        from federated_health.cli.terms import decide_on_terms  # noqa: PLC0415  # not on one machine without TLS

        own = identity.authority_hash if identity else ""
        accepted_by = decide_on_terms(
            terms, context.node_config, task, flags.accept, server, own, is_local=is_local, **hospital
        )
    ledger.record_terms(text, accepted_by)
    accepted_terms.accept(context, text, accepted_by)
    what = f"{terms.task}, {terms.parameters:,} weights, {terms.strategy}, {terms.rounds} rounds"
    logger.info("terms of the run: %s; hash %s; --show-terms shows all", what, terms.hash)
    logger.info(
        "accepted by: %s",
        "loopback, one machine without TLS" if accepted_by == accepted_terms.LOOPBACK else accepted_by,
    )


def _read_network(file: Path | None) -> Network | None:
    """The network of the hospital's own file, not executed yet."""
    if file is None:
        return None
    from federated_health.ml.network_file import read_network  # noqa: PLC0415  # only where there is a file

    return read_network(file)


def _prepare(task: Task, network: Network | None) -> None:
    """Load TensorFlow, and try out the hospital's own network, if it has one."""
    load_tensorflow()
    if network is not None:
        from federated_health.ml.network_check import try_out  # noqa: PLC0415  # only where there is a file

        try_out(task, network)
