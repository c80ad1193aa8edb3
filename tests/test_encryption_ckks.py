"""Encrypted vectors against NumPy; malformed keys and vectors are rejected."""

import math
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federated_health.encryption.ckks import (
    MAX_CHUNK_BYTES,
    MAX_ERROR,
    MAX_VALUE,
    MAX_VECTORS,
    SLOTS,
    Adder,
    SecretKey,
)
from federated_health.messages.records import MalformedMessageError

KEY = SecretKey()
tenseal = sys.modules["tenseal"]  # as `ckks` loads it beside TensorFlow
ADDER = Adder()
ONES = KEY.encrypt(np.ones(700))


@pytest.mark.parametrize("length", [1, 700, SLOTS, SLOTS + 1, 3 * SLOTS + 5])
def test_sums_of_encrypted_vectors_equal_plain_sums(length: int) -> None:
    plain = np.random.default_rng(length).uniform(-MAX_VALUE, MAX_VALUE, (5, length))
    encrypted = [KEY.encrypt(vector) for vector in plain]
    added = ADDER.add([ADDER.read(chunks, length) for chunks in encrypted])
    assert len(added) == math.ceil(length / SLOTS)
    assert np.abs(KEY.decrypt(added, length) - plain.sum(axis=0)).max() < 1e-7


def test_the_largest_sum_does_not_overflow() -> None:
    vector = ADDER.read(KEY.encrypt(np.full(10, MAX_VALUE)), 10)
    added = ADDER.add([vector] * MAX_VECTORS)
    assert KEY.decrypt(added, 10) == pytest.approx(np.full(10, MAX_VALUE * MAX_VECTORS), rel=1e-9)
    with pytest.raises(ValueError, match="got 501"):
        ADDER.add([vector] * (MAX_VECTORS + 1))
    with pytest.raises(ValueError, match="got 0"):
        ADDER.add([])


def test_the_error_of_a_large_sum_is_within_the_bound() -> None:
    vector = ADDER.read(KEY.encrypt(np.zeros(SLOTS)), SLOTS)
    added = ADDER.add([vector] * 20 + [ADDER.read(KEY.encrypt(np.zeros(SLOTS)), SLOTS) for _ in range(20)])
    assert np.abs(KEY.decrypt(added, SLOTS)).max() < 40 * MAX_ERROR


def test_a_vector_encrypted_twice_gives_different_bytes() -> None:
    assert KEY.encrypt(np.ones(3)) != KEY.encrypt(np.ones(3))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.001 * MAX_VALUE])
def test_numbers_that_are_not_finite_or_too_large_are_not_encrypted(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        KEY.encrypt(np.array([0.0, value]))


def test_an_empty_vector_is_not_encrypted() -> None:
    with pytest.raises(ValueError, match="finite"):
        KEY.encrypt(np.array([]))


def test_a_copied_key_decrypts_and_has_the_same_id() -> None:
    other = SecretKey(KEY.content)
    assert np.abs(other.decrypt(ONES, 700) - 1.0).max() < 1e-7
    assert np.abs(KEY.decrypt(other.encrypt(np.full(2, 7.0)), 2) - 7.0).max() < 1e-7
    assert other.id == KEY.id
    assert SecretKey().id != KEY.id
    assert len(KEY.id) == 32


def test_another_key_decrypts_to_implausible_numbers() -> None:
    assert np.median(np.abs(SecretKey().decrypt(ONES, 700))) > MAX_VALUE


def test_an_adder_without_a_key_cannot_decrypt() -> None:
    with pytest.raises(ValueError, match="doesn't hold a secret_key"):
        ADDER.read(ONES, 700)[0].decrypt()


def public_part(key: SecretKey) -> bytes:
    context = tenseal.context_from(key.content, n_threads=1)
    context.make_context_public()
    content: bytes = context.serialize()
    return content


@pytest.mark.parametrize("content", [b"", b"key", public_part(KEY)], ids=["empty", "other bytes", "public part"])
def test_bytes_without_a_secret_key_are_rejected(content: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="secret key"):
        SecretKey(content)


def test_a_key_and_a_vector_of_other_parameters_are_rejected() -> None:
    other = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[60, 40, 60], n_threads=1
    )
    other.global_scale = 2.0**40
    with pytest.raises(MalformedMessageError):
        SecretKey(other.serialize(save_secret_key=True))
    with pytest.raises(MalformedMessageError):
        ADDER.read([tenseal.ckks_vector(other, [1.0] * 700).serialize()], 700)


@pytest.mark.parametrize(
    ("chunks", "length", "words"),
    [
        ([], 700, "expected 1 chunks, got 0"),
        (ONES * 2, 700, "expected 1 chunks, got 2"),
        (ONES, SLOTS + 1, "expected 2 chunks, got 1"),
        (ONES, 699, "another length"),
        ([ONES[0] + b"\0"], 700, "cannot be read|another length"),
        ([b""], 700, "cannot be read|another length"),
        ([b"\0" * (MAX_CHUNK_BYTES + 1)], 700, "too large"),
        ([ONES[0][:-9]], 700, "cannot be read|another length"),
    ],
)
def test_a_malformed_vector_is_rejected(chunks: list[bytes], length: int, words: str) -> None:
    with pytest.raises(MalformedMessageError, match=words):
        ADDER.read(chunks, length)


def test_a_vector_of_another_scale_is_rejected() -> None:
    claim = ONES[0][:-8] + struct.pack("<d", 2.0**39)
    with pytest.raises(MalformedMessageError, match="other parameters"):
        ADDER.read([claim], 700)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(ONES[0]) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 120),
)
def test_altered_bytes_are_rejected_or_read_as_a_vector(
    changes: list[tuple[int, int]], in_header: bool, cut: int
) -> None:
    altered = bytearray(ONES[0])
    for place, value in changes:
        altered[place % 120 if in_header else place] = value
    content = bytes(altered[: len(altered) - cut])
    try:
        vector = ADDER.read([content], 700)
    except MalformedMessageError:
        return
    added = ADDER.add([vector, ADDER.read(ONES, 700)])
    assert KEY.decrypt(added, 700).shape == (700,)


def test_a_process_that_has_tensorflow_already_can_encrypt() -> None:
    """Both contain protobuf, and libraries that are loaded later see TensorFlow's symbols."""
    program = (
        "from federated_health.ml.backend import load_tensorflow; load_tensorflow()\n"
        "import numpy as np\n"
        "from federated_health.encryption.ckks import SecretKey\n"
        "key = SecretKey(SecretKey().content)\n"
        "assert abs(key.decrypt(key.encrypt(np.ones(3)), 3) - 1).max() < 1e-7\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
