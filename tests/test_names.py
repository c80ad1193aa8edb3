"""Hospital names, and names made from a hospital's title."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federated_health.names import hospital_name_from, is_hospital_name, printable

TITLES = st.one_of(st.text(), st.text("aZ9 -_.éßﬁ٣²ÆŁİ\n", max_size=90))


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("VA Long Beach", "va-long-beach"),
        ("Hôpital Saint-Étienne (Lyon)", "hopital-saint-etienne-lyon"),
        ("  St. Mary's  ", "st-mary-s"),
        ("Klinikum 1", "klinikum-1"),
        ("a--b__c", "a-b-c"),
        ("\ufb01rst", "first"),  # a ligature
        ("", ""),
        ("---", ""),
        ("病院", ""),
        ("Federation", ""),
        ("the federation", "the-federation"),
        ("x" * 70, "x" * 63),
        ("x" * 62 + " yz", "x" * 62),  # no hyphen at the end
        ("x" * 61 + " yz", "x" * 61 + "-y"),
    ],
)
def test_names_of_titles(title: str, name: str) -> None:
    assert hospital_name_from(title) == name


@given(TITLES)
def test_a_name_is_valid_or_empty_and_stays_when_converted_again(title: str) -> None:
    name = hospital_name_from(title)

    assert name == "" or is_hospital_name(name)
    assert hospital_name_from(name) == name
    assert not name.endswith("-")


@given(st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True).filter(is_hospital_name))
def test_a_valid_name_stays(name: str) -> None:
    assert hospital_name_from(name) == name


@given(TITLES)
def test_surrounding_punctuation_does_not_matter(title: str) -> None:
    assert hospital_name_from(f" ({title}) ") == hospital_name_from(title)


@given(st.text(max_size=600), st.integers(1, 500))
def test_printable_text_is_one_line_without_control_characters(text: str, longest: int) -> None:
    shown = printable(text, longest)

    assert len(shown) == min(len(text), longest)
    assert shown.isprintable()
    assert all(new in (old, "?") for new, old in zip(shown, text, strict=False))
