"""The data protection officer's page of an egress ledger."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from federated_health.hospital.egress_page import write_egress_page
from federated_health.hospital.ledger_page import summarise
from federated_health.messages.releases import RELEASES
from tests.support.script_calls import RunScript, assert_one_line
from tests.test_ledger_page import KERNEL, LINES, item, line

TERMS = {
    "task": "heart-disease",
    "network": {"model": "mlp", "hidden": "16", "activation": "relu", "dropout": 0.0},
    "rounds": 30,
    "secure_aggregation": False,
}
ACCEPTED = line("terms", 0, None, 0, terms=TERMS, sha256="ab" * 32, accepted="asked")
STATEMENT = item("disclosure", "roc-auc", 29, dtype="text")
WITHHELD = line("evaluate.final", 8, None, 90, STATEMENT, disclosure={"roc-auc": "too few patients of one class"})


class Structure(HTMLParser):
    """The sections of a page by title, and the addresses that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.addresses: list[str] = []
        self._is_title = False
        self._section = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        self._is_title = tag == "h2"
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._is_title and data.strip():
            self._section, self._is_title = data.strip(), False
        elif self._section:
            self.sections[self._section] = self.sections.get(self._section, "") + data


def page_of(tmp_path: Path, *lines: str) -> tuple[str, dict[str, str]]:
    """The page's HTML, and the text of each section."""
    ledger, page = tmp_path / "egress-a.jsonl", tmp_path / "page.html"
    ledger.write_text("".join(lines))
    write_egress_page(page, summarise(ledger))
    text = page.read_text()
    return text, Structure(text).sections


def test_a_ledger_without_terms_and_disclosure_has_a_page(tmp_path: Path) -> None:
    _, sections = page_of(tmp_path, *LINES)

    assert re.search(r"6 messages, 7,780 bytes", sections["Who, to whom and when"])
    assert "2026-11-22 03:15:01" in sections["Who, to whom and when"]
    assert RELEASES["weights"].words in sections["What left, in plain words"]
    assert RELEASES["scores"].words not in sections["What left, in plain words"]
    assert "train" in sections["Messages without an answer"]
    assert "not explained" in sections["Every value that left"]  # metrics cells
    assert "docs/privacy.md" in sections["What remains a risk"]
    assert not {"What was suppressed, and why", "Terms that the hospital accepted"} & set(sections)


def test_accepted_terms_are_shown_with_hash_time_and_fields(tmp_path: Path) -> None:
    _, sections = page_of(tmp_path, ACCEPTED, *LINES)

    terms = sections["Terms that the hospital accepted"]
    for words in ("ab" * 16, "2026-11-22 03:15:00 UTC", "a person who was asked", "heart-disease", "30", "model mlp"):
        assert words in terms
    assert "6 messages" in sections["Who, to whom and when"]  # nothing left with the terms


def test_a_suppressed_release_is_shown_with_its_reason_and_is_not_among_what_left(tmp_path: Path) -> None:
    _, sections = page_of(tmp_path, WITHHELD, WITHHELD)

    suppressed = sections["What was suppressed, and why"]
    assert "roc-auc" in suppressed
    assert "2 times: too few patients of one class" in suppressed
    assert "roc-auc" not in sections["What left, in plain words"]
    assert "statement that roc-auc was suppressed" in sections["Every value that left"]


@pytest.mark.parametrize("disclosure", ["roc-auc", ["roc-auc"], {"roc-auc": None}, {"unknown": "x"}, 5])
def test_an_invalid_disclosure_hides_no_message(disclosure: object, tmp_path: Path) -> None:
    _, sections = page_of(tmp_path, line("train", 1, 1, 3000, KERNEL, disclosure=disclosure))

    assert "1 message, 3,000 bytes" in sections["Who, to whom and when"]


def test_terms_alone_have_a_page(tmp_path: Path) -> None:
    _, sections = page_of(tmp_path, ACCEPTED)

    assert "0 messages" in sections["Who, to whom and when"]


def test_names_in_a_ledger_are_escaped(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>"
    crafted = line(script, 1, 1, 1, item("arrays", script, 1), item("metrics", script, 1), hospital=script)
    terms = line("terms", 0, None, 0, terms={script: script}, sha256=script, accepted=script)
    disclosed = line("train", 1, 1, 1, disclosure={"scores": script})

    text, sections = page_of(tmp_path, terms, crafted, disclosed)

    assert "<script" not in text
    assert script in sections["Terms that the hospital accepted"]
    assert script in sections["Every value that left"]


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    text, _ = page_of(tmp_path, ACCEPTED, WITHHELD, *LINES)

    assert all(address.startswith("#") or address == "data:," for address in Structure(text).addresses)
    assert not re.search(r"https?://|url\(|@import", text)


def test_the_page_is_written_where_the_flag_says(run_script: RunScript) -> None:
    Path("egress-a.jsonl").write_text("".join([ACCEPTED, WITHHELD, *LINES]))

    result = run_script("client.py", "--show-egress", "egress-a.jsonl", "--page", "what-left.html")

    assert result.succeeded
    assert "a person who was asked" in result.output
    assert "too few patients of one class" in result.output
    assert "What left a" in Path("what-left.html").read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--show-egress", "egress-a.jsonl", "--page", "egress-a.jsonl"), "--page: expected a file that ends with"),
        (("--page", "page.html", "--hospital", 1), "--page: expected --show-egress"),
        (("--show-egress", "egress-a.jsonl", "--page", "none/page.html"), "none"),
    ],
)
def test_a_page_that_cannot_be_written_is_one_line(
    flags: tuple[object, ...], words: str, run_script: RunScript
) -> None:
    Path("egress-a.jsonl").write_text("".join(LINES))

    result = run_script("client.py", *flags)

    assert_one_line(result, words)
    assert Path("egress-a.jsonl").read_text() == "".join(LINES)
