"""One hospital: trains on its own CSV, and sends the server weights, sums and counts, never a patient's row.

`python client.py --hospital 1`, or with a file of its own `python client.py --data patients.csv --name my-hospital`.

`app` is an ordinary Flower ClientApp. Under Flower's own runtimes a node's CSV, name and split seed come from its node
config (`data`, `name`, `split-seed`), or, in a simulation, from its number and the run config's folder `data`.
"""

import argparse
import logging
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

import utils
from federated_health import participation
from federated_health.backend import load_tensorflow
from federated_health.dataset_folder import find_hospital, read_manifest
from federated_health.errors import DataError
from federated_health.hospital import DEFAULT_SPLIT_SEED, load_hospital
from federated_health.names import FEDERATION, is_hospital_name
from federated_health.quality import check_hospital
from federated_health.runs import make_folder, save_final_model
from federated_health.security import Role, load_identity
from federated_health.settings import read_defaults
from federated_health.streaming import check_address, hospital_context, join_federation, report_unfit
from federated_health.tasks import TASKS, Task, get_task

logger = logging.getLogger("federated_health.client")

app = ClientApp()


@app.query("statistics")
def share_statistics(message: Message, context: Context) -> Message:
    """Name, row counts, and the sums from which the federation's one normalisation is made."""
    return Message(participation.introduce(message, context).to_content(), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """The round's local epochs, from the federation's weights."""
    return Message(participation.train_round(message, context).to_content(), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Counts over the held-out rows under the round's new weights."""
    return Message(participation.evaluate_round(message, context).to_content(), reply_to=message)


@app.evaluate("threshold")
def share_training_scores(message: Message, context: Context) -> Message:
    """Coarse cells of the final scores of the training rows."""
    return Message(participation.score_training_rows(message, context).to_content(), reply_to=message)


@app.evaluate("final")
def evaluate_finally(message: Message, context: Context) -> Message:
    """Counts, own ROC-AUC and coarse cells of the final scores; what is kept at the hospital stays in the context."""
    return Message(participation.evaluate_finally(message, context).to_content(), reply_to=message)


@app.evaluate("appraisal")
def appraise(message: Message, context: Context) -> Message:
    """What joining gave this hospital, and how much each column weighs."""
    return Message(participation.appraise_model(message, context).to_content(), reply_to=message)


def parse() -> argparse.Namespace:
    """The flags; `data` and `name` are set in either case."""
    defaults = read_defaults()
    parser = utils.make_parser("One hospital: trains on its own CSV, and sends no patient's row.")
    parser.add_argument("--hospital", type=int, metavar="N", help=f"this is {defaults['data']}/client_N.csv")
    parser.add_argument("--data", type=Path, metavar="PATH", help="this hospital's CSV, with --name")
    parser.add_argument("--name", help="this hospital's name: lower-case letters, digits and hyphens")
    parser.add_argument("--task", choices=tuple(TASKS), help=f"default: the data's; with --data {defaults['task']}")
    parser.add_argument("--server", default=defaults["address"], metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument("--wait", type=utils.seconds, default=defaults["wait"], help="seconds (default: %(default)s)")
    parser.add_argument(
        "--split-seed",
        type=utils.seed,
        default=DEFAULT_SPLIT_SEED,
        metavar="N",
        help="which patients are held out, for good; no server setting moves it (default: %(default)s)",
    )
    parser.add_argument("--check", action="store_true", help="show what is in the CSV and whether it may join; no more")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep a log and the final model here")
    parser.add_argument("--tls", type=Path, metavar="DIR", help="folder of this hospital's key and certificate")
    parser.add_argument("--insecure", action="store_true", help="allow one that is not on this machine without --tls")
    parser.add_argument("--verbose", action="store_true", help="show what Flower and TensorFlow say")
    flags = parser.parse_args()
    flags.tls = flags.tls and load_identity(flags.tls, Role.HOSPITAL)
    if flags.data and not flags.name:
        flags.name = flags.tls.name if flags.tls else "unnamed" if flags.check else None
    if (flags.hospital is None) == (flags.data is None) or (flags.data is None) != (flags.name is None):
        parser.error("expected either --hospital N, or --data PATH and --name NAME")
    if flags.data is None:
        folder = Path(str(defaults["data"]))
        flags.data, flags.name = find_hospital(folder, flags.hospital)
        flags.task = flags.task or read_manifest(folder)["task"]
    flags.task = get_task(flags.task or str(defaults["task"]))
    if not is_hospital_name(flags.name):
        parser.error(f"--name: expected lower-case letters, digits and hyphens, and not {FEDERATION!r}")
    return flags


def check(path: Path, task: Task) -> None:
    """Show what is in a hospital's CSV, and end with an error where it may not join."""
    quality = check_hospital(path, task)
    utils.print_figures(quality.title, quality.table())
    utils.print_lines(quality.verdict, quality.findings())
    quality.raise_obstacle()


def join(flags: argparse.Namespace) -> None:
    """Check the CSV, join the server, and answer it with `app` until the run is over."""
    name, task, tls = flags.name, flags.task, flags.tls
    check_address(flags.server, encrypted=tls is not None, insecure=flags.insecure)
    try:
        hospital = load_hospital(flags.data, task, name, flags.split_seed)
    except DataError as error:
        report_unfit(name, flags.server, task.terms, error.reason, tls=tls)
        raise
    context = hospital_context(name, {"data": str(flags.data), "split-seed": flags.split_seed})
    if flags.out is not None:
        make_folder(flags.out)
    utils.configure_logging(verbose=flags.verbose, file=flags.out / f"{name}.log" if flags.out else None)
    for line in hospital.remarks():
        logger.info("%s", line)
    where = {"name": name, "address": flags.server, "terms": task.terms, "wait": flags.wait, "tls": tls}
    join_federation(app, context, **where, announce=logger.info, prepare=load_tensorflow)
    if kept := participation.remembered_model(context):
        note = f"Predicted positive: a risk of at least {kept[0].threshold}."
        utils.print_figures("The final model on held-out patients", {name: context.state["figures"]}, note)
        if flags.out is not None:
            save_final_model(flags.out / "model.keras", *kept)
    logger.info("the run is over")


def main() -> None:
    """Parse the flags, and check or join."""
    flags = parse()
    check(flags.data, flags.task) if flags.check else join(flags)


if __name__ == "__main__":
    utils.run_door(main)
