"""Imports for the fork servers of `chaos.py` and of the tests, so that their forks import nothing."""

import gc

import matplotlib.pyplot  # noqa: F401  # for the server's report
import sklearn.metrics  # noqa: F401  # for the AUC

import client  # noqa: F401
import server  # noqa: F401
from federated_health.ml.backend import load_keras

load_keras()  # only the import: TensorFlow starts threads with the first tensor, and a fork loses threads
gc.freeze()  # memory that is never collected is never written to, and stays shared with the forks
