"""One hospital: trains on its own CSV, and sends the server weights, sums and counts, never a patient's row.

`python client.py --hospital 1`, or with a file of its own `python client.py --data patients.csv --name my-hospital`.

`app` is an ordinary Flower ClientApp. Under Flower's own runtimes a node's CSV, name and split seed come from its node
config (`data`, `name`, `split-seed`), or, in a simulation, from its number and the run config's folder `data`.
"""

import federated_health  # noqa: F401  # isort: skip  # first, for what the package says to gRPC

import argparse
import logging
from contextlib import suppress
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp

import utils
from federated_health.cli import client_flags, parsing
from federated_health.cli.examples import EXAMPLES
from federated_health.data.data_check import check_data
from federated_health.data.hospital import load_hospital
from federated_health.errors import DataError, LedgerError
from federated_health.files import make_folder
from federated_health.hospital import handlers, ledger_page, registry
from federated_health.hospital.ledger import Ledger
from federated_health.hospital.own_hospital import OwnHospital, find_own_hospital
from federated_health.hospital.results import save_results
from federated_health.ml.backend import load_tensorflow
from federated_health.ml.privacy_plan import ALLOWED_EPSILON
from federated_health.privacy import budget_page
from federated_health.report.run_files import make_folder
from federated_health.privacy import account_page
from federated_health.privacy.guard import BUDGET
from federated_health.security import Role, load_identity
from federated_health.settings import read_defaults
from federated_health.transport.channels import check_address
from federated_health.transport.interface import hospital_context
from federated_health.transport.stream_client import join_federation, report_unfit

logger = logging.getLogger("federated_health.client")

app = ClientApp()
registry.register(app)


def parse() -> argparse.Namespace:
    """The flags; `own` is the hospital that they name, unless they only ask for a ledger."""
    defaults = read_defaults()
    words = "One hospital: trains on its own CSV, and sends the server weights, sums and counts, never a patient's row."
    parser = parsing.make_parser(words, examples=EXAMPLES["client.py"])
    client_flags.add_flags(parser, defaults)
    flags = parser.parse_args()
    if flags.show_egress is not None or flags.show_privacy is not None:
        return flags
    if flags.tls == "":  # which as a path is the current folder
        parser.error("argument --tls: expected a folder, got ''")
    flags.tls = flags.tls and load_identity(Path(flags.tls), Role.HOSPITAL)
    name = flags.name
    if flags.data and not name:
        name = flags.tls.name if flags.tls else "unnamed" if flags.check else None
    folder, task = Path(str(defaults["data"])), str(defaults["task"])
    flags.own = find_own_hospital(folder, flags.hospital, flags.data, name, flags.task, task)
    return flags


def check(own: OwnHospital) -> None:
    """Show what is in a hospital's CSV, and end with an error where it may not join."""
    quality = check_data(own.data, own.task)
    utils.print_figures(quality.title, quality.table())
    utils.print_lines(quality.verdict, quality.findings())
    quality.raise_obstacle()


def show_egress(path: Path) -> None:
    """Show what a ledger says has left a hospital."""
    utils.print_page(ledger_page.summarise(path))
    utils.print_lines("What never leaves:", ledger_page.NEVER)


def join(flags: argparse.Namespace) -> None:
    """Check the CSV, join the server, and answer it with `app` until the run is over."""
    own, name, task, tls = flags.own, flags.own.name, flags.own.task, flags.tls
    check_address(flags.server, encrypted=tls is not None, insecure=flags.insecure)
    ledger = Ledger.beside(own.data, name)
    try:
        hospital = load_hospital(own.data, task, name, flags.split_seed)
    except DataError as error:
        # What cannot be recorded is not told; what is wrong with the CSV comes first. No budget accounts for it.
        with suppress(LedgerError):
            if flags.dp_budget is None:
                report_unfit(name, flags.server, task.agreement, error.reason, ledger, tls)
        raise
    node = {"data": str(own.data), "split-seed": flags.split_seed, "tls": str(tls.folder) if tls else ""}
    budget = {} if flags.dp_budget is None else {ALLOWED_EPSILON: flags.dp_budget}
    context = hospital_context(name, {**node, **budget, registry.ONLY_ENCRYPTED: flags.encrypted_only})
    if flags.out is not None:
        make_folder(flags.out)
    utils.configure_logging(verbose=flags.verbose, file=flags.out / f"{name}.log" if flags.out else None)
    for line in hospital.remarks():
        logger.info("%s", line)
    where = {"name": name, "address": flags.server, "agreement": task.agreement, "wait": flags.wait, "tls": tls}
    try:
        join_federation(app, context, **where, announce=logger.info, prepare=load_tensorflow, ledger=ledger)
    finally:  # the final model is whole even where the server is lost after it
        keep(context, flags.out)
    logger.info("the run is over")


def keep(context: Context, out: Path | None) -> None:
    """Show this hospital's figures of the final model, if there is one, and save it if there is a folder for it."""
    if kept := handlers.remembered_model(context):
        name, note = context.node_config["name"], f"Predicted positive: a risk of at least {kept[0].threshold}."
        utils.print_figures("The final model on held-out patients", {str(name): context.state["figures"]}, note)
        if out is not None:
            logger.info("saved in %s: %s", out, save_results(out, context, *kept))
        if kept[0].privacy:
            logger.info("privacy: %s", handlers.budget_of(context).summary().describe())


def main() -> None:
    """Parse the flags, and show, check or join."""
    flags = parse()
    if flags.show_egress is not None:
        show_egress(flags.show_egress)
    elif flags.show_privacy is not None:
        utils.print_page(budget_page.read_page(flags.show_privacy))
    elif flags.check:
        check(flags.own)
    else:
        join(flags)


if __name__ == "__main__":
    utils.run_process(main)
