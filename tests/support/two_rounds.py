"""Two rounds of three hospitals in this process, for tests of its environment.

`python -m tests.support.two_rounds` prints what the package logs, and then a hash of the weights and of predictions.
"""

import federated_health  # isort: skip  # first: it configures gRPC's log

import hashlib
import logging
import sys

import numpy as np
import pandas as pd


def make_patients(seed: int) -> pd.DataFrame:
    """40 made-up patients of one hospital."""
    generator = np.random.default_rng(seed)
    age, pressure = generator.integers(30, 80, 40), generator.normal(130, 15, 40).round(1)
    disease = (generator.random(40) < 1 / (1 + np.exp(-(age - 55) / 10))).astype(int)
    return pd.DataFrame({"age": age, "pressure": pressure, "disease": disease})


def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    logging.getLogger("federated_health").setLevel(logging.INFO)
    hospitals = {name: make_patients(seed) for seed, name in enumerate(("north", "south", "east"))}
    try:
        task = federated_health.draft_task(pd.concat(hospitals.values()), target="disease")
        result = federated_health.federate(hospitals, task, rounds=2, optimizer="adam")
        scored = result.model.predict(hospitals["north"])
    except federated_health.UserError as error:
        sys.exit(f"error: {error}")
    digest = hashlib.sha256(scored.to_csv().encode())
    for weights in result.model.keras_model.get_weights():
        digest.update(weights.tobytes())
    print("weights", digest.hexdigest())


if __name__ == "__main__":
    main()
