"""Vectors that are added while encrypted: CKKS (Cheon et al. 2017), by TenSEAL on top of Microsoft's SEAL.

The parameters are fixed, so neither side has to trust the other's: ring degree 4,096 with a coefficient modulus of
60 + 49 = 109 bits, the largest that the Homomorphic Encryption Standard (Albrecht et al. 2018, table 1) allows for
128-bit security at this degree. Only additions are used; they need the 60 bits, and TenSEAL itself the other 49. A
vector is sent in chunks of 2,048 numbers, about 66 kB each. A decrypted sum is within MAX_ERROR per vector added.

CKKS is not secure against an attacker who holds ciphertexts and learns what they decrypt to (Li and Micciancio 2021):
a hospital must not send back anything that it decrypted.
"""

import hashlib
import importlib
import operator
import os
import struct
import sys
from collections.abc import Sequence
from functools import cache, lru_cache, reduce
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.messages.records import MalformedMessageError

DEGREE = 4096
MODULUS_BITS = (60, 49)
SCALE = 2.0**40
SLOTS = DEGREE // 2

MAX_VALUE = 2.0**10
"""Largest number that may be encrypted: a sum of MAX_VECTORS then stays within 2**19, the limit of 60 bits."""

MAX_VECTORS = 500

MAX_ERROR = 1e-7
"""Bound of a number's error per vector added; measured: 6e-9 for one, growing with the square root of their number."""

MAX_CHUNK_BYTES = 80_000
"""Upper bound of a chunk's size: two polynomials of 4,096 coefficients of 60 bits are 65,536 bytes."""

_END_OF_CHUNK = b"\x19" + struct.pack("<d", SCALE)
"""End of TenSEAL's protobuf of a vector: its scale, which TenSEAL 0.3.18 has no function to read."""

Vector = npt.NDArray[np.float64]
Chunks = Sequence[bytes]
EncryptedVector = list[Any]
"""A validated encrypted vector: TenSEAL's object for each chunk."""


class Adder:
    """Reads and adds encrypted vectors without a key; the context is TenSEAL's."""

    def __init__(self, context: Any = None) -> None:
        if context is None:
            context = _new_context()
            context.make_context_public()  # drops the secret key that TenSEAL makes with every context
        self._context = context

    def read(self, chunks: Chunks, length: int) -> EncryptedVector:
        """Read an encrypted vector from another party, which must be of this length and of the parameters above.

        Whether it was encrypted with the right key can be seen with the secret key only.
        """
        sizes = [min(SLOTS, length - start) for start in range(0, length, SLOTS)]
        if len(chunks) != len(sizes):
            raise MalformedMessageError(f"its encrypted vector: expected {len(sizes)} chunks, got {len(chunks)}")
        return [self._read_chunk(chunk, size) for chunk, size in zip(chunks, sizes, strict=True)]

    def add(self, vectors: Sequence[EncryptedVector]) -> list[bytes]:
        """Sum of 1 to MAX_VECTORS vectors of the same length, in chunks."""
        if not 0 < len(vectors) <= MAX_VECTORS:
            raise ValueError(f"expected 1 to {MAX_VECTORS} encrypted vectors, got {len(vectors)}")
        return [reduce(operator.add, parts).serialize() for parts in zip(*vectors, strict=True)]

    def _read_chunk(self, chunk: bytes, size: int) -> Any:
        if not isinstance(chunk, bytes) or len(chunk) > MAX_CHUNK_BYTES:
            raise MalformedMessageError("its encrypted vector has a chunk that is too large")
        try:
            part = _tenseal().ckks_vector_from(self._context, chunk)
            (inner,) = part.ciphertext()
            is_valid = (
                part.size() == size
                and chunk.endswith(_END_OF_CHUNK)
                and inner.scale == SCALE
                and (inner.size(), inner.poly_modulus_degree(), inner.coeff_modulus_size()) == (2, DEGREE, 1)
                and inner.is_ntt_form()
            )
        except Exception:  # malformed bytes make TenSEAL, SEAL and protobuf raise various exceptions
            raise MalformedMessageError("its encrypted vector cannot be read") from None
        if not is_valid:
            raise MalformedMessageError("its encrypted vector is of another length or other parameters")
        return part


class SecretKey(Adder):
    """The key that hospitals share; encrypts and decrypts. It leaves a hospital only in envelopes (see `envelopes`).

    Args:
        content: of an existing key; without it, a new key is made from the operating system's entropy.

    Attributes:
        content: the key itself: a secret.
        id: its public name, 128 bits of its hash.

    Raises:
        MalformedMessageError: the content is not a secret key of these parameters.
    """

    def __init__(self, content: bytes | None = None) -> None:
        super().__init__(_new_context() if content is None else _read_context(content))
        self.content: bytes = content or self._context.serialize(
            save_public_key=True, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
        )
        self.id = hashlib.sha256(b"federated-health key id" + self.content).hexdigest()[:32]
        self.read(self.encrypt(np.zeros(1)), 1)  # raises if its parameters are not those above

    def encrypt(self, vector: Vector) -> list[bytes]:
        """The vector, encrypted, in chunks; ValueError if it is empty or a number is not finite or beyond MAX_VALUE."""
        if not vector.size or not (np.abs(vector) <= MAX_VALUE).all():
            raise ValueError(f"cannot encrypt: expected finite numbers up to {MAX_VALUE:g}")
        parts = (vector[start : start + SLOTS].tolist() for start in range(0, len(vector), SLOTS))
        return [_tenseal().ckks_vector(self._context, part).serialize() for part in parts]

    def decrypt(self, chunks: Chunks, length: int) -> Vector:
        """The inverse of `encrypt`, also for sums of encrypted vectors.

        A vector that was encrypted with another key decrypts to meaningless numbers far beyond MAX_VALUE.
        """
        return np.concatenate([np.array(part.decrypt(), dtype=np.float64) for part in self.read(chunks, length)])


@lru_cache(maxsize=16)
def load_key(content: bytes) -> SecretKey:
    """An existing key, parsed once per process."""
    return SecretKey(content)


def _read_context(content: bytes) -> Any:
    try:
        context = _tenseal().context_from(content, n_threads=1)
        is_valid = context.has_secret_key() and context.has_public_key() and context.global_scale == SCALE
    except Exception:  # malformed bytes make TenSEAL, SEAL and protobuf raise various exceptions
        is_valid = False
    if not is_valid:
        raise MalformedMessageError("the bytes are not a secret key of the expected parameters")
    return context


def _new_context() -> Any:
    tenseal = _tenseal()
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=DEGREE, coeff_mod_bit_sizes=list(MODULUS_BITS), n_threads=1
    )
    context.global_scale = SCALE
    return context


@cache
def _tenseal() -> ModuleType:
    """TenSEAL, imported on first use because most runs do not need it.

    TenSEAL and TensorFlow each bring a protobuf, and TensorFlow exports its symbols to libraries that are loaded later:
    without RTLD_DEEPBIND TenSEAL 0.3.18 would call TensorFlow's protobuf and crash.
    """
    if not hasattr(os, "RTLD_DEEPBIND"):  # macOS and Windows have no such flag and no such problem
        return importlib.import_module("tenseal")
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        return importlib.import_module("tenseal")
    finally:
        sys.setdlopenflags(flags)
