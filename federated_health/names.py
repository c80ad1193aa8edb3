"""Shared by several parts: names of hospitals, networks, optimizers, files and keys; limits, and defaults of flags."""

import re
import unicodedata
from hashlib import sha256

HOSPITAL_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

SETTINGS, ROUNDS, METRICS, MODEL, REPORT = "settings.json", "rounds.csv", "metrics.json", "model.keras", "report.html"
"""Files of a run."""

TABLES, TABLES_INDEX = "tables", "index.json"
"""Folder beside a report with its tables, and the file in it that lists them."""

DEFAULT_ADDRESS, DEFAULT_WAIT, DEFAULT_DATA = "127.0.0.1:8080", 300.0, "data"
"""The server's address, seconds to wait for the other side, and the folder that create_dataset.py writes."""

MAX_WAIT = 1e7
"""Longest wait in seconds; the clocks of some systems overflow beyond it."""

MAX_ROUNDS, MAX_LOCAL_EPOCHS, MAX_BATCH_SIZE = 100_000, 10_000, 1_000_000
MAX_RATE, MAX_PENALTY = 1e6, 1e6
MAX_EPSILON = 100.0
LARGEST = 2**31 - 1
"""Largest values of a run's settings; MAX_PENALTY is that of the L2 strength and of the proximal term, and LARGEST that
of any other whole number.

Settings allow no more, and a hospital refuses a message that asks for more.
"""

MAX_WEIGHTS = 2**27
"""Largest number of a network's weights: 512 MiB, which is the largest message."""

MODELS = ("mlp", "logistic")

ACTIVATIONS = ("relu", "tanh", "sigmoid", "elu", "selu", "gelu", "silu", "softplus", "softsign", "leaky_relu", "mish")
"""Activations of hidden layers, by Keras's names."""

SGD = "sgd"
OPTIMIZERS = (SGD, "adam", "adamw", "adamax", "nadam", "rmsprop", "adagrad", "adadelta", "lion", "ftrl")
"""Optimizers of local training, by Keras's names; sgd is plain stochastic gradient descent."""

MAX_UNITS, MAX_LAYERS = 65_536, 32
"""Largest hidden layer, and largest number of them."""

HOSPITAL_COLUMN = "hospital"
"""Column of a table, or of a mapping file, with the hospital of each row."""

FEDERATION = "federation"
"""Name of all hospitals together in tables and files, which no hospital may have."""

SECURE_AGGREGATION = "secure-aggregation"
"""Record of a hospital's own state that it keeps once it takes part in a run with secure aggregation."""

PRIVACY_PREFIX = "dp-"
"""Prefix of a privacy plan's keys in a message's config."""

AGREED_PLAN = "privacy"
"""Record of a hospital's own state that holds the plan with which it joined the run."""

ALLOWED_EPSILON = "dp-budget"
"""Key of a node's config: the epsilon that the hospital allows over all runs. With it a hospital joins only runs with
differential privacy."""

POLICY = "policy"
"""Key of a node's config: path of the policy's file; absent or empty for the defaults."""

MAPPING = "mapping"
"""Key of a node's config: the mapping file that states how the hospital's export is written."""

NETWORK = "network"
"""Key of a node's config: the file that builds the network, if the run's network is not one of the package's."""

PROXIMAL_MU = "proximal-mu"
"""Name that Flower's FedProx gives its parameter, in the strategy and in each train message."""

RUN_ID = 1
"""Flower's number of the run: outside its own engines there is one."""


def read_hidden(text: str) -> tuple[int, ...]:
    """Units of each hidden layer, such as 32,16; a ValueError if the text is something else."""
    try:
        units = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        units = (0,)
    if len(units) > MAX_LAYERS or not all(0 < number <= MAX_UNITS for number in units):
        raise ValueError(f"expected units of at most {MAX_LAYERS} layers, from 1 to {MAX_UNITS}, such as 32,16")
    return units


def is_hospital_name(name: str) -> bool:
    """Whether a name is 1 to 63 lower-case ASCII letters, digits and hyphens, and not `federation`."""
    return name != FEDERATION and HOSPITAL_NAME.fullmatch(name) is not None


def hospital_name_from(title: str) -> str:
    """A valid name made from a hospital's title, such as va-long-beach from VA Long Beach; empty if there is none.

    Letters lose their accents, and all other characters but digits become hyphens.
    """
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "-", plain.lower())[:63].strip("-")
    return name if is_hospital_name(name) else ""


def slug_of(title: str) -> str:
    """Lower-case ASCII letters, digits and hyphens of a title, for names of files and ids; may be empty."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def node_id_of(name: str) -> int:
    """A hospital's Flower node id, below 2**63. It depends on the name only, so that it is the same in every run."""
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big") >> 1 | 2


def printable(text: str, max_length: int = 200) -> str:
    """Text of another party, safe to show: one line, no control characters, at most `max_length` characters."""
    return "".join(character if character.isprintable() else "?" for character in text[:max_length])
