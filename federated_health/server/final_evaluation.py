"""The final evaluation of a run: messages to every hospital about the final weights, once the rounds are over."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict

from federated_health.messages import content as messages
from federated_health.messages.benefit import Benefit, summarise_benefits
from federated_health.messages.content import TrainingScores
from federated_health.messages.records import weights_to_record
from federated_health.messages.validation import read_training_scores
from federated_health.ml.metrics import DEFAULT_THRESHOLD, EvaluationSums, merge_counts
from federated_health.server.plain_run import PlainRun
from federated_health.server.replies import AcceptedReply, Content
from federated_health.server.run import FederatedRun
from federated_health.server.run_summary import summarise_run
from federated_health.transport.backoff import Backoff
from federated_health.transport.interface import LOG_INTERVAL

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Largest number of times that a hospital gets the same message."""

MUCH_WORSE = 2.0
"""Multiple of the best round's held-out loss above which a final model is reported as harmed."""


def evaluate_final_weights(run: PlainRun) -> dict[str, Any]:
    """Choose the threshold, then evaluate the final weights with it; figures as in metrics.json."""
    run.participants.check_registrations()  # of hospitals that joined late, too
    run.threshold = _choose_threshold(run)
    content, task = _final_message(run), run.settings.task_declaration

    def read_benefit(node: int, content: RecordDict) -> Benefit:
        registration = run.participants.registration_of(node)
        return Benefit.from_content(content, task, registration.train_examples, registration.test_examples)

    try:
        evaluations = ask_all(run, messages.FINAL, content, partial(run.read_evaluation_of, final=True))
        benefits = ask_all(run, messages.BENEFIT, content, read_benefit) if run.asks_benefit else []
    except BaseException:  # Ctrl-C too: the figures that remain are the last round's, counted at 0.5
        run.threshold = DEFAULT_THRESHOLD
        raise
    run.evaluations = {reply.hospital: reply.content for reply in evaluations}
    if run.privacy is not None:
        from federated_health.server.noisy_summary import summarise_noisy_run  # noqa: PLC0415  # with privacy only

        return summarise_noisy_run(run, run.privacy)
    gained = {reply.hospital: reply.content for reply in benefits}
    figures = summarise_run(run.target, run.evaluations, run.train_examples)
    if evaluations:
        counts = {name: evaluation.counts for name, evaluation in run.evaluations.items()}
        check_for_harm(run, counts, figures["federation"].get("roc_auc"))
    if task.subgroups:
        from federated_health.ml.subgroup_figures import summarise_subgroups  # noqa: PLC0415  # where there are any

        groups = summarise_subgroups(task, {name: of.subgroups for name, of in run.evaluations.items()})
        figures |= {messages.SUBGROUPS: groups} if groups else {}
    return figures | summarise_benefits(gained, run.evaluations, task, run.problems.data_warnings)


def check_for_harm(run: PlainRun, counts: Mapping[str, EvaluationSums], roc_auc: float | None) -> None:
    """Record in the problem log that the final model is worse than chance, or much worse than in its best round."""
    loss, best = run.compare_losses(counts)
    is_worse = loss > MUCH_WORSE * best > 0
    if is_worse or (roc_auc is not None and roc_auc < 0.5):
        from federated_health.server.opposed_updates import note_harm  # noqa: PLC0415  # of failed runs only

        note_harm(run.target, merge_counts(counts.values()), roc_auc, loss / best if is_worse else 0.0, run.problems)


def _choose_threshold(run: PlainRun) -> float:
    """The threshold with the greatest F1 on all training rows; 0.5 without both classes. Under privacy it is fixed.

    A target without a threshold keeps 0.5, too.
    """
    if not run.target.has_threshold:
        return DEFAULT_THRESHOLD
    if run.privacy is not None:
        from federated_health.ml.noisy_evaluation import fixed_threshold  # noqa: PLC0415  # with privacy only

        return fixed_threshold(run.target)

    def read_scores(node: int, content: RecordDict) -> TrainingScores:
        return read_training_scores(content, run.participants.registration_of(node).train_examples)

    from federated_health.ml.microaggregates import choose_threshold  # noqa: PLC0415  # at the end of a run only

    replies = ask_all(run, messages.THRESHOLD, _final_message(run), read_scores)
    if not replies:
        return DEFAULT_THRESHOLD
    positives = np.concatenate([reply.content.positives for reply in replies])
    negatives = np.concatenate([reply.content.negatives for reply in replies])
    chosen = choose_threshold(positives, negatives)
    return DEFAULT_THRESHOLD if chosen is None else chosen


def _final_message(run: PlainRun) -> RecordDict:
    """The final weights and the configuration."""
    config = run.train_config().to_record()
    return RecordDict({messages.ARRAYS: weights_to_record(run.weights), messages.CONFIG: config})


def ask_all(
    run: FederatedRun, message_type: str, content: RecordDict, read: Callable[[int, RecordDict], Content]
) -> list[AcceptedReply[Content]]:
    """Send every hospital the same message, and again while too few have answered.

    Absent hospitals are awaited for at most the settings' `wait`; connected ones get MAX_ATTEMPTS messages.
    """
    needed, accepted = run.settings.min_updates, dict[str, AcceptedReply[Content]]()
    attempts: Counter[str] = Counter()
    backoff, next_log = Backoff(run.settings.wait), 0.0
    failures: dict[str, str] = {}
    while True:
        names = {node: run.participants.names()[node] for node in run.participants.present()}
        nodes = [node for node, name in names.items() if name not in accepted and attempts[name] < MAX_ATTEMPTS]
        requests = [Message(content, node, message_type) for node in nodes]
        earlier, failures = failures, {}
        run.collector.failures = failures
        accepted |= {
            reply.hospital: reply for reply in run.collector.send_and_receive(requests, names, read, of_round=False)
        }
        attempts.update(names[node] for node in nodes)
        awaited = [name for name in run.registrations if name not in accepted and attempts[name] < MAX_ATTEMPTS]
        if len(accepted) >= needed or not awaited:
            break
        if not accepted:
            from federated_health.server.lasting_failures import find_lasting_cause  # noqa: PLC0415  # after a failure

            if cause := find_lasting_cause([names[node] for node in nodes], failures, earlier):
                logger.warning("%s: %s", message_type, cause)
                break
        answered = f"{message_type}: {len(accepted)} of {len(run.registrations)} hospitals answered"
        if (now := time.monotonic()) >= next_log:
            limit = f"waiting up to {run.settings.wait:g} s for {', '.join(sorted(awaited))}"
            logger.warning("%s, and %d are needed; %s", answered, needed, limit)
            next_log = now + LOG_INTERVAL
        if not backoff.pause():
            logger.warning("%s", answered)
            break
    return [reply for _, reply in sorted(accepted.items())]
