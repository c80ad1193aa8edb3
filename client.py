"""One hospital: trains on its own CSV, and sends the server weights, sums and counts, never a patient's row.

`python client.py --hospital 1`, or with one's own file `python client.py --data patients.csv --name my-hospital`.

`app` is an ordinary Flower ClientApp. Under Flower's own runtimes a node's CSV, name and split seed come from its node
config (`data`, `name`, `split-seed`), or, in a simulation, from its number and the run config's folder `data`.
"""

import argparse
import logging
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

import utils
from federated_health.backend import load_tensorflow
from federated_health.hospital import DEFAULT_SPLIT_SEED, load_hospital
from federated_health.messages import Evaluation, Introduction, Update
from federated_health.metrics import count_outcomes, figures_of, probability, roc_auc, score_cells
from federated_health.names import FEDERATION, is_hospital_name
from federated_health.participation import hospital_of, open_message, remember_final, remembered_model
from federated_health.partitions import find_hospital
from federated_health.runs import make_folder, save_final_model
from federated_health.settings import read_defaults
from federated_health.statistics import column_sums
from federated_health.streaming import check_address, hospital_context, join_federation
from federated_health.tasks import TASKS, get_task

logger = logging.getLogger("federated_health.client")

app = ClientApp()


@app.query("statistics")
def share_statistics(message: Message, context: Context) -> Message:
    """Name, row counts, and the sums from which the federation's one normalisation is made."""
    hospital = hospital_of(message, context)
    introduction = Introduction(
        name=hospital.name,
        train_examples=len(hospital.train),
        test_examples=len(hospital.test),
        sums=column_sums(hospital.train.values[:, list(hospital.task.measurement_positions)]),
    )
    return Message(introduction.to_content(), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """The round's local epochs, from the federation's weights."""
    asked = open_message(message, context)
    weights, loss = asked.local.train(asked.weights, asked.instructions, asked.round_number)
    rows = len(asked.local.hospital.train)
    logger.debug("round %d: trained on %d rows, loss %.4f", asked.round_number, rows, loss)
    return Message(Update(weights=weights, examples=rows, loss=loss).to_content(), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Counts over the held-out rows under the round's new weights."""
    asked = open_message(message, context)
    scores = probability(asked.local.score(asked.weights))
    counts = count_outcomes(scores, asked.local.hospital.test.labels)
    return Message(Evaluation(counts=counts).to_content(), reply_to=message)


@app.evaluate("final")
def evaluate_finally(message: Message, context: Context) -> Message:
    """Counts, own ROC-AUC and coarse cells of the final scores; what is kept at the hospital stays in the context."""
    asked = open_message(message, context)
    hospital, log_odds = asked.local.hospital, asked.local.score(asked.weights)
    labels = hospital.test.labels
    evaluation = Evaluation(
        counts=count_outcomes(probability(log_odds), labels),
        roc_auc=roc_auc(log_odds, labels),
        positives=score_cells(log_odds[labels == 1]),
        negatives=score_cells(log_odds[labels == 0]),
    )
    figures = figures_of(evaluation.counts, len(hospital.train), evaluation.roc_auc)
    remember_final(context, asked, figures)
    return Message(evaluation.to_content(), reply_to=message)


def parse() -> argparse.Namespace:
    """The flags; `data` and `name` are set in either case."""
    defaults = read_defaults()
    parser = utils.make_parser("One hospital: trains on its own CSV, and sends no patient's row.")
    parser.add_argument("--hospital", type=int, metavar="N", help=f"this is {defaults['data']}/client_N.csv")
    parser.add_argument("--data", type=Path, metavar="PATH", help="this hospital's CSV, with --name")
    parser.add_argument("--name", help="this hospital's name: lower-case letters, digits and hyphens")
    parser.add_argument("--task", choices=tuple(TASKS), default=defaults["task"], help="default: %(default)s")
    parser.add_argument("--server", default=defaults["address"], metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument(
        "--wait", type=utils.seconds, default=defaults["wait"], metavar="SECONDS", help="default: %(default)s"
    )
    parser.add_argument(
        "--split-seed",
        type=utils.seed,
        default=DEFAULT_SPLIT_SEED,
        metavar="N",
        help="which patients are held out, for good; no server setting moves it (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep a log and the final model here")
    parser.add_argument("--insecure", action="store_true", help="allow a server that is not on this machine")
    parser.add_argument("--verbose", action="store_true", help="show what Flower and TensorFlow say")
    flags = parser.parse_args()
    if (flags.hospital is None) == (flags.data is None) or (flags.data is None) != (flags.name is None):
        parser.error("expected either --hospital N, or --data PATH and --name NAME")
    if flags.data is None:
        flags.data, flags.name = find_hospital(Path(str(defaults["data"])), flags.hospital)
    if not is_hospital_name(flags.name):
        parser.error(f"--name: expected lower-case letters, digits and hyphens, and not {FEDERATION!r}")
    return flags


def join() -> None:
    """Check the CSV, join the server, and answer it with `app` until the run is over."""
    flags = parse()
    name, task = flags.name, get_task(flags.task)
    check_address(flags.server, insecure=flags.insecure)
    hospital = load_hospital(flags.data, task, name, flags.split_seed)
    context = hospital_context(name, {"data": str(flags.data), "split-seed": flags.split_seed})
    if flags.out is not None:
        make_folder(flags.out)
    utils.configure_logging(verbose=flags.verbose, file=flags.out / f"{name}.log" if flags.out else None)
    logger.info("%s: %d patients to train on, %d held out", name, len(hospital.train), len(hospital.test))
    join_federation(
        app,
        context,
        name=name,
        address=flags.server,
        terms=task.terms,
        wait=flags.wait,
        announce=logger.info,
        prepare=load_tensorflow,
    )
    if "figures" in context.state:
        own = {name: context.state["figures"]}
        utils.print_figures("The federation's model on this hospital's held-out patients", own)
    if flags.out is not None and (kept := remembered_model(context)):
        save_final_model(flags.out / "model.keras", *kept)
    logger.info("the run is over")


if __name__ == "__main__":
    utils.run_door(join)
