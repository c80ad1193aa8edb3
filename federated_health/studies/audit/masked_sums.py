"""What a server gets with secure aggregation if it sends different weights to different hospitals.

Weights of zeros silence a hospital: no unit responds to any row, and nothing but the last bias moves. If all hospitals
but one are silent, the sum is that hospital's update (Pasquini et al. 2022, "Eluding secure aggregation in federated
learning via model inconsistency"). The masks depend on all that a message holds, so those of different messages do not
cancel.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federated_health.ml.networks import Weights, weights_hash
from federated_health.secure_aggregation import masks
from federated_health.secure_aggregation.offers import Offer
from federated_health.studies.audit.observations import Step


def masked_average(steps: Mapping[str, Step], shares: Mapping[str, float]) -> Weights:
    """The weighted average that the server computes from masked updates of one round.

    Each hospital makes its masks for the weights that it received. If these differ, the average is noise.

    Args:
        steps: hospital -> its local training.
        shares: hospital -> its share of the average.
    """
    keys = {name: X25519PrivateKey.generate() for name in steps}
    offers = {name: _offer(name, key) for name, key in keys.items()}
    vectors = []
    for name, step in steps.items():
        flat = np.concatenate([array.ravel() for array in step.after.values()]).astype(np.float64)
        vector = masks.write_weights(flat, shares[name])
        masks.add_masks(vector, keys[name], offers[name], offers.values(), weights_hash(step.before).encode())
        vectors.append(vector)
    return _like(next(iter(steps.values())).after, masks.read_weights(masks.add_vectors(vectors)))


def single_out(average: Weights, share: float) -> Weights:
    """The only hospital's weights in an average with silent ones, up to the last bias, which also these move."""
    return {name: (array / share).astype(array.dtype) for name, array in average.items()}


def silent_weights(weights: Weights) -> Weights:
    """Weights of zeros, of the same shapes."""
    return {name: np.zeros_like(array) for name, array in weights.items()}


def _offer(name: str, key: X25519PrivateKey) -> Offer:
    """An offer without a certificate, of which masks use neither this nor the signature."""
    public = key.public_key().public_bytes_raw()
    no_certificate: Any = None
    return Offer(content=public, digest=public, certificate=no_certificate, name=name, public=public, signature=b"")


def _like(weights: Weights, flat: masks.Vector) -> Weights:
    """Numbers one after the other as weights of these shapes."""
    ends = np.cumsum([array.size for array in weights.values()])[:-1]
    parts = zip(weights.items(), np.split(flat, ends), strict=True)
    return {name: part.reshape(array.shape).astype(np.float32) for (name, array), part in parts}
