"""The hospital's own log has the text of exceptions, but never what may be a patient's value."""

import pytest

from federated_health.transport.error_text import MAX_CHARACTERS, describe_error, redact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("indices[3] = 45 is not in [0, 10)", "indices[#] = # is not in [#, #)"),
        ("could not convert string to float: 'Smith 63'", "could not convert string to float: '#'"),
        ("could not convert string to float: 'Smith'", "could not convert string to float: '#'"),
        ('could not convert string to float: "O\'Hara 63"', "could not convert string to float: '#'"),
        ("'Smith'", "'#'"),
        ("patient named 'smith' was 63.5 years", "patient named '#' was # years"),
        ("unclosed: 'Smith 63", "unclosed: '#'"),
        ("in \u201cSmith\u201d of \u201863\u2019", "in '#' of '#'"),
        ("row [63, 1, 145] is invalid", "row [#, #, #] is invalid"),
        ("row [63. 1. 145.]", "row [# # #]"),
        ("(63, 1)", "(#, #)"),
        ("array([6.3e+01, -1.45E2])", "array([#, #])"),
        ("born 1957-03-02, seen 02/03/2020 at 10:15", "born #, seen # at #"),
        ("hex 0x3f and id MRN123456 and P4711", "hex # and id MRN# and P#"),
        ("label=1, age=63", "label=#, age=#"),
        ("dtype=float32, value=63.0", "dtype=float32, value=#"),
    ],
)
def test_what_may_be_a_value_is_replaced(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "expected shape (None, 28), got (None, 41)",
        "Incompatible shapes: [32,16] vs. [28,16]",
        "operands could not be broadcast together with shapes (8,28) (41,)",
        "received input with shape (32, 41)",
        "shape=(32, 41), dtype=float32",
        "No module named 'scipy.special'",
        "'NoneType' object has no attribute 'foo_1'",
        "layer 'dense_1' is missing",
        "Detected at node 'sequential_1/dense_3/MatMul'",
        "the host doesn't answer, it can't",
    ],
)
def test_shapes_and_names_of_the_program_stay(text: str) -> None:
    assert redact(text) == text


def test_numbers_beside_a_shape_are_replaced() -> None:
    text = "axis -1 of shape to have value 28, but received input with shape (32, 41) at row 63"
    assert redact(text) == "axis # of shape to have value #, but received input with shape (32, 41) at row #"


def test_shapes_of_a_matrix_product_stay() -> None:
    text = "Matrix size-incompatible: In[0]: [32,41], In[1]: [28,16]"
    assert redact(text) == "Matrix size-incompatible: In[#]: [32,41], In[#]: [28,16]"


def test_a_list_that_only_follows_the_word_shape_somewhere_is_no_shape() -> None:
    assert redact("wrong shape of the row with values [63, 145]") == "wrong shape of the row with values [#, #]"


def test_the_description_is_one_line_with_the_type_and_both_ends_of_a_long_text() -> None:
    error = ValueError("begin\n\n  " + "x " * 500 + "\n\tthe reason")
    described = describe_error(error)
    assert described.startswith("ValueError: begin x x")
    assert described.endswith("the reason")
    assert "\n" not in described
    assert len(described) < MAX_CHARACTERS + 40
    assert describe_error(KeyError()) == "KeyError"
