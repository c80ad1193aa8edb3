"""The cipher against NumPy, and what strangers may send in its place."""

import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federated_health.encryption.ckks import (
    CHUNK_BYTES,
    ERROR,
    LARGEST,
    MAX_NUMBER,
    SLOTS,
    Adder,
    SecretKey,
    key_id,
    number_of_chunks,
)
from federated_health.messages.records import MalformedMessageError

KEY = SecretKey.make()
ADDER = Adder()
ONES = KEY.encrypt(np.ones(700))


@pytest.mark.parametrize("length", [1, 700, SLOTS, SLOTS + 1, 3 * SLOTS + 5])
def test_sums_of_encrypted_vectors_are_those_of_plain_ones(length: int) -> None:
    plain = np.random.default_rng(length).uniform(-LARGEST, LARGEST, (5, length))
    encrypted = [KEY.encrypt(vector) for vector in plain]
    added = ADDER.add([ADDER.read(chunks, length) for chunks in encrypted]).to_chunks()
    assert len(added) == number_of_chunks(length)
    assert np.abs(KEY.decrypt(added, length) - plain.sum(axis=0)).max() < 1e-7


def test_as_many_as_may_be_added_of_the_largest_do_not_overflow() -> None:
    one = ADDER.read(KEY.encrypt(np.full(10, LARGEST)), 10)
    added = ADDER.add([one] * MAX_NUMBER).to_chunks()
    assert KEY.decrypt(added, 10) == pytest.approx(np.full(10, LARGEST * MAX_NUMBER), rel=1e-9)
    with pytest.raises(ValueError, match="expected some"):
        ADDER.add([one] * (MAX_NUMBER + 1))


def test_the_error_of_a_sum_of_many_is_within_what_is_declared() -> None:
    one = ADDER.read(KEY.encrypt(np.zeros(SLOTS)), SLOTS)
    added = ADDER.add([one] * 20 + [ADDER.read(KEY.encrypt(np.zeros(SLOTS)), SLOTS) for _ in range(20)])
    assert np.abs(KEY.decrypt(added.to_chunks(), SLOTS)).max() < 40 * ERROR


def test_one_vector_encrypted_twice_looks_different_each_time() -> None:
    assert KEY.encrypt(np.ones(3)) != KEY.encrypt(np.ones(3))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.001 * LARGEST])
def test_what_cannot_be_encrypted_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="must be finite numbers that are not too large"):
        KEY.encrypt(np.array([0.0, value]))
    with pytest.raises(ValueError, match="must be finite numbers that are not too large"):
        KEY.encrypt(np.array([]))


def test_a_key_that_was_passed_on_decrypts_and_has_the_same_name() -> None:
    content = KEY.to_bytes()
    other = SecretKey.from_bytes(content)
    assert np.abs(other.decrypt(ONES, 700) - 1.0).max() < 1e-7
    assert np.abs(KEY.decrypt(other.encrypt(np.full(2, 7.0)), 2) - 7.0).max() < 1e-7
    assert key_id(content) == key_id(bytes(content))
    assert key_id(content) != key_id(SecretKey.make().to_bytes())
    assert len(key_id(content)) == 32


def test_another_key_decrypts_to_nothing_that_anyone_would_take_for_it() -> None:
    assert np.median(np.abs(SecretKey.make().decrypt(ONES, 700))) > LARGEST


def test_one_without_a_key_cannot_decrypt() -> None:
    with pytest.raises(ValueError, match="doesn't hold a secret_key"):
        ADDER.read(ONES, 700).parts[0].decrypt()


@pytest.mark.parametrize("content", [b"", b"key", ADDER._context.serialize()])
def test_what_is_no_key_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="it is not a key"):
        SecretKey.from_bytes(content)


def test_a_key_of_other_parameters_is_refused() -> None:
    import tenseal

    other = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[60, 40, 60], n_threads=1
    )
    other.global_scale = 2.0**40
    with pytest.raises(MalformedMessageError):
        SecretKey.from_bytes(other.serialize(save_secret_key=True))
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
        ([b"\0" * (CHUNK_BYTES + 1)], 700, "too large"),
        ([ONES[0][:-9]], 700, "cannot be read|another length"),
    ],
)
def test_what_is_no_vector_of_this_length_is_refused(chunks: list[bytes], length: int, words: str) -> None:
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
def test_spoiled_bytes_are_refused_or_a_vector_and_nothing_else(
    changes: list[tuple[int, int]], at_the_beginning: bool, cut: int
) -> None:
    spoiled = bytearray(ONES[0])
    for place, value in changes:
        spoiled[place % 120 if at_the_beginning else place] = value
    content = bytes(spoiled[: len(spoiled) - cut])
    try:
        read = ADDER.read([content], 700)
    except MalformedMessageError:
        return
    added = ADDER.add([read, ADDER.read(ONES, 700)]).to_chunks()
    assert KEY.decrypt(added, 700).shape == (700,)


def test_a_process_that_has_tensorflow_already_can_encrypt() -> None:
    """Both bring a protobuf, and TensorFlow's symbols are seen by all that is loaded after it."""
    program = (
        "from federated_health.ml.backend import load_tensorflow; load_tensorflow()\n"
        "import numpy as np\n"
        "from federated_health.encryption.ckks import SecretKey\n"
        "key = SecretKey.from_bytes(SecretKey.make().to_bytes())\n"
        "assert abs(key.decrypt(key.encrypt(np.ones(3)), 3) - 1).max() < 1e-7\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_one_who_does_not_encrypt_does_not_import_tenseal() -> None:
    program = "import sys, server, client; assert not [name for name in sys.modules if 'tenseal' in name]"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
