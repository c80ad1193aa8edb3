"""What differs between two sides is named, in words that both may show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federated_health.data.tasks import HEART_DISEASE, READMISSION, find_difference, read_agreement, write_agreement

agreement = st.dictionaries(st.text(), st.text())


def test_equal_terms_differ_in_nothing() -> None:
    assert find_difference({"b": "2", "a": "1"}, {"a": "1", "b": "2"}) is None


def test_the_server_s_first_term_that_differs_is_named() -> None:
    hospital, server = {"a": "1", "b": "2", "c": "3"}, {"c": "3", "b": "20", "a": "10"}
    assert find_difference(hospital, server) == "the hospital's b is 2; the server's is 20"


def test_a_term_that_one_side_lacks_is_a_difference() -> None:
    assert find_difference({}, {"a": "1"}) == "the hospital's a is not declared; the server's is 1"
    assert find_difference({"a": "1"}, {}) == "the hospital's a is 1; the server's is not declared"


def test_another_task_is_named_before_its_columns() -> None:
    difference = find_difference(HEART_DISEASE.agreement, READMISSION.agreement)
    assert difference == "the hospital's task is heart-disease; the server's is readmission"


@given(agreement, agreement)
def test_a_difference_is_found_exactly_where_there_is_one(one: dict[str, str], other: dict[str, str]) -> None:
    assert (find_difference(one, other) is None) == (one == other)


@given(agreement)
def test_terms_come_back_as_they_were_written_in_ascii(one: dict[str, str]) -> None:
    assert read_agreement(write_agreement(one)) == one
    assert write_agreement(one).isascii()


@pytest.mark.parametrize("text", ["", "null", "[]", '{"a": 1}', '{"a": null}', "[" * 60_000, '{"a": "' + "x" * 70_000])
def test_what_is_not_names_and_words_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # JSON's own error is one, and its words are not ours
        read_agreement(text)
