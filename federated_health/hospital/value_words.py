"""What each value and each kind of message in an egress ledger is, in plain words."""

from collections.abc import Mapping

from federated_health.messages.content import DISCLOSURE
from federated_health.messages.releases import RELEASES

_HELD_OUT = "held-out patients"

WORDS: Mapping[str, str] = {
    "metadata/hospital": "name of the hospital",
    "metadata/terms": "the task's columns, units and codes, and the version of the protocol",
    "metadata/accepted-terms": "hash of the run terms that it accepted",
    "metadata/process": "random number that tells this program from another one",
    "metadata/server-challenge": "random number that the server must sign to prove who it is",
    "metadata/unfit": "why the hospital may not join, without values of patients",
    "hospital/name": "name of the hospital",
    "envelope/metadata": "numbers and times by which the message is delivered",
    "error/code": "number of the kind of error",
    "error/reason": "why there is no answer, without values of patients",
    "metrics/train-examples": "number of training rows",
    "metrics/test-examples": "number of held-out rows",
    "metrics/num-examples": "number of rows from which the answer was computed",
    "metrics/examples": "number of held-out rows",
    "metrics/count": "per measurement: number of training rows that have it",
    "metrics/total": "per measurement: sum over the training rows",
    "metrics/squares": "per measurement: sum of squares over the training rows",
    "metrics/associations": "per column: correlation with the outcome, two decimals",
    "metrics/class-counts": "number of training rows with each outcome",
    "metrics/train-loss": "mean error on the training rows",
    "metrics/true_positives": f"number of {_HELD_OUT} with the outcome, predicted so",
    "metrics/false_positives": f"number of {_HELD_OUT} without the outcome, predicted with it",
    "metrics/true_negatives": f"number of {_HELD_OUT} without the outcome, predicted so",
    "metrics/false_negatives": f"number of {_HELD_OUT} with the outcome, predicted without it",
    "metrics/confusion": f"numbers of {_HELD_OUT} by actual and predicted class",
    "metrics/noisy-counts": f"numbers of {_HELD_OUT} by outcome and prediction, with random noise",
    "metrics/loss_sum": f"summed error over the {_HELD_OUT} (the loss)",
    "metrics/squared_error_sum": f"sum of squared errors over the {_HELD_OUT}",
    "metrics/absolute_error_sum": f"sum of errors without their sign over the {_HELD_OUT}",
    "metrics/label_sum": f"sum of the outcomes of the {_HELD_OUT}",
    "metrics/label_squares": f"sum of squares of the outcomes of the {_HELD_OUT}",
    "metrics/prediction_sum": f"sum of the predictions for the {_HELD_OUT}",
    "metrics/prediction_squares": f"sum of squares of the predictions for the {_HELD_OUT}",
    "metrics/product_sum": f"sum of outcome times prediction over the {_HELD_OUT}",
    "metrics/observed_sum": f"number of events of the {_HELD_OUT}",
    "metrics/expected_sum": f"number of events that the model expects of the {_HELD_OUT}",
    "metrics/log_sum": f"sum of logarithms of the numbers of events of the {_HELD_OUT}",
    "metrics/roc_auc": f"how well the model ranks the {_HELD_OUT}, from 0 to 1",
    "metrics/subgroups": f"figures of subgroups of the {_HELD_OUT}, such as women; 0 where they are suppressed",
    "metrics/predictions": "groups of patients: number, mean prediction, mean outcome",
    "metrics/importance": "per column: how much worse the model is without it",
    "offers/content": "public key for secure aggregation, with the hospital's certificate and signature",
    "metrics/last-round": "number of the last round whose sum it was part of",
    "vector/content": "numbers hidden by random masks, which cancel in the sum over hospitals",
    "metrics/observed": "per column: number of training rows with a value",
}
"""`record/name` of a value -> what it is."""

_BEGINNINGS: Mapping[str, str] = {
    "metrics/positives": "groups of patients with the outcome: number, mean score and spread",
    "metrics/negatives": "groups of patients without the outcome: number, mean score and spread",
    "metrics/own-": f"figure of a model of its own rows on the {_HELD_OUT}; low, high: its interval",
    "metrics/federated-": f"figure of the common model on the {_HELD_OUT}; low, high: its interval",
    "metrics/recalibration-intercept": "what is added to the log-odds of its patients; low, high: its interval",
    "metrics/recalibration-slope": "factor of the log-odds of its patients; low, high: its interval",
    "metrics/recalibration-before": f"figure of the common model's risks on the {_HELD_OUT}",
    "metrics/recalibration-after": f"the same figure after recalibration on the {_HELD_OUT}",
    "metrics/difference-": "by how much the common model is better than its own; low, high: the interval",
}

KINDS: Mapping[str, str] = {
    "join": "joins the server",
    "unfit": "reports that its data cannot be used",
    "query.statistics": "registers",
    "train": "trains one round",
    "evaluate": "evaluates the model after a round",
    "evaluate.threshold": "helps to choose the threshold",
    "evaluate.final": "evaluates the final model",
    "evaluate.appraisal": "reports what it gains by joining",
    "query.offer": "offers a key for secure aggregation",
    "query.sums": "computes the sums over its columns",
    "train.masked": "trains one round, and sends nothing of it yet",
    "evaluate.masked": "evaluates the model, and sends nothing of it yet",
    "evaluate.masked_threshold": "helps to choose the threshold, and sends nothing of it yet",
    "evaluate.masked_final": "evaluates the final model, and sends nothing of it yet",
    "query.masked": "sends what it computed, hidden by random masks",
}
"""Kind of message -> what the hospital does with it."""


TERMS: Mapping[str, str] = {
    "task": "what is predicted",
    "schema": "SHA-256 of the columns",
    "network": "network",
    "parameters": "weights of the network",
    "strategy": "strategy of averaging",
    "strategy_args": "its parameters",
    "rounds": "rounds, at most",
    "local_epochs": "passes over the training rows per round",
    "batch_size": "rows per training step",
    "learning_rate": "learning rate",
    "l2": "L2 regularisation strength",
    "class_weight": "weights of the classes",
    "hospitals": "hospitals that the server waits for",
    "min_updates": "hospitals in an average, at least",
    "authority": "SHA-256 of the authority's certificate",
    "epsilon": "epsilon of differential privacy; 0 is none",
    "delta": "delta of differential privacy",
    "secure_aggregation": "server sees sums over hospitals only",
    "appraisal": "hospitals report what they gain",
    "retention": "what the server keeps",
}
"""Field of `RunTerms` -> what it is; others are named as they are."""


def describe_value(record: str, name: str) -> str:
    """What a value of a message is; empty if it is not known."""
    if record == "arrays":
        return f"weights of the model: {name}"
    if record == DISCLOSURE and name in RELEASES:
        return f"statement that {name} was suppressed, and why"
    key = f"{record}/{name}"
    begun = (words for beginning, words in _BEGINNINGS.items() if key.startswith(beginning))
    return WORDS.get(key) or next(begun, "")
