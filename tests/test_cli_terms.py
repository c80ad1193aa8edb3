"""client.py asks before a hospital joins: what it shows, what it takes as consent, and what it sends without."""

import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federated_health.cli import client as cli_client
from federated_health.cli.terms import describe, describe_privacy
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import JoinError
from federated_health.messages.releases import RELEASES
from federated_health.messages.run_terms import RunTerms
from federated_health.processes import free_port
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role
from federated_health.settings import Settings
from federated_health.transport.stream_server import StreamTransport, serve_streams
from tests.support.script_calls import RunScript, ScriptResult, assert_one_line
from tests.support.scripts import PROJECT
from tests.support.streams import TermsServer, wait_for_hospitals
from tests.support.wire import read_lines

TERMS = RunTerms.of(Settings())


class Terminal:
    """Standard input of a person at a terminal who gives one answer, or ends the input or the program."""

    def __init__(self, answer: str | type[BaseException]) -> None:
        self.answer = answer

    def isatty(self) -> bool:
        return True

    def ask(self, _prompt: str) -> str:
        if isinstance(self.answer, str):
            return self.answer
        raise self.answer


@pytest.fixture
def sit_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | type[BaseException]], None]:
    def sit(answer: str | type[BaseException]) -> None:
        terminal = Terminal(answer)
        monkeypatch.setattr(sys, "stdin", terminal)
        monkeypatch.setattr("builtins.input", terminal.ask)

    return sit


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A client that leaves as soon as the server has accepted it, without loading Keras."""
    accepted: list[bool] = []

    def leave() -> None:
        accepted.append(True)
        raise JoinError("it leaves")

    monkeypatch.setattr(cli_client, "load_tensorflow", leave)
    return accepted


@contextmanager
def serving(tls: Mapping[str, Path], terms: RunTerms = TERMS) -> Iterator[tuple[StreamTransport, str, RunTerms]]:
    """A server over TLS, which no client joins without consent, and its terms."""
    identity, address = load_identity(tls["server"], Role.SERVER), f"127.0.0.1:{free_port()}"
    terms = replace(terms, authority=identity.authority_hash)
    lines: list[str] = []
    with serve_streams(address, HEART_DISEASE.agreement, lines.append, tls=identity, terms=terms.text) as grid:
        yield grid, address, terms


@pytest.fixture
def data(hospitals_folder: Path, in_folder: Path) -> Path:
    return Path(shutil.copy(hospitals_folder / "client_1.csv", in_folder / "mine.csv"))


def kinds_in_ledger() -> list[str]:
    return [line["kind"] for line in read_lines(Path("egress-a.jsonl"))] if Path("egress-a.jsonl").exists() else []


Run = Callable[..., ScriptResult]


@pytest.fixture
def run_client(run_script: RunScript, tls: dict[str, Path], data: Path) -> Run:
    def run(address: str, *flags: object) -> ScriptResult:
        return run_script("client.py", "--data", data, "--tls", tls["a"], "--server", address, "--wait", 5, *flags)

    return run


@pytest.mark.parametrize("answer", ["y", "yes", " Y "])
def test_yes_at_the_prompt_joins(
    answer: str, run_client: Run, tls: dict[str, Path], sit_at: Any, joined: list[bool]
) -> None:
    sit_at(answer)
    with serving(tls) as (_, address, terms):
        result = run_client(address)
    assert joined == [True], result.error
    assert kinds_in_ledger()[:2] == ["terms", "join"]
    assert read_lines(Path("egress-a.jsonl"))[0]["accepted"] == "asked"
    assert terms.hash in result.output
    assert "a certificate of this hospital's authority" in result.output


@pytest.mark.parametrize("answer", ["", "n", "no", "maybe", "yess", EOFError, KeyboardInterrupt])
def test_anything_else_at_the_prompt_does_not(
    answer: str | type[BaseException], run_client: Run, tls: dict[str, Path], sit_at: Any, joined: list[bool]
) -> None:
    sit_at(answer)
    with serving(tls) as (grid, address, _):
        result = run_client(address)
        assert grid.names() == {}
    assert result.code == 1
    assert_one_line(result, "not joined")
    assert (joined, kinds_in_ledger()) == ([], [])


@pytest.mark.usefixtures("joined")
def test_without_a_terminal_the_line_names_the_hash(run_client: Run, tls: dict[str, Path]) -> None:
    with serving(tls) as (grid, address, terms):
        result = run_client(address)
        assert grid.names() == {}
    assert result.code == 1
    assert_one_line(result, f"--accept {terms.hash}", "--policy", "--show-terms")
    assert kinds_in_ledger() == []


def test_the_right_hash_joins(run_client: Run, tls: dict[str, Path], joined: list[bool]) -> None:
    with serving(tls) as (_, address, terms):
        result = run_client(address, "--accept", terms.hash)
    assert joined == [True], result.error
    assert read_lines(Path("egress-a.jsonl"))[0]["accepted"] == "accept"


@pytest.mark.usefixtures("joined")
def test_another_hash_does_not_and_the_right_one_is_named(run_client: Run, tls: dict[str, Path], sit_at: Any) -> None:
    sit_at("y")
    with serving(tls) as (_, address, terms):
        result = run_client(address, "--accept", "0" * 32)
    assert_one_line(result, terms.hash, "0" * 32)
    assert kinds_in_ledger() == []


@pytest.mark.parametrize("text", ["0" * 31, "0" * 33, "xyz" * 4, "", TERMS.hash[:12]])
@pytest.mark.usefixtures("joined")
def test_what_is_no_hash_is_refused_on_one_machine_too(text: str, run_local: Run) -> None:
    with TermsServer(TERMS.text.encode()) as server:
        assert_one_line(run_local(server.address, "--accept", text), TERMS.hash)
    assert server.methods == ["Terms"]


def test_a_policy_that_allows_the_run_joins_without_a_question(
    run_client: Run, tls: dict[str, Path], joined: list[bool]
) -> None:
    Path("policy.toml").write_text("max_rounds = 30\n")
    with serving(tls) as (_, address, _terms):
        result = run_client(address, "--policy", "policy.toml")
    assert joined == [True], result.error
    assert read_lines(Path("egress-a.jsonl"))[0]["accepted"] == "policy"


@pytest.mark.parametrize("accept", [False, True])
@pytest.mark.usefixtures("joined")
def test_a_policy_that_refuses_names_its_line_and_nothing_overrules_it(
    accept: bool, run_client: Run, tls: dict[str, Path], sit_at: Any
) -> None:
    sit_at("y")
    Path("policy.toml").write_text("min_cell = 5\nmax_rounds = 29\n")
    with serving(tls) as (grid, address, terms):
        flags = ("--accept", terms.hash) if accept else ()
        result = run_client(address, "--policy", "policy.toml", *flags)
        assert grid.names() == {}
    assert result.code == 1
    assert_one_line(result, "policy.toml, line 2", "max_rounds: expected at most 29, got 30")
    assert kinds_in_ledger() == []


@pytest.mark.usefixtures("joined")
def test_each_refusal_of_a_policy_is_a_line(run_client: Run, tls: dict[str, Path]) -> None:
    Path("policy.toml").write_text('max_rounds = 29\ntasks = ["readmission"]\n')
    with serving(tls) as (_, address, _terms):
        result = run_client(address, "--policy", "policy.toml")
    both = result.output + result.error
    assert "line 1" in both
    assert "line 2" in both


@pytest.mark.usefixtures("joined")
def test_a_flag_that_asks_for_differential_privacy_refuses_other_runs(run_client: Run, tls: dict[str, Path]) -> None:
    with serving(tls) as (_, address, terms):
        result = run_client(address, "--dp-budget", 2, "--accept", terms.hash)
    assert_one_line(result, "--dp-budget", "differential privacy")


# One machine without TLS


@pytest.fixture
def run_local(run_script: RunScript, data: Path) -> Run:
    def run(address: str, *flags: object) -> ScriptResult:
        return run_script("client.py", "--data", data, "--name", "a", "--server", address, "--wait", 5, *flags)

    return run


def test_on_one_machine_the_terms_are_shown_in_at_most_three_lines_and_accepted(
    run_local: Run, joined: list[bool]
) -> None:
    with TermsServer(TERMS.text.encode()) as server:
        result = run_local(server.address)
    assert joined == [True], result.error
    shown = [line for line in dict.fromkeys(result.output.splitlines()) if "terms" in line or "accepted" in line]
    assert 0 < len(shown) <= 3
    assert TERMS.hash in "".join(shown)
    assert "--show-terms" in "".join(shown)
    assert kinds_in_ledger() == ["terms", "join"]


@pytest.mark.usefixtures("joined")
def test_on_one_machine_too_a_wrong_hash_or_a_policy_refuses(run_local: Run) -> None:
    Path("policy.toml").write_text("max_rounds = 29\n")
    with TermsServer(TERMS.text.encode()) as server:
        assert_one_line(run_local(server.address, "--accept", "0" * 12), TERMS.hash)
        assert_one_line(run_local(server.address, "--policy", "policy.toml"), "line 1")
    assert server.received == [("Terms", {})] * 2


@pytest.mark.parametrize("text", [b"", b"{}", TERMS.text.encode()[:-1], b"\xff", b"x" * 70_000])
def test_malformed_terms_are_one_line(text: bytes, run_local: Run) -> None:
    with TermsServer(text) as server:
        result = run_local(server.address)
    assert_one_line(result, "the run terms")
    assert server.methods == ["Terms"]
    assert kinds_in_ledger() == []


def test_terms_are_shown_without_joining(run_local: Run) -> None:
    with TermsServer(TERMS.text.encode()) as server:
        result = run_local(server.address, "--show-terms")
    assert result.succeeded, result.error
    assert server.received == [("Terms", {})]
    assert not Path("egress-a.jsonl").exists()
    for words in (TERMS.hash, "689 weights", "2,756 bytes", "fedavg", "30", "model.keras", *TERMS.releases):
        assert words in result.output


@pytest.mark.parametrize(("task", "size"), [("heart-disease", "2,756 bytes"), ("readmission", "2,436 bytes")])
def test_terms_are_shown_without_naming_a_hospital(run_script: RunScript, task: str, size: str) -> None:
    terms = RunTerms.of(Settings(task=task))
    with TermsServer(terms.text.encode()) as server:
        result = run_script("client.py", "--show-terms", "--server", server.address, "--wait", 5)
    assert result.succeeded, result.error
    assert terms.hash in result.output
    assert size in result.output


def test_terms_of_an_unknown_task_need_its_file(run_script: RunScript) -> None:
    with TermsServer(replace(TERMS, task="other").text.encode()) as server:
        result = run_script("client.py", "--show-terms", "--server", server.address, "--wait", 5)
    assert_one_line(result, "other", "--task-file")


def test_over_tls_terms_are_shown_without_a_ledger_too(run_client: Run, tls: dict[str, Path]) -> None:
    with serving(tls) as (grid, address, terms):
        result = run_client(address, "--show-terms")
        assert grid.names() == {}
    assert result.succeeded, result.error
    assert terms.hash in result.output
    assert kinds_in_ledger() == []


# Words


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(dp_epsilon=2.0), Settings(model="logistic", class_weight="balanced", batch_size=0)],
)
def test_the_words_name_every_release_and_no_other(settings: Settings) -> None:
    terms = RunTerms.of(settings)
    lines = describe(terms, HEART_DISEASE, "")
    named = {name for name in RELEASES if any(line.strip().startswith((f"{name}:", f"{name} (")) for line in lines)}
    assert named == set(terms.releases)


def test_the_sentence_about_privacy_states_the_factor_of_its_epsilon() -> None:
    words = describe_privacy(RunTerms.of(Settings(dp_epsilon=2.0)))
    assert "7.4" in words  # e^2 = 7.389
    assert "1e-05" in words
    assert "no differential privacy" in describe_privacy(TERMS)


def test_another_authority_or_task_is_named() -> None:
    foreign = replace(TERMS, authority="ab" * 32, schema="0" * 64)
    words = "\n".join(describe(foreign, HEART_DISEASE, "cd" * 32))
    assert "ab" * 32 in words
    assert "other columns" in words
    assert "ab" * 32 not in "\n".join(describe(foreign, HEART_DISEASE, "ab" * 32))


# A real terminal


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"\x04", 1), (b"\x03", 1), (b"y\n", 0)])
def test_a_person_at_a_terminal_is_asked(
    answer: bytes, code: int, tls: dict[str, Path], data: Path, in_folder: Path
) -> None:
    with serving(tls) as (grid, address, terms):
        ours, theirs = pty.openpty()
        command = [sys.executable, PROJECT / "client.py", "--data", data, "--tls", tls["a"], "--server", address]
        process = subprocess.Popen(
            [*map(str, command)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=in_folder,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(theirs)
        shown = b""
        while b"join? [y/N]" not in shown:
            shown += os.read(ours, 4096)
        assert grid.names() == {}
        assert terms.hash.encode() in shown
        os.write(ours, answer)
        if code == 0:
            wait_for_hospitals(grid)
            process.terminate()
        rest = read_all(ours)
        ended = process.wait(60)
    assert b"joined" in rest if code == 0 else ended == code, rest
    assert (b"Traceback" in rest) is False
    if code:
        assert rest.count(b"error: ") == 1
        assert kinds_in_ledger() == []


def take_terminal() -> None:
    """Make the pseudo-terminal the controlling one of the new session, so that Ctrl-C is a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_all(terminal: int) -> bytes:
    content = b""
    try:
        while part := os.read(terminal, 4096):
            content += part
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(terminal)
    return content
