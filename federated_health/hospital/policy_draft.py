"""Writes a commented policy file that allows a given run, for a hospital to edit."""

import json
from collections.abc import Iterable
from itertools import chain
from textwrap import wrap

from federated_health.data.tasks import Task
from federated_health.hospital.policy import Policy
from federated_health.hospital.policy_file import OFF
from federated_health.messages.releases import RELEASES
from federated_health.messages.run_terms import RunTerms
from federated_health.ml.networks import FILE, Network, number_of_weights
from federated_health.names import MODELS

WIDTH = 98
"""Longest line of a comment, without the # before it."""

MAX_PARAMETERS_PER_ROW = 0.33
"""Default of DataSHIELD's `nfilter.glm`, the largest number of a regression's parameters per observation.

Its function `ds.listDisclosureSettings` documents the setting.
"""


def draft_policy(terms: RunTerms, task: Task, *, train_rows: int = 0, server: str | None = None) -> str:
    """A policy file that allows a run with these terms.

    Args:
        train_rows: number of this hospital's training rows; 0 if it is not known.
        server: fingerprint of the key of the server that offers the terms, empty for one without TLS; None if no server
            was asked, so that the terms are only those of a run with default settings.
    """
    is_offered = server is not None
    model = str(terms.network["model"])
    networks = MODELS if not is_offered else [terms.network_hash if model == FILE else model]
    return f"""\
# What this hospital allows. docs/policy.md explains every key; a key that is not here has its default.
# This draft allows {"the run that the server offers" if is_offered else "a run with the server's default settings"}.
# Edit it, then check it with: federated-health policy check FILE

# Which runs to join
# ------------------

# Fingerprints of servers' keys, as `federated-health certificates show` prints them; [] allows any.
servers = {_write([server] if server else [])}

# Names; [] allows any.
tasks = {_write([terms.task])}
strategies = {_write([terms.strategy] if is_offered else [])}

# {", ".join(MODELS)}, or the hash of a network, such as that of a network file; [] allows any.
networks = {_write(networks)}

# Smallest number of hospitals in an average (server.py --min-hospitals).
min_hospitals = {terms.min_updates}

max_rounds = {terms.rounds}
max_local_epochs = {terms.local_epochs}

# Smallest number of rows per training step. A run that uses all rows in each step is always allowed.
min_batch_size = {terms.batch_size or 1}

# Largest number of the network's weights per training row, and what happens above it: "warn" or "refuse".
# {MAX_PARAMETERS_PER_ROW} is DataSHIELD's default for regressions (nfilter.glm).
{_comment(_describe_size(terms, task, train_rows))}
max_parameters_per_row = {MAX_PARAMETERS_PER_ROW}
above_max_parameters = "warn"

# Require differential privacy, with at most this epsilon and delta over the whole run.
{_privacy(terms)}

# true requires runs in which the server learns only sums over several hospitals' weights.
require_secure_aggregation = {json.dumps(terms.secure_aggregation)}

# What may leave
# --------------

# Smallest number of patients in a published cell; smaller cells, and cells from which they follow, are suppressed.
# It suppresses nothing of data whose manifest.json says that they are public.
min_cell = {Policy.min_cell}

# Releases that never leave; the hospital still takes part. Each of:
{_comment(chain.from_iterable(map(_describe_release, OFF)))}
releases_off = []
"""


def _write(texts: Iterable[str]) -> str:
    """A TOML array of texts without control characters, which JSON writes in the same way."""
    return json.dumps(list(texts), ensure_ascii=False)


def _comment(lines: Iterable[str]) -> str:
    return "\n".join(f"# {line}" for line in lines)


def _describe_release(name: str) -> list[str]:
    text = f"{name}: {RELEASES[name].words}"
    return wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _describe_size(terms: RunTerms, task: Task, train_rows: int) -> list[str]:
    """How large the run's network and a logistic regression are, and how many training rows they would need."""
    logistic = number_of_weights(task, Network("logistic"))
    sizes = {"The run's network": terms.parameters, "a logistic regression (server.py --model logistic)": logistic}
    if terms.network["model"] == "logistic":
        del sizes["a logistic regression (server.py --model logistic)"]
    needed = [f"{name} has {weights:,}" for name, weights in sizes.items()]
    lines = [f"{'; '.join(needed)}."]
    if train_rows:
        ratios = [f"{weights / train_rows:.3g}" for weights in sizes.values()]
        lines.append(f"This hospital has {train_rows:,} training rows: {' and '.join(ratios)} weights per row.")
    return lines


def _privacy(terms: RunTerms) -> str:
    """The lines about differential privacy: comments if the run has none."""
    if terms.epsilon:
        return f"max_epsilon = {terms.epsilon!r}\nmax_delta = {terms.delta!r}"
    return "# max_epsilon = 4\n# max_delta = 1e-5"
