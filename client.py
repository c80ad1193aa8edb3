"""One hospital: trains on its own CSV, and sends the server weights, sums and counts, never a patient's row.

`python client.py --hospital 1`, or with its own file `python client.py --data patients.csv --name my-hospital`

`app` is an ordinary Flower ClientApp. Under Flower's own runtimes a node's CSV, name and split seed come from its node
config (`data`, `name`, `split-seed`), or, in a simulation, from its number and the run config's folder `data`.
"""

from federated_health import interrupts  # isort: skip  # first: the package configures gRPC's log

interrupts.begin_script(__name__)  # Ctrl-C ends a script during the imports below, too

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

import utils
from federated_health import secure_aggregation
from federated_health.cli.client import run_client
from federated_health.hospital import handlers

app = ClientApp()


@app.query("statistics")
def register(message: Message, context: Context) -> Message:
    """Register: name, row counts, and sums for the common normalisation."""
    return handlers.reply(handlers.register, message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received weights on this hospital's rows, and return the new ones."""
    return handlers.reply(handlers.train, message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the received weights on the held-out rows."""
    return handlers.reply(handlers.evaluate, message, context)


@app.evaluate("threshold")
def score_training_rows(message: Message, context: Context) -> Message:
    """Score the training rows with the final weights, for the decision threshold."""
    return handlers.reply(handlers.answer_final, message, context)


@app.evaluate("final")
def evaluate_final(message: Message, context: Context) -> Message:
    """Evaluate the final weights on the held-out rows, and keep them."""
    return handlers.reply(handlers.answer_final, message, context)


@app.evaluate("appraisal")
def report_benefit(message: Message, context: Context) -> Message:
    """Report what this hospital gains by joining."""
    return handlers.reply(handlers.answer_final, message, context)


secure_aggregation.add_handlers(app)  # the messages of runs with secure aggregation

if __name__ == "__main__":
    utils.run_process(lambda: run_client(app))
