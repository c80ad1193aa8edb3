"""The cipher against NumPy, and what malformed bytes may come instead."""

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
ADDER = Adder()
ONES = KEY.encrypt(np.ones(700))


@pytest.mark.parametrize("length", [1, 700, SLOTS, SLOTS + 1, 3 * SLOTS + 5])
def test_sums_of_encrypted_vectors_are_those_of_plain_ones(length: int) -> None:
    plain = np.random.default_rng(length).uniform(-MAX_VALUE, MAX_VALUE, (5, length))
    encrypted = [KEY.encrypt(vector) for vector in plain]
    added = ADDER.add([ADDER.read(chunks, length) for chunks in encrypted])
    assert len(added) == math.ceil(length / SLOTS)
    assert np.abs(KEY.decrypt(added, length) - plain.sum(axis=0)).max() < 1e-7


def test_the_largest_sum_does_not_overflow() -> None:
    one = ADDER.read(KEY.encrypt(np.full(10, MAX_VALUE)), 10)
    added = ADDER.add([one] * MAX_VECTORS)
    assert KEY.decrypt(added, 10) == pytest.approx(np.full(10, MAX_VALUE * MAX_VECTORS), rel=1e-9)
    with pytest.raises(ValueError, match="expected 1 to 500"):
        ADDER.add([one] * (MAX_VECTORS + 1))


def test_the_error_of_a_large_sum_is_within_the_bound() -> None:
    one = ADDER.read(KEY.encrypt(np.zeros(SLOTS)), SLOTS)
    added = ADDER.add([one] * 20 + [ADDER.read(KEY.encrypt(np.zeros(SLOTS)), SLOTS) for _ in range(20)])
    assert np.abs(KEY.decrypt(added, SLOTS)).max() < 40 * MAX_ERROR


def test_one_vector_encrypted_twice_looks_different_each_time() -> None:
    assert KEY.encrypt(np.ones(3)) != KEY.encrypt(np.ones(3))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.001 * MAX_VALUE])
def test_numbers_that_are_not_finite_or_too_large_are_not_encrypted(value: float) -> None:
    with pytest.raises(ValueError, match="expected finite numbers"):
        KEY.encrypt(np.array([0.0, value]))
    with pytest.raises(ValueError, match="expected finite numbers"):
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


@pytest.mark.parametrize("content", [b"", b"key", ADDER._context.serialize()])
def test_bytes_that_are_no_key_are_refused(content: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="it is not a key"):
        SecretKey(content)


def test_a_key_of_other_parameters_is_refused() -> None:
    import tenseal

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
        ([], 700, "right number of chunks"),
        (ONES * 2, 700, "right number of chunks"),
        (ONES, SLOTS + 1, "right number of chunks"),
        (ONES, 699, "another length"),
        ([ONES[0] + b"\0"], 700, "cannot be read|another length"),
        ([b""], 700, "cannot be read|another length"),
        ([b"\0" * (MAX_CHUNK_BYTES + 1)], 700, "too large"),
        ([ONES[0][:-9]], 700, "cannot be read|another length"),
    ],
)
def test_a_malformed_vector_is_refused(chunks: list[bytes], length: int, words: str) -> None:
    with pytest.raises(MalformedMessageError, match=words):
        ADDER.read(chunks, length)


def test_a_vector_that_claims_another_scale_is_refused() -> None:
    claim = ONES[0][:-8] + struct.pack("<d", 2.0**39)
    with pytest.raises(MalformedMessageError, match="another length or other parameters"):
        ADDER.read([claim], 700)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(ONES[0]) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 120),
)
def test_altered_bytes_are_refused_or_read_as_a_vector(
    changes: list[tuple[int, int]], at_the_beginning: bool, cut: int
) -> None:
    altered = bytearray(ONES[0])
    for place, value in changes:
        altered[place % 120 if at_the_beginning else place] = value
    content = bytes(altered[: len(altered) - cut])
    try:
        read = ADDER.read([content], 700)
    except MalformedMessageError:
        return
    added = ADDER.add([read, ADDER.read(ONES, 700)])
    assert KEY.decrypt(added, 700).shape == (700,)


def test_a_process_that_has_tensorflow_already_can_encrypt() -> None:
    """Both bring a protobuf, and TensorFlow's symbols are seen by all that is loaded after it."""
    program = (
        "from federated_health.ml.backend import load_tensorflow; load_tensorflow()\n"
        "import numpy as np\n"
        "from federated_health.encryption.ckks import SecretKey\n"
        "key = SecretKey(SecretKey().content)\n"
        "assert abs(key.decrypt(key.encrypt(np.ones(3)), 3) - 1).max() < 1e-7\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_scripts_do_not_import_tenseal_without_encryption() -> None:
    program = "import sys, server, client; assert not [name for name in sys.modules if 'tenseal' in name]"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
