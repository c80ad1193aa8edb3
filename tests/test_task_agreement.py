"""The difference between two sides' agreements on a task."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federated_health.data.task_files import HEART_DISEASE, READMISSION
from federated_health.data.tasks import find_difference, read_agreement, write_agreement

agreement = st.dictionaries(st.text(), st.text())


def test_equal_agreements_have_no_difference() -> None:
    assert find_difference({"b": "2", "a": "1"}, {"a": "1", "b": "2"}) is None


@pytest.mark.parametrize(
    ("hospital", "server", "pattern"),
    [
        ({"a": "1", "b": "2", "c": "3"}, {"c": "3", "b": "20", "a": "10"}, r"hospital's b is 2\b.*server's is 20"),
        ({}, {"a": "1"}, "hospital's a is not declared.*server's is 1"),
        ({"a": "1"}, {}, "hospital's a is 1.*server's is not declared"),
        (HEART_DISEASE.agreement, READMISSION.agreement, "hospital's task is heart-disease.*server's is readmission"),
    ],
)
def test_the_first_difference_in_the_server_s_order_is_named(
    hospital: dict[str, str], server: dict[str, str], pattern: str
) -> None:
    difference = find_difference(hospital, server)
    assert difference is not None
    assert re.search(pattern, difference)


@given(agreement, agreement)
def test_a_difference_is_found_exactly_where_there_is_one(hospital: dict[str, str], server: dict[str, str]) -> None:
    assert (find_difference(hospital, server) is None) == (hospital == server)


@given(agreement)
def test_an_agreement_is_read_as_written_and_written_in_ascii(terms: dict[str, str]) -> None:
    assert read_agreement(write_agreement(terms)) == terms
    assert write_agreement(terms).isascii()


@pytest.mark.parametrize("text", ["", "null", "[]", '{"a": 1}', '{"a": null}', "[" * 60_000, '{"a": "' + "x" * 70_000])
def test_text_that_is_not_an_agreement_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # JSON's own error is one
        read_agreement(text)
