"""Fixed-point numbers, and the masks that hide them and cancel in a sum. Arrays in, arrays out; no messages here.

A number is sent as a whole multiple of RESOLUTION modulo 2**64. So sums are exact, and a number plus a uniform mask is
uniform: it tells nothing about the number.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from federated_health.errors import SecureAggregationError
from federated_health.secure_aggregation.offers import Offer, pack

RESOLUTION = 2.0**-36

MAX_WEIGHT = 2.0**25
"""Largest absolute value of a weight: an average, whose shares add up to 1, is no larger."""

MAX_HOSPITALS = 1024
"""Largest number of hospitals in a sum: that of the lower parts of figures stays within 2**63."""

MAX_FIGURE = 2.0**60

_LOWER = 2.0**16
"""A figure is sent as a multiple of this, and the rest."""

_BLOCK = 2**16
"""Numbers of a mask that are made at a time."""

Masked = npt.NDArray[np.uint64]
Vector = npt.NDArray[np.float64]


def write_weights(weights: Vector, share: float) -> Masked:
    """A hospital's part of the average: its weights times its share, [weights]."""
    return _encode(share * weights)


def read_weights(total: Masked) -> Vector:
    """The average, from the sum of all hospitals' parts."""
    return _decode(total)


def write_figures(figures: Vector) -> Masked:
    """Figures, [2 * figures]: their lower parts, then their multiples of 2**16. Whole numbers are exact."""
    upper = np.floor(figures / _LOWER)
    return np.concatenate([_encode(figures - _LOWER * upper), upper.astype(np.int64).view(np.uint64)])


def read_figures(total: Masked) -> Vector:
    """The sums of figures, from the sum of all hospitals' `write_figures`."""
    lower, upper = np.split(total, 2)
    return _decode(lower) + _LOWER * upper.view(np.int64)


def check_values(weights: Vector, figures: Vector) -> None:
    """Refuse weights or figures that do not fit."""
    if not (np.abs(weights) <= MAX_WEIGHT).all() or not (np.abs(figures) <= MAX_FIGURE).all():
        raise SecureAggregationError("its weights or figures are not finite, or too large")


def add_masks(vector: Masked, key: X25519PrivateKey, own: Offer, participants: Iterable[Offer], label: bytes) -> None:
    """Add to a hospital's vector a mask for each other participant, which subtracts the same one.

    Args:
        label: what the masks are for; no two sums have the same.
    """
    for other in participants:
        if other.digest == own.digest:
            continue
        first, second = sorted([own.digest, other.digest])
        try:
            secret = key.exchange(X25519PublicKey.from_public_bytes(other.public))
        except ValueError:
            raise SecureAggregationError(f"the offer of {other.name} holds no usable key") from None
        seed = HKDF(SHA256(), length=32, salt=None, info=pack(label, first, second)).derive(secret)
        _add_stream(vector, seed, is_added=own.digest == first)


def add_vectors(vectors: Sequence[Masked]) -> Masked:
    """The sum modulo 2**64, in which masks cancel."""
    return np.add.reduce(vectors)  # type: ignore[no-any-return]  # of the vectors' own type


def _add_stream(vector: Masked, seed: bytes, *, is_added: bool) -> None:
    """Add or subtract the key stream of AES-256 in counter mode; a seed is used once."""
    stream = Cipher(AES256(seed), CTR(bytes(16))).encryptor()
    change: Any = np.add if is_added else np.subtract
    for start in range(0, len(vector), _BLOCK):
        block = vector[start : start + _BLOCK]
        change(block, np.frombuffer(stream.update(bytes(block.nbytes)), dtype="<u8"), out=block)


def _encode(values: Vector) -> Masked:
    return np.rint(values / RESOLUTION).astype(np.int64).view(np.uint64)


def _decode(total: Masked) -> Vector:
    return total.view(np.int64).astype(np.float64) * RESOLUTION
