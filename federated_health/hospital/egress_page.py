"""The data protection officer's page: what left a hospital, in plain words, from its egress ledger."""

from collections.abc import Iterator
from pathlib import Path

from federated_health.files import hash_file
from federated_health.hospital.ledger_page import (
    NEVER,
    UNEXPLAINED,
    Summary,
    explain,
)
from federated_health.hospital.value_words import KINDS, TERMS, describe_value
from federated_health.names import printable
from federated_health.report.cells import Cell
from federated_health.report.formatting import MAX_ROWS, NOT_DEFINED, number_of
from federated_health.report.page import Block, Caution, Page, Section, Table, write_report

RISK = (
    "The CSV stays at the hospital, but what leaves is computed from its patients and reveals something about them, "
    "the more the fewer they are. From the model after each round, somebody who already knows a patient's record can "
    "often tell whether the patient was among the training patients; counts and sums over few patients can describe "
    "single ones. Differential privacy limits this against everybody. Secure aggregation hides the hospital's own "
    "contribution from the server, but not what the average reveals. The file docs/privacy.md of Federated Health has "
    "a table of what attacks found, also for a hospital with 30 patients."
)

_CHECK = (
    "The ledger holds names, shapes, sizes and SHA-256 hashes of what was sent, no values. A line is on disk before "
    "its message leaves, and states what was handed to the network, whether or not it arrived. Whoever recorded the "
    "bytes on the network can compare them with the hashes. The network also sees addresses, times, sizes, and the "
    "hospital's certificate."
)


def write_egress_page(path: Path, summary: Summary) -> None:
    """Write the page of a ledger as HTML, as `write_report` does, without tables: the ledger is a file of values."""
    file_hash = hash_file(summary.path)
    write_report(path, lambda: page_of_ledger(summary, file_hash), with_tables=False)


def page_of_ledger(summary: Summary, file_hash: str) -> Page:
    """Who sent what to whom and when; what was suppressed, refused and accepted; and what remains a risk."""
    sent = number_of(summary.total.messages, "message")
    return Page(
        title=f"What left {summary.name}",
        lead=f"{sent} with {number_of(summary.total.bytes, 'byte')} {summary.total.period}. No patient's record is in "
        "them. This page says in plain words what is, for a data protection officer.",
        sections=[
            _overview(summary),
            releases_section(summary),
            *suppressed_section(summary),
            *accepted_section(summary),
            _refused(summary),
            Section("What never leaves", [list(NEVER)]),
            Section("What remains a risk", [RISK]),
            *_values(summary),
            Section(
                "How to check this page", [_CHECK, {"ledger": str(summary.path), "SHA-256": file_hash}], folded=True
            ),
        ],
    )


def sections_of_run(summary: Summary) -> list[Section]:
    """What left a hospital in one run, for the hospital's report."""
    return [
        releases_section(summary, "What left this hospital"),
        *suppressed_section(summary),
        *accepted_section(summary),
    ]


def _overview(summary: Summary) -> Section:
    kinds = summary.kinds
    facts = {
        "who": summary.name,
        "to whom": "the server of the federation, and nobody else",
        "when": summary.total.period or NOT_DEFINED,
        "connections": number_of(kinds["join"].messages if "join" in kinds else 0, "time") + " connected to a server",
        "how much": f"{number_of(summary.total.messages, 'message')}, {number_of(summary.total.bytes, 'byte')}",
        "suppressed": ", ".join(summary.suppressed) or "nothing",
        "errors": summary.errors or "none",
    }
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            KINDS.get(kind, printable(kind)),
            total.messages,
            total.round_range,
            total.bytes,
            *(f"{time:%Y-%m-%d %H:%M}" for time in total.times or ()),
        )
        for kind, total in kinds.items()
    )
    columns = ("what the hospital did", "messages", "rounds", "bytes", "first, UTC", "last, UTC")
    return Section("Who, to whom and when", [facts, Table(caption="Messages by kind", columns=columns, rows=rows)])


def releases_section(summary: Summary, title: str = "What left, in plain words") -> Section:
    """What left by release: how often, how much, and what it is."""
    sent = {name: total for name, total in summary.ordered_releases().items() if total.has_left}
    rows = tuple((name, total.messages, total.round_range, total.bytes) for name, total in sent.items())
    columns = ("what", "messages", "rounds", "bytes")
    blocks: list[Block] = [
        {name: explain(name) for name in sent},
        Table(caption="Values sent", columns=columns, rows=rows, note="One message can hold several of these."),
    ]
    if UNEXPLAINED in sent:
        blocks.append(Caution("Some values are not explained."))
    return Section(title, blocks)


def suppressed_section(summary: Summary) -> Iterator[Section]:
    """What the hospital suppressed, and why; nothing if it suppressed nothing."""
    if summary.suppressed:
        facts = {name: "; ".join(summary.releases[name].list_suppressed()) for name in summary.suppressed}
        yield Section("What was suppressed, and why", [facts])


def accepted_section(summary: Summary) -> Iterator[Section]:
    """Run terms that the hospital accepted, and when; nothing if the ledger has none."""
    blocks: list[Block] = []
    for digest, accepted in list(summary.accepted.items())[:MAX_ROWS]:
        times = ", ".join(f"{time:%Y-%m-%d %H:%M:%S} UTC" for time in accepted.times)
        order = [*(key for key in TERMS if key in accepted.terms), *(key for key in accepted.terms if key not in TERMS)]
        terms = {TERMS.get(key, key.replace("_", " ")): _describe_term(accepted.terms[key]) for key in order}
        blocks.append({"hash": printable(digest), "accepted": f"{times}; {printable(accepted.how)}", **terms})
    if blocks:
        yield Section("Terms that the hospital accepted", blocks)


def _describe_term(value: object) -> str:
    """A value of run terms as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return printable(", ".join(f"{name} {part}" for name, part in value.items() if part not in ("", 0.0)), 1000)
    return printable(str(value), 1000) or NOT_DEFINED


def _refused(summary: Summary) -> Section:
    title = "Messages without an answer"
    if not summary.errors:
        return Section(title, ["There are none: every message of the server was answered."])
    explained = (
        "In place of an answer the hospital sent the reason, without values of patients: it refused the message, or "
        "could not compute the answer. Its log has the reasons."
    )
    return Section(
        title, [explained, {kind: number_of(number, "time") for kind, number in summary.errors_by_kind.items()}]
    )


def _values(summary: Summary) -> Iterator[Section]:
    blocks: list[Block] = []
    for name, total in summary.ordered_releases().items():
        rows = tuple(
            (describe_value(*key) or UNEXPLAINED, printable(" ".join(key)), row["times"], row["bytes"])
            for key, row in total.values.items()
        )
        if rows:
            columns = ("what it is", "name in the ledger", "times", "bytes")
            blocks.append(Table(caption=f"Values of {name}", columns=columns, rows=rows))
    if blocks:
        yield Section("Every value that left", blocks, folded=True)
