"""Vectors that are added while they are encrypted: CKKS (Cheon et al. 2017), by TenSEAL over Microsoft's SEAL.

Parameters are fixed, so that neither side has to believe the other's: ring degree 4,096 with a coefficient modulus of
60 + 49 = 109 bits, the most that the Homomorphic Encryption Standard (Albrecht et al. 2018, table 1) allows for 128-bit
security at this degree. Only additions are done; they need the 60 bits, and TenSEAL itself the other 49. A vector
travels in chunks of 2,048 numbers, about 66 kB each; what comes out is within ERROR a vector that was added.

CKKS is not safe against one who holds ciphertexts and gets to know what they decrypt to (Li and Micciancio 2021): who
decrypts must send nothing of it back.
"""

import hashlib
import importlib
import math
import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from types import ModuleType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from federated_health.messages.records import MalformedMessageError

DEGREE = 4096
MODULUS_BITS = (60, 49)
SCALE = 2.0**40
SLOTS = DEGREE // 2

LARGEST = 2.0**10
"""Of a number that is encrypted, so that the sum of MAX_NUMBER vectors stays within 2**19, where 60 bits end."""

MAX_NUMBER = 500
"""Of vectors that are added."""

ERROR = 1e-7
"""Of a number of a sum; measured: 6e-9 of one vector, and it grows with the square root of how many are added."""

CHUNK_BYTES = 80_000
"""Beyond which nothing can be a chunk: two polynomials of 4,096 coefficients of 60 bits are 65,536 bytes."""

_ENDING = b"\x19" + struct.pack("<d", SCALE)
"""Of TenSEAL's protobuf of a vector: its scale, which TenSEAL 0.3.18 itself cannot be asked for."""

Vector = npt.NDArray[np.float64]
Chunks = Sequence[bytes]


def number_of_chunks(length: int) -> int:
    """In which a vector of this length travels."""
    return math.ceil(length / SLOTS)


@dataclass(frozen=True, eq=False)
class Encrypted:
    """A vector that was read: its chunks as TenSEAL has them, checked."""

    parts: tuple[Any, ...]
    length: int

    def to_chunks(self) -> list[bytes]:
        return [part.serialize() for part in self.parts]


class Adder:
    """Reads and adds encrypted vectors, without a key.

    Args:
        context: TenSEAL's, without a secret key.
    """

    def __init__(self, context: Any = None) -> None:
        self._context = _public_context() if context is None else context

    def read(self, chunks: Chunks, length: int) -> Encrypted:
        """An encrypted vector as a stranger sent it.

        Whether it was encrypted with the right key, nobody can see who has none.

        Raises:
            MalformedMessageError: it is not one of this length and of these parameters.
        """
        if len(chunks) != number_of_chunks(length):
            raise MalformedMessageError("its encrypted vector is not of the right number of chunks")
        sizes = [min(SLOTS, length - start) for start in range(0, length, SLOTS)]
        return Encrypted(
            tuple(self._read_chunk(chunk, size) for chunk, size in zip(chunks, sizes, strict=True)), length
        )

    def add(self, vectors: Sequence[Encrypted]) -> Encrypted:
        """Their sum; they are of one length.

        Raises:
            ValueError: there is none, there are too many, or their lengths differ.
        """
        if not 0 < len(vectors) <= MAX_NUMBER or len({one.length for one in vectors}) != 1:
            raise ValueError("expected some encrypted vectors of one length")
        first, *others = vectors
        parts = list(first.parts)
        for other in others:
            parts = [mine + theirs for mine, theirs in zip(parts, other.parts, strict=True)]
        return Encrypted(tuple(parts), first.length)

    def _read_chunk(self, chunk: bytes, size: int) -> Any:
        if not isinstance(chunk, bytes) or len(chunk) > CHUNK_BYTES:
            raise MalformedMessageError("its encrypted vector has a chunk that is too large")
        try:
            part = _tenseal().ckks_vector_from(self._context, chunk)
            (inner,) = part.ciphertext()
            is_ours = (
                part.size() == size
                and chunk.endswith(_ENDING)
                and inner.scale == SCALE
                and (inner.size(), inner.poly_modulus_degree(), inner.coeff_modulus_size()) == (2, DEGREE, 1)
                and inner.is_ntt_form()
            )
        except Exception:  # whatever a stranger's bytes make TenSEAL, SEAL or protobuf raise
            raise MalformedMessageError("its encrypted vector cannot be read") from None
        if not is_ours:
            raise MalformedMessageError("its encrypted vector is of another length or other parameters")
        return part


class SecretKey(Adder):
    """The key that hospitals share: encrypts and decrypts. It never leaves them but in envelopes (see `envelopes`)."""

    @classmethod
    def make(cls) -> Self:
        """A new one, from the operating system's entropy."""
        return cls(_new_context())

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The inverse of `to_bytes`.

        Raises:
            MalformedMessageError: it is not a secret key of these parameters.
        """
        try:
            context = _tenseal().context_from(content, n_threads=1)
            is_ours = context.has_secret_key() and context.has_public_key() and context.global_scale == SCALE
        except Exception:  # whatever other bytes make TenSEAL, SEAL or protobuf raise
            is_ours = False
        if not is_ours:
            raise MalformedMessageError("it is not a key")
        key = cls(context)
        key.read(key.encrypt(np.zeros(1)), 1)  # its parameters are those of everybody
        return key

    def to_bytes(self) -> bytes:
        """The key itself: a secret."""
        content: bytes = self._context.serialize(
            save_public_key=True, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
        )
        return content

    def encrypt(self, vector: Vector) -> list[bytes]:
        """A vector, in chunks.

        Raises:
            ValueError: it is empty, or a number is not finite or beyond LARGEST.
        """
        if not vector.size or not (np.abs(vector) <= LARGEST).all():
            raise ValueError("what is encrypted must be finite numbers that are not too large")
        parts = (vector[start : start + SLOTS].tolist() for start in range(0, len(vector), SLOTS))
        return [_tenseal().ckks_vector(self._context, part).serialize() for part in parts]

    def decrypt(self, chunks: Chunks, length: int) -> Vector:
        """The inverse of `encrypt`, and of sums of what it gave.

        What was encrypted with another key gives numbers without meaning, far beyond LARGEST.

        Raises:
            MalformedMessageError: see `read`.
        """
        read = self.read(chunks, length)
        return np.concatenate([np.array(part.decrypt(), dtype=np.float64) for part in read.parts])


@lru_cache(maxsize=16)
def load_key(content: bytes) -> SecretKey:
    """A secret key, parsed once a process; see `SecretKey.from_bytes`."""
    return SecretKey.from_bytes(content)


def key_id(content: bytes) -> str:
    """What a key may be called before everybody: 128 bits of a hash of it."""
    return hashlib.sha256(b"federated-health key id" + content).hexdigest()[:32]


def _new_context() -> Any:
    tenseal = _tenseal()
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=DEGREE, coeff_mod_bit_sizes=list(MODULUS_BITS), n_threads=1
    )
    context.global_scale = SCALE
    return context


def _public_context() -> Any:
    """Parameters and nothing else: TenSEAL makes keys of its own with them, and the secret one is dropped."""
    context = _new_context()
    context.make_context_public()
    return context


@cache
def _tenseal() -> ModuleType:
    """Imported when it is first needed: most runs do not need it.

    It brings a protobuf of its own, and so does TensorFlow, which shows its symbols to all that are loaded later:
    without RTLD_DEEPBIND TenSEAL 0.3.18 would call TensorFlow's, and crash.
    """
    if not hasattr(os, "RTLD_DEEPBIND"):  # where libraries do not share names, or TensorFlow must come later
        return importlib.import_module("tenseal")
    before = sys.getdlopenflags()
    sys.setdlopenflags(before | os.RTLD_DEEPBIND)
    try:
        return importlib.import_module("tenseal")
    finally:
        sys.setdlopenflags(before)
