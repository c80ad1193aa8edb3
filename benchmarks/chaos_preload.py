"""What the fork server of `chaos.py` imports before it forks, so that a process costs no import; nobody else does."""

import gc

import matplotlib.pyplot  # noqa: F401  # a server's report wants it
import sklearn.metrics  # noqa: F401  # and its AUC this

import client  # noqa: F401
import server  # noqa: F401
from federated_health.ml.backend import load_keras

load_keras()  # the import alone: TensorFlow's threads, which no fork would survive, start with the first tensor
gc.freeze()  # what is never collected is never written to, and so stays shared with the children
