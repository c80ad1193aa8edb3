"""Run terms: what the settings of a run give, and what a hospital reads of a server's text."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from federated_health.messages.accepted_terms import read_terms
from federated_health.messages.records import MalformedMessageError
from federated_health.messages.run_terms import MAX_TERMS_CHARACTERS, RunTerms, hash_of
from federated_health.ml.networks import Network, number_of_weights
from federated_health.settings import Settings

SETTINGS = [
    Settings(),
    Settings(model="logistic", appraisal=False, class_weight="balanced"),
    Settings(task="readmission", hidden="32,16", dropout=0.25, batch_size=0, optimizer="adam"),
    Settings(strategy="fedprox", strategy_args="proximal-mu=0.5"),
    Settings(dp_epsilon=2.0),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_hospital_reads_what_the_server_states(settings: Settings) -> None:
    terms = RunTerms.of(settings, "ab" * 32)
    assert read_terms(terms.text) == terms
    assert terms.parameters == number_of_weights(settings.task_declaration, Network.from_config(terms.network))
    assert terms.hash == hash_of(terms.text)
    assert (terms.epsilon, terms.delta) == ((2.0, 1e-5) if settings.dp_epsilon else (0.0, 0.0))


def test_equal_settings_give_equal_terms_and_any_other_setting_another_hash() -> None:
    changes: list[dict[str, Any]] = [
        {"rounds": 31},
        {"local_epochs": 6},
        {"seed": 43},
        {"hospitals": 5},
        {"min_hospitals": 4},
        {"appraisal": False},
        {"dp_epsilon": 2.0},
        {"l2": 0.0},
    ]
    hashes = {RunTerms.of(Settings(**change)).hash for change in [{}, *changes]} | {RunTerms.of(Settings(), "0").hash}
    assert len(hashes) == len(changes) + 2
    assert RunTerms.of(Settings(wait=1.0, out="elsewhere")).hash == RunTerms.of(Settings()).hash


@pytest.mark.parametrize("settings", [*SETTINGS, Settings(secure_aggregation=True)])
def test_the_terms_name_every_file_that_a_server_keeps(settings: Settings) -> None:
    retention = RunTerms.of(settings).retention
    for name in ("settings.json", "rounds.csv", "metrics.json", "model.keras", "report.html", "checkpoints"):
        assert name in retention


def test_nothing_but_weights_and_noisy_figures_leaves_under_differential_privacy() -> None:
    assert set(RunTerms.of(Settings(dp_epsilon=2.0)).releases) == {
        "name",
        "row-counts",
        "weights",
        "final-evaluation",
        "error",
    }


TERMS = RunTerms.of(Settings())


def written(**values: object) -> str:
    """The terms with other values, as a server that does not check them writes them."""
    return json.dumps({**json.loads(TERMS.text), **values}, sort_keys=True)


BAD: dict[str, list[object]] = {
    "task": ["", "x" * 201, 1, "two\nlines", "\x1b[2J"],
    "network": [{}, [], None, "mlp", {**TERMS.network, "model": "cnn"}, {**TERMS.network, "more": 1}],
    "parameters": [0, 2**27 + 1, 689.0, "689"],
    "rounds": [0, 100_001, True, 30.0, None],
    "local_epochs": [0, 10_001],
    "batch_size": [-1, 1_000_001],
    "learning_rate": [0.0, 1, float("nan"), float("inf")],
    "optimizer": ["rocket"],
    "class_weight": ["", "heavy"],
    "strategy_args": ["proximal-mu", "proximal-mu=much", "a=b=c"],
    "hospitals": [0, 2**31],
    "authority": ["a" * 65],
    "epsilon": [-1.0, 101.0, 2],
    "delta": [1.5],
    "secure_aggregation": [0, "no"],
    "appraisal": [1],
    "retention": ["x" * 501, "a\nb", "a" + 60 * " " + "hash: 0", "a" + 60 * "\N{HANGUL FILLER}" + "hash: 0"],
    "more": [1],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_value_of_a_wrong_type_or_out_of_bounds_is_refused(name: str, value: object) -> None:
    with pytest.raises(MalformedMessageError) as raised:
        read_terms(written(**{name: value}))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("name", [field.name for field in fields(RunTerms)])
def test_a_missing_value_is_refused(name: str) -> None:
    values = json.loads(TERMS.text)
    del values[name]
    with pytest.raises(MalformedMessageError):
        read_terms(json.dumps(values, sort_keys=True))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "\ufffd",
        "[" * 50_000,
        TERMS.text + " ",
        TERMS.text.replace('": ', '":'),
        TERMS.text.replace('"rounds": 30', '"rounds": 30, "rounds": 40'),
        "1" * 5_000,
        written(retention="x" * (MAX_TERMS_CHARACTERS + 1)),
    ],
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessageError):
        read_terms(text)


def test_terms_of_one_run_are_one_text_whoever_makes_them() -> None:
    assert replace(TERMS).text == RunTerms.of(Settings.from_config(Settings().to_config())).text
