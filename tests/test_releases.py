"""What leaves a hospital belongs to a release: every value of every message of real runs, in process and in ledgers."""

import re
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from federated_health.cli.terms import describe as describe_terms
from federated_health.data.manifest import find_hospital
from federated_health.errors import AnswerError
from federated_health.hospital import handlers
from federated_health.hospital.egress_page import write_egress_page
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.hospital.ledger import Ledger, describe
from federated_health.hospital.ledger_page import UNEXPLAINED, summarise
from federated_health.hospital.value_words import KINDS, describe_value
from federated_health.messages.accepted_terms import ASKED_PERSON
from federated_health.messages.content import EQUAL_WEIGHT
from federated_health.messages.release_records import VALUES, release_of
from federated_health.messages.releases import RELEASES, size_of
from federated_health.messages.run_terms import RunTerms
from federated_health.names import node_id_of
from federated_health.processes import free_port
from federated_health.security.authority import make_demo_identities
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.app_calls import call_app, hospital_context
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.stream_client import join_run
from federated_health.transport.stream_server import serve_streams
from federated_health.transport.unfit import report_unfit
from tests.support.secure_hospitals import NAMES, Hospitals, secure_run
from tests.support.targets import hospitals_of, task_of, write_dataset
from tests.support.wire import read_lines

LABELS = ("binary", "classes", "number", "count")
UNSENT = {"error", "name"}
"""Releases that are texts, or that a run without faults does not need."""

pytestmark = pytest.mark.usefixtures("server_identity")

Sizes = dict[str, int]
"""Release -> bytes in one message."""


class RecordingTransport(InProcessTransport):
    """Keeps the values of every reply: kind of message -> release -> bytes, of the largest reply."""

    def __init__(self, contexts: Mapping[str, Any]) -> None:
        super().__init__(handlers.answer, contexts)
        self.sent: dict[str, Sizes] = {}

    def send(self, messages: Mapping[str, Message]) -> "dict[str, Future[Message]]":
        futures = super().send(messages)
        for key, message in messages.items():
            sizes = sizes_of(message.metadata.message_type, describe(futures[key].result()))
            known = self.sent.setdefault(message.metadata.message_type, {})
            known |= {release: max(size, known.get(release, 0)) for release, size in sizes.items()}
        return futures


def sizes_of(kind: str, items: list[dict[str, Any]]) -> Sizes:
    """Bytes by release; fails for a value that no release explains, or that has no words."""
    sizes: Sizes = {}
    for item in items:
        release = release_of(kind, item["record"], item["name"])
        assert release in RELEASES, (kind, item["record"], item["name"])
        assert describe_value(item["record"], item["name"]), (kind, item["record"], item["name"])
        sizes[release] = sizes.get(release, 0) + item["bytes"]
    return sizes


def settings_of(kind: str, **changes: Any) -> Settings:
    return Settings(hospitals=3, rounds=2, wait=0.2, declared_task=task_of(kind), **changes)


def run_of(settings: Settings, kind: str) -> dict[str, Sizes]:
    """What leaves the largest of three hospitals, by kind of message."""
    contexts = {hospital.name: InMemoryHospital(hospital) for hospital in hospitals_of(kind)}
    transport = RecordingTransport(contexts)
    PlainRun(transport, settings).run()
    return transport.sent


@pytest.mark.slow
@pytest.mark.parametrize("kind", LABELS)
def test_every_value_of_a_plain_run_belongs_to_a_release_of_its_terms(kind: str) -> None:
    weighted = {"class_weight": "balanced"} if kind in ("binary", "classes") else {}
    settings = settings_of(kind, **weighted)

    sent = run_of(settings, kind)

    releases = {release for sizes in sent.values() for release in sizes}
    assert releases <= set(RunTerms.of(settings).releases)
    task, terms = settings.task_declaration, RunTerms.of(settings)
    described = {release for release in terms.releases if size_of(release, task, terms)}
    assert releases - UNSENT == described
    for sizes in sent.values():
        for release in set(sizes) - UNSENT:
            size, limit = sizes[release], size_of(release, task, terms)
            is_less = "scores" in release or release in ("row-counts", "appraisal")  # by rows, message, what is defined
            assert size < limit if is_less and size != limit else size == limit, (release, size, limit)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LABELS)
def test_every_value_of_a_private_run_belongs_to_a_release_of_its_terms(kind: str) -> None:
    settings = settings_of(kind, dp_epsilon=4.0, dp_delta=1e-3)

    sent, terms = run_of(settings, kind), RunTerms.of(settings)

    releases = {release for sizes in sent.values() for release in sizes}
    assert releases - {"name"} == {"weights", "final-evaluation", "row-counts"}
    assert releases <= set(terms.releases)
    size = sent["evaluate.final"]["final-evaluation"]
    (line,) = (line for line in describe_terms(terms, task_of(kind), "") if "final-evaluation" in line)
    assert line.strip().startswith(f"final-evaluation ({size:,} bytes)" if size else "final-evaluation:")


@pytest.mark.slow
def test_every_value_of_a_run_with_secure_aggregation_belongs_to_a_release_of_its_terms(
    hospitals_folder: Path, tmp_path: Path
) -> None:
    paths = {name: find_hospital(hospitals_folder, number)[0] for number, name in enumerate(NAMES, start=1)}
    _, identities = make_demo_identities(tmp_path / "tls", NAMES)
    hospitals = Hospitals(paths, identities)

    run, _ = secure_run(hospitals, rounds=2)
    for _ in run.rounds():
        pass
    run.evaluate()

    replies = hospitals.replies  # to which the server has added a metric since then
    kinds = {kind for _, kind, _ in replies}
    assert {"query.masked", "query.offer", "train.masked", "evaluate.masked_final"} <= kinds <= set(KINDS)
    sent = [(kind, [item for item in describe(reply) if item["name"] != EQUAL_WEIGHT]) for _, kind, reply in replies]
    releases = {name for kind, items in sent for name in sizes_of(kind, items)}
    assert releases == {"name", "row-counts", "masked"}
    assert releases <= set(RunTerms.of(run.settings).releases)


def run_over_streams(folder: Path) -> list[Path]:
    """The ledgers of a run over streams, and that of a hospital that may not join."""
    settings = Settings(hospitals=3, rounds=2, wait=20.0, task_file=str(folder / "task.toml"))
    address, agreement = f"127.0.0.1:{free_port()}", settings.task_declaration.agreement
    ledgers = {name: Ledger.beside(folder / f"{name}.csv", name) for name in ("north", "south", "east", "west")}

    def join(number: int, name: str) -> None:
        data = str(folder / f"client_{number}.csv")
        join_run(
            handlers.answer,
            hospital_context(name, {"data": data, "task-file": str(folder / "task.toml")}),
            name=name,
            address=address,
            agreement=agreement,
            wait=20.0,
            announce=lambda _: None,
            prepare=lambda: None,
            ledger=ledgers[name],
            consent=lambda text, _: ledgers[name].record_terms(text, ASKED_PERSON),
        )

    joining = enumerate(("north", "south", "east"), start=1)
    threads = [threading.Thread(target=join, args=part, daemon=True) for part in joining]
    terms = RunTerms.of(settings).text
    with serve_streams(address, agreement, lambda _: None, terms=terms) as grid:
        for thread in threads:
            thread.start()
        PlainRun(grid, settings).run()
        report_unfit("west", address, agreement, "it is too small", ledgers["west"])
    for thread in threads:
        thread.join(20.0)
    return [ledger.path for ledger in ledgers.values()]


@pytest.mark.slow
def test_every_value_in_the_ledger_of_a_stream_belongs_to_a_release(tmp_path: Path) -> None:
    ledgers = run_over_streams(write_dataset(tmp_path / "data", "binary"))

    lines = [line for path in ledgers for line in read_lines(path)]
    assert {line["kind"] for line in lines} == {"join", "unfit", "terms", *handlers.PLAIN_HANDLERS}
    for line in lines:
        sizes = sizes_of(line["kind"], line["records"])
        assert ("error" in sizes) == (line["kind"] == "unfit")
        assert not sizes or line["kind"] in KINDS


@pytest.mark.slow
def test_the_page_of_a_real_ledger_holds_no_value_of_a_patient(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", "binary")
    ledger, *_ = run_over_streams(folder)
    page = tmp_path / "page.html"

    write_egress_page(page, summarise(ledger))

    text, patients = page.read_text(), pd.read_csv(folder / "client_1.csv", dtype=str)
    cells = {cell for column in ("age", "weight") for cell in patients[column] if "." in cell}
    assert len(cells) > 50
    assert not [cell for cell in cells if re.search(rf"(?<![\d.]){re.escape(cell)}(?![\d.])", text)]
    assert UNEXPLAINED not in text
    assert "by a person who was asked" in text


def test_an_error_is_explained() -> None:
    def fail(*_: object) -> Message:
        raise AnswerError(ValueError("x"))

    message = Message(RecordDict({"config": ConfigRecord()}), node_id_of("a"), "train")

    assert set(sizes_of("train", describe(call_app(fail, message, hospital_context("a", {}))))) == {"error"}


@pytest.mark.parametrize(
    ("kind", "record", "name"),
    [
        ("train", "metrics", "ages"),
        ("train", "rows", "patient"),
        ("train", "disclosure", "rows"),
        ("evaluate", "metrics", "roc_auc"),
        ("evaluate.final", "arrays", "kernel"),
        ("query.statistics", "metrics", "positives"),
        ("unfit", "metadata", "path"),
    ],
)
def test_a_value_where_no_run_sends_it_is_not_explained(kind: str, record: str, name: str) -> None:
    assert release_of(kind, record, name) is None


def test_each_release_has_values_and_words() -> None:
    assert set(VALUES) == set(RELEASES)
    assert all(release.words.endswith(".") for release in RELEASES.values())


def test_sizes_follow_from_the_network() -> None:
    task = task_of("binary")
    terms, logistic = (RunTerms.of(Settings(declared_task=task, model=model)) for model in ("mlp", "logistic"))
    # 2 columns, each with a flag of missing values: 4 features; 4 * 16 + 16 + 16 + 1 weights
    assert size_of("weights", task, terms) == 4 * (task.feature_width * 16 + 16 + 16 + 1)
    assert size_of("weights", task, logistic) == 4 * (task.feature_width + 1)
    assert size_of("column-sums", task, terms) == 2 * 3 * 8
    assert size_of("error", task, terms) == 0
