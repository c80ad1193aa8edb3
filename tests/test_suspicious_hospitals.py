"""Hospitals that declare many rows, share rows or send harmful updates: what is noticed, limited, and whom it names."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import MetricRecord

from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import RunError, SettingsError
from federated_health.messages.content import NUM_EXAMPLES, Registration, Update
from federated_health.messages.records import METRICS, MalformedMessageError
from federated_health.messages.validation import MAX_DECLARED_ROWS, read_registration
from federated_health.ml.normalisation import ColumnSums, column_sums, withheld_sums
from federated_health.ml.strategies import STRATEGIES
from federated_health.ml.targets.binary import Counts
from federated_health.names import FEDERATION
from federated_health.server import opposed_updates
from federated_health.server.final_evaluation import check_for_harm
from federated_health.server.opposed_updates import draw_positions, find_opposed, name_most_opposed, take
from federated_health.server.plain_run import PlainRun, summarise_round
from federated_health.server.problem_log import ProblemLog
from federated_health.server.same_rows import find_same_rows
from federated_health.server.share_limit import limit_shares
from federated_health.server.suspicious_hospitals import check_registrations, describe_uncovered_rows
from federated_health.settings import Settings
from tests.support import light_hospitals
from tests.support.light_hospitals import LightHospital, run_of, shift_of, three
from tests.test_faults import ComingAndGoing, settings

# Numbers of rows


def declared(name: str, train: int, test: int = 40, count: float | None = None, **more: Any) -> Registration:
    sums = withheld_sums(3) if count is None else ColumnSums(np.array([count / 2, count, 0]), np.zeros(3), np.ones(3))
    return Registration(name=name, train_examples=train, test_examples=test, sums=sums, **more)


def warnings_of(rows: dict[str, int], **changes: Any) -> dict[str, list[str]]:
    problems = ProblemLog()
    registrations = {name: declared(name, number, max(1, number // 3)) for name, number in rows.items()}
    check_registrations(registrations, Settings(hospitals=len(rows), **changes), problems)
    return problems.data_warnings


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ({"a": 50, "b": 30, "c": 20, "d": 1}, []),
        ({"a": 52, "b": 30, "c": 20, "d": 1}, ["a"]),  # 50.5 %, of at most 50 % for four
        ({"a": 53, "b": 30, "c": 17}, []),
        ({"a": 54, "b": 30, "c": 16}, ["a"]),  # of at most 53.3 % for three
        ({"a": 80, "b": 20}, []),
        ({"a": 81, "b": 19}, ["a"]),
        ({"a": 10}, []),
    ],
)
def test_a_hospital_with_a_large_share_of_the_average_is_named_with_the_setting(
    rows: dict[str, int], named: list[str]
) -> None:
    found = warnings_of(rows)
    assert list(found) == named
    assert all("--max-share" in text and f"{rows[name]}" in text for name, texts in found.items() for text in texts)


def test_a_limited_share_or_equal_weights_are_not_reported() -> None:
    rows = {"a": 90, "b": 5, "c": 3, "d": 2}
    assert list(warnings_of(rows)) == ["a"]
    assert list(warnings_of(rows, max_share=0.6)) == ["a"]
    assert list(warnings_of(rows, max_share=0.5)) == []
    assert list(warnings_of(rows, strategy="fedmedian")) == []


@pytest.mark.parametrize(
    ("registration", "number"),
    [
        (declared("a", 10**6, 300_000), 0),  # nothing else is known
        (declared("a", 10**6, 300_000, count=199), 1),
        (declared("a", 300, 100, count=150), 0),
        (declared("a", 300, 100, count=149), 1),
        (declared("a", 99, 30, count=10), 0),
        (declared("a", 300, 100, count=300, class_counts=(100, 49)), 1),
        (declared("a", 300, 100, count=300, class_counts=(100, 50)), 0),
        (declared("a", 1000, 99), 1),
        (declared("a", 1000, 100), 0),
        (declared("a", 100, 301), 1),
        (declared("a", 10, 89), 0),
    ],
)
def test_declared_rows_are_compared_with_what_the_statistics_cover(registration: Registration, number: int) -> None:
    texts = describe_uncovered_rows(registration)
    assert len(texts) == number
    assert all(f"{registration.train_examples:,}" in text for text in texts)


def test_a_registration_of_impossibly_many_rows_is_rejected() -> None:
    measurements = HEART_DISEASE.measurements
    for rows, is_accepted in ((MAX_DECLARED_ROWS, True), (MAX_DECLARED_ROWS + 1, False), (10**12, False)):
        for train, test in ((rows, 1), (1, rows)):
            content = replace(declared("a", train, test), sums=withheld_sums(len(measurements))).to_content()
            if is_accepted:
                assert read_registration(content, measurements).train_examples == train
            else:
                with pytest.raises(MalformedMessageError, match="at most 100,000,000"):
                    read_registration(content, measurements)


def test_a_late_hospital_with_a_large_share_is_named_when_it_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light_hospitals, "ROWS", {"a": 20, "b": 20, "c": 90})
    grid = ComingAndGoing(three())
    grid.gone = {"c"}
    run = PlainRun(grid, settings(hospitals=2, min_hospitals=2, rounds=3))
    run.gather()
    assert run.problems.data_warnings == {}
    grid.gone = set()
    next(run.rounds())
    assert list(run.problems.data_warnings) == ["c"]


# The limit of a share


@pytest.mark.parametrize(
    ("rows", "limit", "expected"),
    [
        ({"a": 30, "b": 10, "c": 10}, 1.0, {"a": 0.6, "b": 0.2, "c": 0.2}),
        ({"a": 30, "b": 10, "c": 10}, 0.5, {"a": 0.5, "b": 0.25, "c": 0.25}),
        ({"a": 90, "b": 9, "c": 1}, 0.45, {"a": 0.45, "b": 0.45, "c": 0.1}),  # 0.495 for b without a limit
        ({"a": 90, "b": 9, "c": 1}, 0.2, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}),
        ({"a": 10**8, "b": 1}, 0.5, {"a": 0.5, "b": 0.5}),
        ({"a": 7}, 0.3, {"a": 1.0}),
    ],
)
def test_shares_follow_the_rows_up_to_the_limit(rows: dict[str, int], limit: float, expected: dict[str, float]) -> None:
    assert limit_shares(rows, limit) == pytest.approx(expected)


def test_limited_shares_add_up_to_1_and_keep_the_order_of_the_rows() -> None:
    generator = np.random.default_rng(5)
    for _ in range(200):
        rows = {str(i): int(number) for i, number in enumerate(generator.integers(1, 10**6, generator.integers(1, 12)))}
        limit = float(generator.uniform(1 / len(rows), 1))
        shares = limit_shares(rows, limit)
        assert sum(shares.values()) == pytest.approx(1)
        assert max(shares.values()) <= limit + 1e-12
        in_order = [shares[name] for name in sorted(rows, key=rows.__getitem__)]
        assert in_order == sorted(in_order)


@pytest.mark.parametrize("strategy", [name for name, declared in STRATEGIES.items() if not declared.equal_weights])
def test_every_strategy_that_weighs_by_rows_respects_the_limit(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = run_of(three(), strategy=strategy, max_share=0.5)  # of 30, 10 and 5 rows
    limited.run()
    monkeypatch.setattr(light_hospitals, "ROWS", {"a": 30, "b": 20, "c": 10})
    expected = run_of(three(), strategy=strategy)
    expected.run()
    for name in expected.weights:
        np.testing.assert_allclose(limited.weights[name], expected.weights[name], rtol=0, atol=1e-6)
    assert [part.train_examples for part in limited.history[0].hospitals.values()] == [30, 10, 5]


def test_without_a_limit_the_weights_stay_the_declared_rows_as_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(three(), rounds=1)
    seen: list[object] = []
    aggregate = run.strategy.aggregate_train

    def see(number: int, replies: Any) -> Any:
        seen.extend(reply.content.metric_records[METRICS][NUM_EXAMPLES] for reply in replies)
        return aggregate(number, replies)

    monkeypatch.setattr(run.strategy, "aggregate_train", see)
    run.run()
    assert seen == [30, 10, 5]
    assert all(isinstance(number, int) for number in seen)
    assert shift_of(run) == pytest.approx((30 * 0.1 + 10 * 0.2 + 5 * 0.7) / 45, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"strategy": "average", "max_share": 0.5}, "average"),
        ({"strategy": "fedmedian", "max_share": 0.5}, "fedmedian"),
        ({"hospitals": 4, "max_share": 0.2}, r"0\.25"),
        ({"max_share": 0.0}, "more than 0"),
        ({"max_share": 1.5}, "at most 1"),
        ({"max_share": math.nan}, "more than 0, got nan"),
    ],
)
def test_a_limit_that_has_no_effect_or_cannot_be_kept_is_rejected(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=rf"^max-share: .*{key}"):
        Settings(**changes)


# The same rows at two hospitals


def registered(name: str, values: Any, labels: Any) -> Registration:
    """A registration of these training rows, [rows, columns], with associations of two decimals."""
    correlations = [np.corrcoef(column, labels)[0, 1] for column in np.nan_to_num(values).T]
    return Registration(
        name=name,
        train_examples=len(values),
        test_examples=len(values) // 3,
        sums=column_sums(values),
        associations=np.round(correlations, 2),
    )


def patients(rows: int, seed: int, columns: int = 5) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, rows)
    return generator.normal(50, 9, (rows, columns)) + 4 * labels[:, None], labels


def pairs(*tables: tuple[Any, Any]) -> list[tuple[str, str, str]]:
    registrations = {name: registered(name, *table) for name, table in zip("abcdef", tables, strict=False)}
    return list(find_same_rows(registrations))


@pytest.mark.parametrize("rows", [60, 200, 5000])
def test_equal_rows_are_found_in_any_order_and_without_one_of_them(rows: int) -> None:
    values, labels = patients(rows, 0)
    order = np.random.default_rng(1).permutation(rows)
    ((one, other, text),) = pairs((values, labels), (values[order], labels[order]))
    assert (one, other, "did one CSV join twice" in text) == ("a", "b", True)
    for dropped in range(20):
        keep = np.arange(rows) != dropped
        ((one, other, text),) = pairs((values, labels), patients(rows, 7), (values[keep], labels[keep]))
        assert (one, other) == ("a", "c")
        assert text.startswith("nearly")


def test_unrelated_hospitals_of_one_population_are_not_accused() -> None:
    for seed in range(30):
        assert pairs(*[patients(200, 6 * seed + k) for k in range(6)]) == []
        assert pairs(*[patients(20_000, 6 * seed + k, 3) for k in range(6)]) == []


def test_nearly_equal_measurements_accuse_nobody_if_labels_differ_or_columns_are_few() -> None:
    values, labels = patients(200, 0)
    other_labels = np.random.default_rng(2).permutation(labels)
    assert pairs((values, labels), (values[1:], other_labels[1:])) == []
    assert pairs((values[:, :2], labels), (values[1:, :2], labels[1:])) == []


def test_another_split_of_the_same_patients_is_not_seen() -> None:
    """Three quarters of the rows each, of which nine sixteenths are the same: as far apart as unrelated samples."""
    values, labels = patients(400, 0)
    chosen = [np.random.default_rng(seed).permutation(400)[:300] for seed in (1, 2)]
    assert pairs(*[(values[part], labels[part]) for part in chosen]) == []


def test_both_hospitals_of_a_pair_are_named_in_the_problem_log() -> None:
    values, labels = patients(200, 0)
    problems = ProblemLog()
    registrations = {
        "a": registered("a", values, labels),
        "b": registered("b", values[1:], labels[1:]),
        "c": registered("c", *patients(200, 3)),
    }
    for registration in registrations.values():
        vars(registration)["associations"] = np.zeros(0)
    check_registrations(registrations, Settings(hospitals=3), problems)
    assert {name: len(texts) for name, texts in problems.data_warnings.items()} == {"a": 1, "b": 1}
    assert problems.data_warnings["a"][0].startswith("nearly")
    assert " b" in problems.data_warnings["a"][0]


# Updates that oppose the others'


@pytest.mark.parametrize(
    ("updates", "opposed"),
    [
        ([[1, 0], [1, 0.1], [-1, 0]], [2]),
        ([[1, 0], [1, 0.1], [-500, 0]], [2]),  # its length sways nothing
        ([[1, 0], [1, 0.1], [-0.001, 0]], [2]),
        ([[1, 0], [1, 0.1], [0, 1]], []),
        ([[1, 0], [0, 1], [-1, -1]], []),  # the others do not agree
        ([[1, 0], [1, 0], [-1, 0], [-1, 0]], []),  # two against two
        ([[1, 0], [1, 0], [1, 0], [-1, 0], [-1, 0]], [3, 4]),
        ([[-1, 0], [1, 0.1], [1, 0], [1, 0.2], [-1, 0], [1, 0], [1, -0.1]], [0, 4]),
        ([[1, 0], [-1, 0]], [0, 1]),
        ([[1, 0], [1, 1]], []),
        ([[1, 0], [1, 0], [0, 0]], []),
        ([[1e200, 0], [1e200, 0], [-1e200, 0]], []),  # lengths beyond float64
    ],
)
def test_an_update_is_opposed_if_the_others_agree_and_it_points_elsewhere(
    updates: list[list[float]], opposed: list[int]
) -> None:
    with np.errstate(over="ignore"):
        assert find_opposed(np.array(updates, dtype=np.float64)) == opposed


def test_a_sample_of_the_weights_is_the_same_in_every_round_and_at_most_as_large_as_asked() -> None:
    arrays = {"one": np.arange(6).reshape(2, 3), "none": np.zeros((0, 4)), "two": np.arange(10, 14)}
    weights = {name: array.astype(np.float32) for name, array in arrays.items()}
    assert take(weights, draw_positions(weights, 100)).tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13]
    sample = take(weights, draw_positions(weights, 7))
    assert len(set(sample)) == 7
    assert sample.tolist() == sorted(take(weights, draw_positions(weights, 7)).tolist())
    large = {"large": np.zeros(3_000_000, np.float32)}
    assert len(take(large, draw_positions(large, 4096))) == 4096


def reporting(loss: Callable[[int], float], factor: float = 1.0) -> Callable[[Update], Update]:
    """Spoils updates: gives the held-out loss of every round, and multiplies the move of the weights."""
    updates = iter(range(1, 1000))

    def spoil(update: Update) -> Update:
        number = next(updates)
        counts = update.counts
        assert counts is None or isinstance(counts, Counts)
        reported = None if counts is None else replace(counts, loss_sum=loss(number) * counts.examples)
        weights = {name: array * np.float32(factor) for name, array in update.weights.items()}
        return replace(update, counts=reported, weights=weights if factor != 1 else update.weights)

    return spoil


def worse(number: int) -> float:
    """The loss that is reported with a hospital's update of a round: it rises from round 3 on."""
    return 0.6 if number <= 3 else 0.6 + 0.2 * (number - 3)


def improving(number: int) -> float:
    return 0.6 - 0.01 * number


def tiny(number: int) -> float:
    """A loss that is near 0 from round 3 on, and then doubles."""
    return 0.6 if number < 3 else 0.001 if number < 5 else 0.002


def hospitals_with(loss: Callable[[int], float], shifts: tuple[float, ...] = (0.1, 0.2, -0.2)) -> list[LightHospital]:
    return [LightHospital(name, shift, spoil=reporting(loss)) for name, shift in zip("abc", shifts, strict=True)]


def suspected(run: PlainRun) -> list[str]:
    return [
        name
        for name, texts in run.problems.data_warnings.items()
        if any("opposed" in text for text in texts) and name != FEDERATION
    ]


def test_the_hospital_that_opposes_the_others_while_the_loss_rises_is_named(caplog: pytest.LogCaptureFixture) -> None:
    run = run_of(hospitals_with(worse), rounds=9)
    run.gather()
    list(run.rounds())
    assert suspected(run) == ["c"]
    assert run.problems.to_json()["opposed_updates"] == {"c": 6}  # the losses of rounds 3 to 8 are a fifth above 0.6
    assert sum("fedmedian" in line and line.startswith("c:") for line in caplog.messages) == 1


@pytest.mark.parametrize(
    ("loss", "shifts"),
    [
        (improving, (0.1, 0.2, -0.2)),
        (worse, (0.1, 0.2, 0.3)),
        (lambda _: 0.0, (0.1, 0.2, -0.2)),
        (tiny, (0.1, 0.2, -0.2)),
    ],
)
def test_no_hospital_is_named_while_the_model_improves_or_where_all_agree(
    loss: Callable[[int], float], shifts: tuple[float, ...]
) -> None:
    run = run_of(hospitals_with(loss, shifts), rounds=9)
    run.run()
    assert suspected(run) == []
    assert run.problems.opposed_updates == {}


def test_of_two_hospitals_both_are_named() -> None:
    run = PlainRun(ComingAndGoing(hospitals_with(worse)[1:]), settings(hospitals=2, min_hospitals=2, rounds=9))
    run.run()
    assert suspected(run) == ["b", "c"]
    assert all("either" in text for name in "bc" for text in run.problems.data_warnings[name] if "opposed" in text)


def test_an_improving_run_does_not_compare_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opposed_updates, "note_opposed", lambda *_: pytest.fail("compared"))
    run_of(hospitals_with(improving), rounds=9).run()


def test_a_resumed_run_remembers_the_lowest_loss_and_the_opposed_updates() -> None:
    run = run_of(hospitals_with(worse), rounds=9)
    run.gather()
    rounds = run.rounds()
    for _ in range(5):
        next(rounds)
    checkpoint = run.checkpoint()
    again = run_of(hospitals_with(lambda number: worse(number + 5)), rounds=9)
    again.resume(checkpoint)
    assert again._lowest_losses == run._lowest_losses == pytest.approx(dict.fromkeys("abc", 0.6))
    assert again.problems.opposed_updates == run.problems.opposed_updates
    again.gather()
    list(again.rounds())
    assert suspected(again) == ["c"]


def test_a_run_that_diverges_names_the_hospital_that_opposed_the_others() -> None:
    def diverging(update: Update) -> Update:
        spoiled = spoil(update)
        return replace(spoiled, loss=math.nan) if len(run.history) >= 7 else spoiled

    hospitals, spoil = hospitals_with(worse), reporting(worse)
    hospitals[0].spoil = diverging
    run = run_of(hospitals, rounds=20, min_hospitals=3)
    run.gather()
    with pytest.raises(RunError, match=r"diverged at a; .*learning-rate; .* updates of c were opposed .* fedmedian"):
        list(run.rounds())


# A model that was harmed


def counts_of(positives: int, negatives: int, loss: float) -> Counts:
    return Counts(
        true_positives=positives,
        true_negatives=negatives,
        loss_sum=loss * (positives + negatives),
    )


@pytest.mark.parametrize(
    ("auc", "counts", "what"),
    [
        (0.30, counts_of(100, 200, 0.7), "worse than chance"),
        (0.45, counts_of(1000, 2000, 0.7), "worse than chance"),
        (0.45, counts_of(10, 20, 0.7), ""),  # within two standard errors of 0.5
        (0.90, counts_of(100, 200, 0.7), ""),
        (None, counts_of(100, 200, 0.7), ""),
        (0.90, counts_of(100, 200, 1.3), "2.2 times"),
        (0.49, counts_of(100, 200, 1.3), "2.2 times"),
        (None, counts_of(100, 200, 1.1), ""),
        (0.1, Counts(), ""),  # two standard errors are 0.8
    ],
)
def test_a_model_worse_than_chance_or_than_an_earlier_one_is_reported(
    auc: float | None, counts: Counts, what: str
) -> None:
    run = run_of(three())
    run._lowest_losses = {"a": 0.6}
    check_for_harm(run, {"a": counts}, auc)
    texts = run.problems.data_warnings.get(FEDERATION, [])
    assert [what in text for text in texts] == ([True] if what else [])
    run.problems.opposed_updates.update({"b": 4, "a": 1})
    check_for_harm(run, {"a": counts}, auc)
    assert all("updates of b" in text for text in run.problems.data_warnings.get(FEDERATION, [])[1:])


def test_hospitals_that_join_or_leave_are_no_rise_of_the_loss() -> None:
    run = run_of(three())
    for number, losses in enumerate(({"a": 0.2, "b": 0.8}, {"a": 0.25, "b": 0.6}, {"b": 0.7}, {"a": 0.3, "c": 0.9}), 1):
        counts = {name: counts_of(10, 10, loss) for name, loss in losses.items()}
        run._note_losses(summarise_round(number, {"a": Update(weights={}, examples=1, loss=None)}, counts))
    assert not run._has_worsened
    assert run.compare_losses({"a": counts_of(10, 10, 0.4), "b": counts_of(20, 20, 0.9), "d": None}) == pytest.approx(
        ((20 * 0.4 + 40 * 0.9) / 60, (20 * 0.2 + 40 * 0.6) / 60)
    )
    assert run.compare_losses({}) == (0.0, 0.0)


def test_three_rounds_in_a_row_are_needed() -> None:
    interrupted = [0.6, 0.6, 0.6, 0.8, 0.8, 0.6, 0.8, 0.8, 0.6, 0.8, 0.8]
    run = run_of(hospitals_with(lambda number: interrupted[number - 1]), rounds=len(interrupted))
    run.run()
    assert suspected(run) == []
    assert run.problems.opposed_updates == {"c": 6}


def test_of_hospitals_that_opposed_equally_often_all_are_named() -> None:
    problems = ProblemLog()
    assert name_most_opposed(problems) == ""
    problems.opposed_updates.update({"b": 4, "a": 4, "c": 1})
    assert "the updates of a, b were opposed" in name_most_opposed(problems)


def test_the_warnings_are_in_the_report_of_a_run() -> None:
    run = run_of(hospitals_with(worse), rounds=9)
    run.run()
    assert any(line.startswith("c: its updates are opposed") for line in run.problems.describe())


def test_a_registration_with_metrics_of_another_kind_is_still_rejected() -> None:
    content = declared("a", 10, 10).to_content()
    content[METRICS] = MetricRecord({"train-examples": 10.5, "test-examples": 3})
    with pytest.raises(MalformedMessageError):
        read_registration(content, HEART_DISEASE.measurements)
