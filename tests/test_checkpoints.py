"""Checkpoints: a saved one is loaded intact; a damaged one is noticed, and the one before it is loaded."""

import errno
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from federated_health.data.task_files import HEART_DISEASE, READMISSION
from federated_health.errors import CheckpointError
from federated_health.server.checkpoint import (
    CheckpointFolder,
    Position,
    write_checkpoint,
)
from federated_health.server.checkpoint_reading import DamagedCheckpointError, read_checkpoint
from federated_health.server.resuming import check_settings
from federated_health.settings import Settings
from tests.support.checkpoints import checkpoint_of, parts_of

POSITION = Position(3, 100, "ab" * 32)


def saved_in(path: Path, *numbers: int) -> CheckpointFolder:
    folder = CheckpointFolder(path)
    for number in numbers:
        folder.save(checkpoint_of(number))
    return folder


def names_in(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def loads(path: Path, number: int) -> bool:
    """Whether exactly the checkpoint of that round is loaded."""
    return parts_of(CheckpointFolder(path).load()) == parts_of(checkpoint_of(number))


def file_of(path: Path, number: int) -> Path:
    return path / f"round-{number:06}.checkpoint"


def assert_skipped(path: Path, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log names this file alone, with the reason."""
    (message,) = caplog.messages
    assert message.startswith(f"{path} is skipped")
    assert reason in message


# Saving and loading


def test_a_saved_checkpoint_is_loaded(tmp_path: Path) -> None:
    saved_in(tmp_path / "run" / "checkpoints", 3)
    assert loads(tmp_path / "run" / "checkpoints", 3)


def test_the_newest_two_and_the_history_are_kept(tmp_path: Path) -> None:
    saved_in(tmp_path, *range(1, 12))
    assert names_in(tmp_path) == ["history.jsonl", "round-000010.checkpoint", "round-000011.checkpoint"]
    assert loads(tmp_path, 11)


@pytest.mark.parametrize("number", [999_999, 2**31 - 1])
def test_rounds_of_seven_digits_are_newer_than_those_of_six(tmp_path: Path, number: int) -> None:
    folder = saved_in(tmp_path, 1)
    for later in (number, number + 1):
        folder.save(replace(checkpoint_of(1), round_number=later))
    assert CheckpointFolder(tmp_path).load().round_number == number + 1


def test_a_run_of_no_round_yet_can_be_saved(tmp_path: Path) -> None:
    empty = checkpoint_of(0, registrations=(), strategy_state={}, problems={}, weights={})
    CheckpointFolder(tmp_path).save(empty)
    assert parts_of(CheckpointFolder(tmp_path).load()) == parts_of(empty)


def test_saving_continues_after_loading(tmp_path: Path) -> None:
    saved_in(tmp_path, 1, 2)
    for number in range(3, 6):
        folder = CheckpointFolder(tmp_path)
        assert folder.load().round_number == number - 1
        folder.save(checkpoint_of(number))
        assert names_in(tmp_path)[1:] == [file_of(tmp_path, newest).name for newest in (number - 1, number)]
    assert loads(tmp_path, 5)


def test_a_round_can_be_saved_twice(tmp_path: Path) -> None:
    folder = saved_in(tmp_path, 1, 2, 2)
    again = checkpoint_of(2, problems={"waited": 1})
    folder.save(again)
    assert parts_of(CheckpointFolder(tmp_path).load()) == parts_of(again)
    assert names_in(tmp_path)[1:] == [file_of(tmp_path, number).name for number in (1, 2)]


def test_a_checkpoint_does_not_grow_with_the_rounds_and_the_history_is_only_appended_to(tmp_path: Path) -> None:
    folder = saved_in(tmp_path, 10)
    size, history = file_of(tmp_path, 10).stat().st_size, (tmp_path / "history.jsonl").stat().st_size
    marked = bytearray((tmp_path / "history.jsonl").read_bytes())
    marked[5] ^= 1
    with (tmp_path / "history.jsonl").open("r+b") as file:
        file.write(marked)

    folder.save(checkpoint_of(1000))

    assert file_of(tmp_path, 1000).stat().st_size < size + 40  # some numbers have more digits
    after = (tmp_path / "history.jsonl").read_bytes()
    assert after[:history] == marked
    assert len(after.splitlines()) == 1000


NAMES = st.text("abc/._ ", max_size=8)
ANY_ARRAY = arrays.arrays(
    dtype=st.sampled_from([np.dtype(kind) for kind in ("<f4", "<f8", ">f4", "<i8", "?")]),
    shape=arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(
    weights=st.dictionaries(NAMES, arrays.arrays(np.float32, arrays.array_shapes(min_side=0)), max_size=4),
    state=st.dictionaries(NAMES, ANY_ARRAY, max_size=4),
    problems=st.dictionaries(st.text(max_size=5), JSON, max_size=4),
    scale=st.lists(FINITE, max_size=4).map(tuple),
)
def test_any_content_is_read_as_written(weights: Any, state: Any, problems: Any, scale: tuple[float, ...]) -> None:
    normalisation = replace(checkpoint_of(1).normalisation, mean=scale, variance=scale)
    written = checkpoint_of(
        2, weights=weights, strategy_state=state, problems=problems, normalisation=normalisation, history=()
    )

    read, position = read_checkpoint(b"".join(write_checkpoint(written, POSITION)))

    assert parts_of(read) == parts_of(written)
    assert position == POSITION


def test_the_files_have_the_documented_format(tmp_path: Path) -> None:
    saved_in(tmp_path, 1, 2)
    first, rest = file_of(tmp_path, 2).read_bytes().split(b"\n", 1)
    digest = hashlib.sha256(b"3\n" + rest).hexdigest()
    assert first.decode() == f"federated-health-checkpoint 3 {digest}"
    line, blocks = rest.split(b"\n", 1)
    header = json.loads(line)
    stream, whole = io.BytesIO(blocks), checkpoint_of(2)
    arrays_by_name = {name: np.load(stream, allow_pickle=False) for name in header["arrays"]}
    assert stream.read() == b""
    assert list(arrays_by_name) == ["weights/a/kernel", "weights/a", "strategy/v_t/a/kernel", "strategy/v_t/a", "sums"]
    np.testing.assert_array_equal(arrays_by_name["weights/a/kernel"], whole.weights["a/kernel"], strict=True)
    assert arrays_by_name["sums"][1, 2].tolist() == whole.registrations[1].sums.squares.tolist()
    history = (tmp_path / "history.jsonl").read_bytes()
    assert header["history"] == [2, len(history), hashlib.sha256(history).hexdigest()]
    assert json.loads(history.splitlines()[1]) == [
        2,
        {"cleveland": [10, 0.5, ["binary", 2, 0, 0, 2, 2 / 3, 0.1]], "va-long-beach": [0, None, None]},
        [10, 0.5, ["binary", 2, 0, 0, 2, 2 / 3, 0.1]],
    ]


def test_neither_objects_nor_nan_are_written(tmp_path: Path) -> None:
    folder = saved_in(tmp_path, 1)
    without_loss = replace(checkpoint_of(2).history[1].federation, train_loss=float("nan"))
    history = (checkpoint_of(1).history[0], replace(checkpoint_of(2).history[1], federation=without_loss))
    for wrong in ({"history": history}, {"weights": {"a": np.array([{}])}}, {"problems": {"a": float("nan")}}):
        with pytest.raises(ValueError, match=r"numbers|JSON"):
            folder.save(checkpoint_of(2, **wrong))
    assert loads(tmp_path, 1)


@pytest.mark.parametrize("numbers", [range(1, 3), range(0), [1, 2, 4], [1, 2, 5, 4]])
def test_a_history_that_does_not_continue_the_saved_one_is_a_value_error(numbers: list[int], tmp_path: Path) -> None:
    folder = saved_in(tmp_path, 3)
    other = tuple(checkpoint_of(number).history[-1] for number in numbers)
    with pytest.raises(ValueError, match="does not continue round 3"):
        folder.save(checkpoint_of(4, history=other))
    assert loads(tmp_path, 3)


# Damage


def with_bytes(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-1], "cut off or altered"),
        (lambda data: data[: len(data) // 2], "cut off or altered"),
        (lambda data: data + b"\n", "cut off or altered"),
        (lambda data: data[:20], "not a checkpoint"),
        (lambda _: b"", "not a checkpoint"),
        (lambda data: bytes(len(data)), "not a checkpoint"),
        (lambda _: b"\x89PNG\r\n\x1a\n" + bytes(500), "not a checkpoint"),
        (lambda data: data.replace(b"checkpoint 3 ", b"checkpoint 4 "), "cut off or altered"),
        (lambda data: data.replace(b'"round_number": 3', b'"round_number": 4'), "cut off or altered"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_a_reason_and_the_one_before_is_loaded(
    change: Callable[[bytes], bytes], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved_in(tmp_path, 1, 2, 3)
    with_bytes(file_of(tmp_path, 3), change)

    folder = CheckpointFolder(tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded = folder.load()

    assert parts_of(loaded) == parts_of(checkpoint_of(2))
    assert_skipped(file_of(tmp_path, 3), why, caplog)
    another = checkpoint_of(3, problems={"again": True})
    folder.save(another)
    assert parts_of(CheckpointFolder(tmp_path).load()) == parts_of(another)
    assert names_in(tmp_path) == ["history.jsonl", "round-000002.checkpoint", "round-000003.checkpoint"]


def test_a_folder_in_place_of_a_checkpoint_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved_in(tmp_path, 1)
    file_of(tmp_path, 2).mkdir()
    assert loads(tmp_path, 1)
    assert_skipped(file_of(tmp_path, 2), "Is a directory", caplog)


def test_a_checkpoint_under_another_round_s_name_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved_in(tmp_path, 1, 2)
    file_of(tmp_path, 1).rename(file_of(tmp_path, 3))
    assert loads(tmp_path, 2)
    assert_skipped(file_of(tmp_path, 3), "file name", caplog)


@pytest.mark.parametrize(
    "name",
    [
        "round-7.checkpoint",
        "round-000007.checkpoint~",
        ".checkpoint.partial",
        "notes.txt",
        "round-\u0660\u0660\u0660\u0660\u0660\u0667.checkpoint",
    ],
)
def test_other_files_are_neither_loaded_nor_removed(name: str, tmp_path: Path) -> None:
    folder = saved_in(tmp_path, 1, 2)
    (tmp_path / name).write_bytes(b"other")
    assert loads(tmp_path, 2)
    folder.save(checkpoint_of(3))
    assert (tmp_path / name).exists() is (name != ".checkpoint.partial")


def test_a_folder_without_an_intact_checkpoint_is_an_error(tmp_path: Path) -> None:
    saved_in(tmp_path, 1, 2)
    for number in (1, 2):
        with_bytes(file_of(tmp_path, number), lambda data: data[:-1])
    with pytest.raises(CheckpointError, match=f"{re.escape(str(tmp_path))}: .*no intact checkpoint"):
        CheckpointFolder(tmp_path).load()


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_without_a_checkpoint_is_an_error_and_is_not_made(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        CheckpointFolder(tmp_path / name).load()
    assert names_in(tmp_path) == []


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder of two small checkpoints, of rounds 2 and 3."""
    folder = CheckpointFolder(tmp_path / "small")
    for number in (1, 2, 3):
        whole = checkpoint_of(number, settings={}, agreement={}, registrations=(), strategy_state={}, problems={})
        folder.save(replace(whole, weights={"a": np.array([number], np.float32)}))
    return tmp_path / "small"


def test_a_change_of_any_byte_of_a_checkpoint_is_noticed(small: Path) -> None:
    content = file_of(small, 3).read_bytes()
    assert read_checkpoint(content)[0].weights["a"].tolist() == [3.0]
    for place in range(len(content)):
        for flip in (1, 0x80, 0xFF):
            with pytest.raises(DamagedCheckpointError):
                read_checkpoint(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])


def test_a_checkpoint_of_any_shorter_length_is_noticed(small: Path) -> None:
    content = file_of(small, 3).read_bytes()
    for length in range(len(content)):
        with pytest.raises(DamagedCheckpointError):
            read_checkpoint(content[:length])


def test_a_change_of_any_byte_of_the_history_is_noticed(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    file = small / "history.jsonl"
    whole = file.read_bytes()
    shared = sum(len(line) for line in whole.splitlines(keepends=True)[:2])
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if place < shared:
            with pytest.raises(CheckpointError, match="no intact checkpoint"):
                CheckpointFolder(small).load()
        else:
            assert CheckpointFolder(small).load().round_number == 2


@pytest.mark.parametrize("tail", [b"", b"[", b"[3,{},[1,0.5,null]]\n", b"\xff" * 5000])
def test_bytes_after_the_history_of_a_checkpoint_are_removed(tail: bytes, tmp_path: Path) -> None:
    saved_in(tmp_path, 1, 2)
    with_bytes(tmp_path / "history.jsonl", lambda data: data + tail)

    folder = CheckpointFolder(tmp_path)
    assert parts_of(folder.load()) == parts_of(checkpoint_of(2))
    folder.save(checkpoint_of(3))

    assert len((tmp_path / "history.jsonl").read_bytes().splitlines()) == 3
    assert loads(tmp_path, 3)


def test_a_history_with_a_cut_off_last_line_costs_one_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved_in(tmp_path, 1, 2, 3)
    with_bytes(tmp_path / "history.jsonl", lambda data: data[:-7])
    assert loads(tmp_path, 2)
    assert_skipped(file_of(tmp_path, 3), "its history is cut off or altered", caplog)


def test_a_missing_history_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = saved_in(tmp_path, 1)
    (tmp_path / "history.jsonl").unlink()
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        CheckpointFolder(tmp_path).load()
    assert_skipped(file_of(tmp_path, 1), "history.jsonl cannot be read (No such file or directory)", caplog)
    with pytest.raises(CheckpointError, match=r"round 2 .*\(No such file or directory\)$"):
        folder.save(checkpoint_of(2))


def test_nothing_is_appended_to_a_history_that_was_shortened(tmp_path: Path) -> None:
    folder = saved_in(tmp_path, 1, 2)
    with_bytes(tmp_path / "history.jsonl", lambda data: data[:-1])
    with pytest.raises(CheckpointError, match=r"round 3 .*history.jsonl was shortened"):
        folder.save(checkpoint_of(3))


def test_a_damaged_checkpoint_of_a_later_round_is_removed_by_the_next_save(tmp_path: Path) -> None:
    saved_in(tmp_path, 1, 2)
    file_of(tmp_path, 9).write_bytes(b"torn")
    folder = CheckpointFolder(tmp_path)
    folder.load()
    folder.save(checkpoint_of(3))
    assert names_in(tmp_path)[1:] == [file_of(tmp_path, number).name for number in (2, 3)]


# Versions, tasks and settings


def signed(body: bytes, version: bytes = b"3") -> bytes:
    digest = hashlib.sha256(version + b"\n" + body).hexdigest().encode()
    return b"federated-health-checkpoint " + version + b" " + digest + b"\n" + body


def test_another_version_s_checkpoint_is_refused_and_not_skipped(tmp_path: Path) -> None:
    saved_in(tmp_path, 1, 2)
    file_of(tmp_path, 2).write_bytes(signed(b"something new", b"4"))
    with pytest.raises(CheckpointError, match=f"{file_of(tmp_path, 2).name}: .*expected version 3, got 4"):
        CheckpointFolder(tmp_path).load()


@pytest.mark.parametrize(
    "body",
    [b"", b"{}\n", b"[]\n", b"1", b"null\n", b"\xff\n", b'{"arrays": ["sums"]}\n', b'{"arrays": [1]}\nx', b"[" * 9999],
)
def test_an_unreadable_body_with_the_right_hash_is_damaged(body: bytes) -> None:
    with pytest.raises(DamagedCheckpointError, match=r"^it cannot be read \([A-Za-z]+\)$"):
        read_checkpoint(signed(body))


def test_pickled_objects_are_never_read() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{}]), allow_pickle=True)
    lines = b"".join(write_checkpoint(checkpoint_of(1, registrations=()), POSITION)).split(b"\n", 2)
    header = {**json.loads(lines[1]), "arrays": ["sums", "weights/a"]}
    sums = io.BytesIO()
    np.save(sums, np.zeros(0))
    number = io.BytesIO()
    np.save(number, np.ones(1))
    body = json.dumps(header).encode() + b"\n" + sums.getvalue()

    assert read_checkpoint(signed(body + number.getvalue()))[0].weights["a"].tolist() == [1.0]
    with pytest.raises(DamagedCheckpointError, match=r"^it cannot be read \(ValueError\)$"):
        read_checkpoint(signed(body + stream.getvalue()))


def test_bytes_after_the_last_array_are_damage() -> None:
    body = b"".join(write_checkpoint(checkpoint_of(1), POSITION)).split(b"\n", 1)[1]
    assert read_checkpoint(signed(body))[1] == POSITION
    with pytest.raises(DamagedCheckpointError):
        read_checkpoint(signed(body + b"\n"))


@given(data=st.binary(max_size=200), version=st.sampled_from([b"3", b"4", b"", b"\xff"]), whole=st.booleans())
def test_arbitrary_bytes_raise_only_checkpoint_errors(data: bytes, version: bytes, whole: bool) -> None:
    with pytest.raises((DamagedCheckpointError, CheckpointError)):
        read_checkpoint(signed(data, version) if whole else data)


def test_the_same_task_is_accepted() -> None:
    for task in (HEART_DISEASE, READMISSION):
        checkpoint_of(1, agreement=dict(task.agreement)).check_agreement(task.agreement)


@pytest.mark.parametrize(
    ("agreement", "pattern"),
    [
        (READMISSION.agreement, "task is readmission.*heart-disease"),
        ({**HEART_DISEASE.agreement, "column age": "age in days"}, "column age .*in days"),
        ({name: text for name, text in HEART_DISEASE.agreement.items() if name != "column age"}, "column age .*not"),
    ],
)
def test_another_task_or_agreement_is_refused(agreement: dict[str, str], pattern: str) -> None:
    with pytest.raises(CheckpointError, match=f"checkpoint's {pattern}"):
        checkpoint_of(1, agreement=agreement).check_agreement(HEART_DISEASE.agreement)


DEFAULTS = Settings().to_config()


def test_settings_that_agree_or_may_change_are_accepted() -> None:
    check_settings(DEFAULTS, DEFAULTS)
    check_settings(DEFAULTS, {})
    check_settings(DEFAULTS, {"rounds": 30, "seed": 42})
    check_settings(
        DEFAULTS,
        {
            **DEFAULTS,
            "min-hospitals": 2,
            "address": "127.0.0.1:1",
            "tls": "there",
            "wait": 1.0,
            "round-timeout": 1.0,
            "out": "elsewhere",
            "resume": "runs/first",
            "force": True,
            "insecure": True,
            "verbose": True,
            "data": "x",
        },
    )


def test_every_setting_that_differs_is_named_with_both_values() -> None:
    pattern = 'model: expected "mlp", got "logistic"; appraisal: expected true, got false; seed: expected 42, got 7$'
    with pytest.raises(CheckpointError, match=pattern):
        check_settings(DEFAULTS, {**DEFAULTS, "seed": 7, "model": "logistic", "appraisal": False, "wait": 1.0})


def test_every_setting_on_which_results_depend_is_compared() -> None:
    free = {
        "min-hospitals",
        "rounds",
        "task-file",
        "network",
        "address",
        "tls",
        "wait",
        "round-timeout",
        "out",
        "resume",
        "force",
        "insecure",
        "verbose",
    }
    for name in set(DEFAULTS) - free - {"data"}:
        with pytest.raises(CheckpointError, match=f": {name}: expected .*, got "):
            check_settings(DEFAULTS, {name: "other"})


def test_a_setting_that_the_checkpoint_does_not_have_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"sparsity: expected none, got 0\.5$"):
        check_settings(DEFAULTS, {"sparsity": 0.5})


# The end of a run, and a new run


def test_removing_checkpoints_leaves_other_files(tmp_path: Path) -> None:
    folder = saved_in(tmp_path / "a", 1, 2, 3)
    (tmp_path / "a" / ".checkpoint.partial").touch()
    folder.remove()
    assert names_in(tmp_path) == []
    folder.remove()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        folder.load()
    saved_in(tmp_path / "b", 1)
    (tmp_path / "b" / "notes.txt").touch()
    CheckpointFolder(tmp_path / "b").remove()
    assert names_in(tmp_path / "b") == ["notes.txt"]


def test_a_folder_can_be_saved_in_after_its_removal(tmp_path: Path) -> None:
    folder = saved_in(tmp_path / "a", 5)
    folder.remove()
    folder.save(checkpoint_of(1))
    assert loads(tmp_path / "a", 1)
    assert names_in(tmp_path / "a") == ["history.jsonl", "round-000001.checkpoint"]


def test_an_interrupted_removal_leaves_the_newest_checkpoint_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    unlink = Path.unlink
    for calls in range(4):
        path = tmp_path / str(calls)
        folder, left = saved_in(path, 1, 2), iter(range(calls))

        def cut_off(self: Path, missing_ok: bool = False, left: Any = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            unlink(self, missing_ok)

        monkeypatch.setattr(Path, "unlink", cut_off)
        with pytest.raises(KeyboardInterrupt):
            folder.remove()
        monkeypatch.undo()
        if calls < 3:
            assert loads(path, 2)
        else:
            assert names_in(path) == ["history.jsonl"]


def test_a_new_run_removes_earlier_checkpoints(tmp_path: Path) -> None:
    saved_in(tmp_path, 7, 8)
    saved_in(tmp_path, 1)
    assert names_in(tmp_path) == ["history.jsonl", "round-000001.checkpoint"]
    assert loads(tmp_path, 1)


# Failures to write


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullAtClose(io.FileIO):
    """A file on a full disk, which the system reports when the file is closed."""

    def close(self) -> None:
        was_open = not self.closed
        super().close()
        if was_open:
            raise full()


class FullAtWrite(io.FileIO):
    """A file on a disk that has room for half of its content."""

    is_full = False

    def write(self, data: Any, /) -> int:
        if self.is_full:
            raise full()
        self.is_full = True
        return super().write(bytes(data)[: len(data) // 2])


def fail_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Make the call of that number, from 1, find the disk full."""
    real, calls = getattr(owner, name), iter(range(1, 100))

    def fake(*arguments: Any, **keywords: Any) -> Any:
        if next(calls) == call:
            raise full()
        return real(*arguments, **keywords)

    monkeypatch.setattr(owner, name, fake)


def fail_to_open(monkeypatch: pytest.MonkeyPatch, which: str, how: str) -> None:
    real = Path.open

    def fake(self: Path, mode: str = "r", *rest: Any, **keywords: Any) -> Any:
        if self.name != which or mode == "rb":
            return real(self, mode, *rest, **keywords)
        if how == "open":
            raise full()
        raw = {"close": FullAtClose, "write": FullAtWrite}[how](self, mode.replace("b", ""))
        return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

    monkeypatch.setattr(Path, "open", fake)


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "fsync of the history": lambda patch: fail_at(patch, os, "fsync", 1),
    "fsync of the file": lambda patch: fail_at(patch, os, "fsync", 2),
    "fsync of the folder": lambda patch: fail_at(patch, os, "fsync", 3),
    "rename": lambda patch: fail_at(patch, Path, "replace", 1),
    **{
        f"{how} of {which}": lambda patch, how=how, which=which: fail_to_open(patch, which, how)  # type: ignore[misc]
        for which in ("history.jsonl", ".checkpoint.partial")
        for how in ("open", "write", "close")
    },
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_full_disk_is_an_error_and_leaves_the_last_checkpoint_intact(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved_in(tmp_path, 1, 2)
    with monkeypatch.context() as patch:
        FAULTS[fault](patch)
        with pytest.raises(CheckpointError, match=r"round 3 .*\(No space left on device\)"):
            folder.save(checkpoint_of(3))

    assert ".checkpoint.partial" not in names_in(tmp_path)
    # Where only the folder could not be put on disk, the new checkpoint is intact, too.
    assert loads(tmp_path, 3 if fault == "fsync of the folder" else 2)
    folder.save(checkpoint_of(3))
    folder.save(checkpoint_of(4))
    assert loads(tmp_path, 4)
    assert names_in(tmp_path) == ["history.jsonl", "round-000003.checkpoint", "round-000004.checkpoint"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_full_disk_at_the_first_checkpoint_is_an_error(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    with monkeypatch.context() as patch:
        patch.setattr("federated_health.server.checkpoint.sync_folder", lambda _: os.fsync(0))
        patch.setattr(os, "fsync", lambda _: None)
        FAULTS[fault](patch)
        with pytest.raises(CheckpointError, match="round 1 cannot be written"):
            folder.save(checkpoint_of(1))
    folder.save(checkpoint_of(1))
    assert loads(tmp_path / "checkpoints", 1)


def test_an_old_checkpoint_is_removed_later_if_not_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved_in(tmp_path, 1, 2)
    unlink, refusals = Path.unlink, []

    def refuse_old(self: Path, missing_ok: bool = False) -> None:
        if self == file_of(tmp_path, 1):
            refusals.append(self)
            raise full()
        unlink(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse_old)
        folder.save(checkpoint_of(3))
    assert refusals == [file_of(tmp_path, 1)]
    assert loads(tmp_path, 3)
    folder.save(checkpoint_of(4))
    assert names_in(tmp_path)[1:] == [file_of(tmp_path, number).name for number in (3, 4)]


def test_ctrl_c_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, real = saved_in(tmp_path, 1), os.fsync
    calls = iter(range(1, 9))

    def interrupted(file: int) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            folder.save(checkpoint_of(2))
    assert names_in(tmp_path) == ["history.jsonl", "round-000001.checkpoint"]
    assert loads(tmp_path, 1)


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("mine")
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for act in (lambda: folder.save(checkpoint_of(1)), folder.load, folder.remove):
        with pytest.raises(CheckpointError, match=r"^\S+: .*\((Not a directory|File exists)\)$"):
            act()
    assert (tmp_path / "checkpoints").read_text() == "mine"


def test_a_file_in_place_of_the_run_s_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(CheckpointError, match=r"\(Not a directory\)$"):
        CheckpointFolder(tmp_path / "run" / "checkpoints").save(checkpoint_of(1))


def test_a_folder_that_was_moved_away_is_an_error_and_is_not_made_again(tmp_path: Path) -> None:
    folder = saved_in(tmp_path / "run", 1)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"round 2 cannot be written \(No such file or directory\)$"):
        folder.save(checkpoint_of(2))
    assert names_in(tmp_path) == ["elsewhere"]
    assert loads(tmp_path / "elsewhere", 1)


def test_a_checkpoint_is_on_disk_before_the_old_one_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut may stop this order at any point."""
    folder, events, real = saved_in(tmp_path, 1, 2), [], os.fsync
    replace_file, unlink = Path.replace, Path.unlink

    def fsync(file: int) -> None:
        events.append(f"fsync {Path(f'/proc/self/fd/{file}').readlink().name}")
        real(file)

    def rename(self: Path, target: Path) -> Path:
        events.append(f"rename {self.name} {target.name}")
        return replace_file(self, target)

    def remove(self: Path, missing_ok: bool = False) -> None:
        if self.exists():  # removing a file that is not there changes nothing
            events.append(f"unlink {self.name}")
        unlink(self, missing_ok)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    monkeypatch.setattr(Path, "unlink", remove)
    folder.save(checkpoint_of(3))
    assert events == [
        "fsync history.jsonl",
        "fsync .checkpoint.partial",
        "rename .checkpoint.partial round-000003.checkpoint",
        f"fsync {tmp_path.name}",
        "unlink round-000001.checkpoint",
    ]


def test_a_new_folder_is_synchronised_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, real = [], os.fsync

    def fsync(file: int) -> None:
        synced.append(Path(f"/proc/self/fd/{file}").readlink().name)
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    saved_in(tmp_path / "run" / "checkpoints", 1)
    assert synced == ["run", "history.jsonl", ".checkpoint.partial", "checkpoints"]
