"""Policy files: what each key may be, and the line that an error names."""

import math
import os
import re
import sys
from pathlib import Path

import pytest

from federated_health.cli.policy import describe
from federated_health.data.toml_reading import MAX_BYTES
from federated_health.errors import DataError
from federated_health.hospital.policy import Policy, policy_of
from federated_health.hospital.policy_file import OFF, RULES, read_policy
from tests.conftest import PROJECT

HASH = "0123456789abcdef" * 4

EVERY_KEY = f"""\
# Everything
min_cell = 10
servers = ["{HASH}"]
tasks = ["heart-disease", "stroke"]
strategies = ["fedavg", "fedprox"]
networks = ["logistic", "{HASH}"]
min_hospitals = 4
max_rounds = 50
max_local_epochs = 2
min_batch_size = 16
max_parameters_per_row = 0.33
above_max_parameters = "refuse"
max_epsilon = 2
max_delta = 1e-6
require_secure_aggregation = true
releases_off = ["appraisal", "roc-auc"]
"""


def read(folder: Path, text: str) -> Policy:
    path = folder / "policy.toml"
    path.write_bytes(text.encode())
    return read_policy(path)


def test_every_key_reaches_the_policy(tmp_path: Path) -> None:
    policy = read(tmp_path, EVERY_KEY)

    assert {key: getattr(policy, key) for key in RULES} == {
        "min_cell": 10,
        "servers": (HASH,),
        "tasks": ("heart-disease", "stroke"),
        "strategies": ("fedavg", "fedprox"),
        "networks": ("logistic", HASH),
        "min_hospitals": 4,
        "max_rounds": 50,
        "max_local_epochs": 2,
        "min_batch_size": 16,
        "max_parameters_per_row": 0.33,
        "above_max_parameters": "refuse",
        "max_epsilon": 2,
        "max_delta": 1e-6,
        "require_secure_aggregation": True,
        "releases_off": ("appraisal", "roc-auc"),
    }
    assert policy.allows("weights")
    assert not policy.allows("roc-auc")
    assert not policy.public


def test_an_empty_file_is_the_default_policy(tmp_path: Path) -> None:
    policy = read(tmp_path, "")
    assert {key: getattr(policy, key) for key in RULES} == {key: getattr(Policy(), key) for key in RULES}
    assert policy.min_cell == 5


@pytest.mark.parametrize(
    "written",
    [" ".join(HASH[i : i + 4] for i in range(0, 64, 4)), ":".join(HASH[i : i + 2] for i in range(0, 64, 2)).upper()],
)
def test_a_fingerprint_may_have_spaces_or_colons(written: str, tmp_path: Path) -> None:
    assert read(tmp_path, f'servers = ["{written}"]\n').servers == (HASH,)


@pytest.mark.parametrize(
    "line",
    [
        "min_cell = 0",
        "min_cell = 5.0",
        "min_cell = true",
        "min_cell = 1001",
        'servers = "' + HASH + '"',
        f'servers = ["{HASH[1:]}"]',
        "servers = [5]",
        'tasks = ["Heart disease"]',
        'tasks = [["heart-disease"]]',
        'strategies = ["fedsgd"]',
        'strategies = "fedavg"',
        'networks = ["cnn"]',
        "min_hospitals = 0",
        "min_hospitals = -1",
        'max_rounds = "50"',
        "max_rounds = 0",
        "max_rounds = 100001",
        "max_local_epochs = 1.5",
        "max_local_epochs = 0",
        "min_batch_size = 0",
        "max_parameters_per_row = 0",
        "max_parameters_per_row = nan",
        "max_parameters_per_row = inf",
        "max_epsilon = 0",
        "max_epsilon = 1001",
        "max_epsilon = false",
        'require_secure_aggregation = "yes"',
        "require_secure_aggregation = 1",
        'releases_off = ["weights"]',
        'releases_off = "appraisal"',
        'releases_off = ["?"]',
        "[tasks]",
        'tasks = "?"',
    ],
)
def test_a_wrong_value_is_one_line_with_its_place(line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        read(tmp_path, f"# What we allow\n\n{line}\n")
    text = str(raised.value)
    key = line.strip("[]").split(" ")[0].split(".")[0]
    assert text.startswith(f"{tmp_path / 'policy.toml'}, line 3: {key}: expected ")
    assert ", got " in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("line", "needed"),
    [('above_max_parameters = "refuse"', "max_parameters_per_row"), ("max_delta = 1e-6", "max_epsilon")],
)
def test_a_key_that_has_no_effect_alone_names_the_other(line: str, needed: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"line 1: .*expected {needed}"):
        read(tmp_path, line)


@pytest.mark.parametrize("delta", ["0", "1", "1.5"])
def test_a_delta_is_between_0_and_1(delta: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2: max_delta: expected a number above 0, below 1, got"):
        read(tmp_path, f"max_epsilon = 1\nmax_delta = {delta}\n")


@pytest.mark.parametrize("key", ["public", "max_round", "file", "text", "flags"])
def test_an_unknown_key_is_named_with_the_known_ones(key: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"line 2: {key}: unknown key; known are: min_cell, servers, "):
        read(tmp_path, f"min_cell = 5\n{key} = 1\n")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_line_is_right_after_comments_long_arrays_and_other_line_ends(newline: str, tmp_path: Path) -> None:
    text = newline.join(
        [
            "\ufeff# max_rounds = 0 is a comment \u2028 on one line",
            "tasks = [  # [max_rounds]",
            "  # max_rounds = 0",
            '  "stroke",',
            "",
            '  "max_rounds",'.replace("_", "-"),
            "]",
            "max_rounds = 0",
        ]
    )
    with pytest.raises(DataError, match=r"policy\.toml, line 8: max_rounds: "):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"min_cell = \n", "line 1: is not valid TOML"),
        (b"min_cell = 5\nmin_cell = 6\n", "is not valid TOML"),
        (b"\xff", "is not UTF-8 text"),
        (b"tasks = " + b"[" * 5000, "nested too deeply"),
        (b"min_cell = " + b"9" * 5000, "too many digits"),
        (b"#" * (MAX_BYTES + 1), "expected at most"),
    ],
)
def test_a_file_that_is_no_policy_is_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as raised:
        read_policy(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.toml").write_text("min_cell = 7\n")
    (tmp_path / "policy.toml").symlink_to(tmp_path / "real.toml")
    assert read_policy(tmp_path / "policy.toml").min_cell == 7


@pytest.mark.skipif(sys.platform == "win32", reason="has no such files")
def test_what_would_never_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    for name in ("pipe", "endless", "loop", "huge", "missing", "."):
        with pytest.raises(DataError, match="cannot be read"):
            read_policy(tmp_path / name)


def test_a_node_without_a_file_and_flags_has_the_defaults() -> None:
    assert policy_of({}) == policy_of({"policy": "", "data": "a.csv"}) == Policy()


def test_flags_require_what_the_file_does_not(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("max_epsilon = 2\nmin_cell = 6\n")
    node = {"policy": str(tmp_path / "policy.toml"), "dp-budget": 1.5, "secure-aggregation-only": True}

    policy = policy_of(node)
    assert (policy.max_epsilon, policy.min_cell, policy.require_secure_aggregation) == (1.5, 6, True)
    assert policy_of(node) is policy

    larger = policy_of({**node, "dp-budget": 4.0})
    assert larger.max_epsilon == 2
    assert "max_epsilon" not in larger.flags

    assert policy_of({"dp-budget": 4.0}).max_epsilon == 4
    assert policy_of({"secure-aggregation-only": True}).max_epsilon == math.inf


def test_the_page_about_policies_lists_every_key_and_default() -> None:
    page = (PROJECT / "docs" / "policy.md").read_text()
    rows = [[cell.strip('| `"') for cell in line.split(" | ")] for line in page.splitlines() if line.startswith("| `")]
    defaults = {key: describe(key, getattr(Policy(), key)) for key in RULES}
    assert {row[0]: row[-1] for row in rows} == defaults
    (names,) = re.findall(r"`releases_off` may name: ([^.]*)\.", page)
    assert tuple(re.findall("`([a-z-]+)`", names)) == OFF
