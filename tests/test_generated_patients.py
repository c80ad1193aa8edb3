"""The generator: hand-worked log-odds, simulation of single records, calibration of many."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from federated_health.data.columns import Category, Measurement
from federated_health.data.sources.generated_patients import (
    GeneratedPatients,
    expected_risk,
    expected_roc_auc,
    generate_patients,
)
from federated_health.data.sources.patient_model import (
    Codes,
    Columns,
    Vector,
    draw_record,
    draw_truth,
    glucose_level,
    hba1c_level,
    insulin_shares,
    tablets_share,
    true_risk,
)
from federated_health.data.task_files import READMISSION

UNIVERSITY, COMMUNITY = "university", "community"


@pytest.fixture(scope="module")
def many() -> GeneratedPatients:
    return generate_patients(200_000, 1)


@pytest.fixture(scope="module")
def truth() -> tuple[Codes, Columns]:
    """The hospital and the true values of 100,000 patients."""
    hospital = (np.arange(100_000) % 2).astype(np.int64)
    return hospital, draw_truth(hospital, np.random.default_rng(3))


def hospital_rows(records: GeneratedPatients, name: str) -> pd.DataFrame:
    return records.table[records.table["hospital"] == name]


def complete(**changes: float) -> Columns:
    """One patient whose log-odds are those of the intercept and home alone, but for what is changed."""
    patient = {
        "age": 65.0,
        "sex": 0.0,
        "admission_type": 2.0,
        "days_in_hospital": 4.0,
        "lab_procedures": 40.0,
        "medications": 16.0,
        "diagnoses": 6.0,
        "emergency_visits": 0.0,
        "inpatient_visits": 0.0,
        "hba1c": 7.5,
        "glucose": 140.0,
        "insulin": 0.0,
        "diabetes_medication": 0.0,
        "discharged_home": 0.0,
    }
    return {name: np.array([value]) for name, value in {**patient, **changes}.items()}


def test_the_same_arguments_give_the_same_patients() -> None:
    first, second, other = (generate_patients(300, seed) for seed in (7, 7, 8))

    pd.testing.assert_frame_equal(first.table, second.table)
    assert np.array_equal(first.probability, second.probability)
    assert not first.table.equals(other.table)
    assert not np.array_equal(first.probability, other.probability)


@pytest.mark.parametrize(("patients", "of_university"), [(1, 1), (2, 1), (10, 6), (4001, 2401)])
def test_three_fifths_of_any_number_of_patients_are_at_the_university(patients: int, of_university: int) -> None:
    records = generate_patients(patients, 0)

    assert list(records.table["hospital"]) == [UNIVERSITY] * of_university + [COMMUNITY] * (patients - of_university)
    assert records.probability.shape == (patients,)
    assert ((records.probability > 0) & (records.probability < 1)).all()


def test_the_table_follows_the_task(many: GeneratedPatients) -> None:
    table = many.table

    assert list(table.columns) == ["hospital", *READMISSION.column_names, "readmitted"]
    assert table["readmitted"].dtype == np.int64
    assert set(table["readmitted"]) == {0, 1}
    for column in READMISSION.columns:
        recorded = table[column.name].dropna()
        assert recorded.dtype == np.float64
        match column:
            case Measurement():
                assert recorded.between(column.low, column.high).all(), column.name
                assert column.typical_median is not None
                for name in (UNIVERSITY, COMMUNITY):
                    median = hospital_rows(many, name)[column.name].median()
                    assert column.typical_median[0] <= median <= column.typical_median[1], column.name
            case Category():
                assert set(recorded) == set(column.codes), column.name
        tenths = recorded * (10 if column.name == "hba1c" else 1)
        assert np.allclose(tenths, np.rint(tenths), atol=1e-9), column.name


def test_missing_cells_are_in_three_columns(many: GeneratedPatients) -> None:
    empty = many.table.isna().any()

    assert set(empty.index[empty]) == {"admission_type", "hba1c", "glucose"}


def test_means_are_those_of_the_published_data(many: GeneratedPatients) -> None:
    means = many.table.mean(numeric_only=True)

    assert 0.18 < means["readmitted"] < 0.22
    for name, expected in {
        "days_in_hospital": 4.4,
        "lab_procedures": 43,
        "medications": 16,
        "diagnoses": 7.4,
        "inpatient_visits": 0.6,
        "emergency_visits": 0.2,
    }.items():
        assert means[name] == pytest.approx(expected, rel=0.03), name


def test_related_columns_are_correlated(many: GeneratedPatients) -> None:
    table = many.table
    rank = {name: table[name].rank() for name in READMISSION.column_names}

    for first, second, minimum in (
        ("hba1c", "glucose", 0.4),
        ("days_in_hospital", "medications", 0.1),
        ("days_in_hospital", "lab_procedures", 0.1),
        ("days_in_hospital", "diagnoses", 0.05),
        ("inpatient_visits", "emergency_visits", 0.05),
    ):
        assert rank[first].corr(rank[second]) > minimum, (first, second)
    assert rank["age"].corr(rank["discharged_home"]) < -0.1
    hba1c = table.groupby("insulin")["hba1c"].mean()
    assert hba1c[2] > hba1c[1] > hba1c[0] > hba1c[3]
    assert (table.loc[table["insulin"] > 0, "diabetes_medication"] == 1).all()


def test_values_follow_the_stated_distributions(truth: tuple[Codes, Columns]) -> None:
    """Figures written out here, not from the module's functions; standard errors are below a third of `abs`."""
    _, values = truth
    hba1c, age, visits = values["hba1c"], values["age"], values["emergency_visits"]

    usual = np.log(values["glucose"]) - np.log(0.92 * (28.7 * hba1c - 46.7))
    assert usual.mean() == pytest.approx(0, abs=0.005)
    assert usual.std() == pytest.approx(0.38, abs=0.005)

    level = np.log(hba1c - 4)
    old, young = (level[(visits == 0) & (age >= low) & (age < low + 5)].mean() for low in (75, 50))
    assert old - young == pytest.approx(-0.04 * 2.5, abs=0.03)
    frequent, never = (level[visits == number].mean() for number in (1, 0))
    assert frequent - never == pytest.approx(0.08, abs=0.015)
    assert level[(visits == 0) & (age == 65)].mean() == pytest.approx(1.25, abs=0.03)

    for low, poor in ((7.3, 0.0), (9.8, 2.5)):
        around = (hba1c > low - 0.01) & (hba1c < low + 0.41)
        insulin = values["insulin"][around]
        odds = np.exp([0, -0.2 + 0.1 * poor, -0.3 + 0.15 * poor, -0.8 - 0.15 * poor])
        assert np.bincount(insulin.astype(int)) / len(insulin) == pytest.approx(odds / odds.sum(), abs=0.03)
        tablets = values["diabetes_medication"][around][insulin == 0]
        assert tablets.mean() == pytest.approx(1 / (1 + math.exp(-0.8 - 0.3 * poor)), abs=0.05)


def test_hospitals_differ_in_patients_and_recording(many: GeneratedPatients) -> None:
    university, community = (hospital_rows(many, name) for name in (UNIVERSITY, COMMUNITY))

    assert len(university) == 120_000
    assert community["age"].mean() - university["age"].mean() > 4
    assert community["hba1c"].isna().mean() - university["hba1c"].isna().mean() > 0.1
    assert community["glucose"].isna().mean() - university["glucose"].isna().mean() > 0.05
    assert community["admission_type"].isna().mean() - university["admission_type"].isna().mean() > 0.1
    assert university["diagnoses"].min() == 3  # two extra codes on top of the lowest one
    assert community["diagnoses"].min() == 1


def test_recording_habits_change_two_columns_only() -> None:
    patient = complete(lab_procedures=41.0, diagnoses=5.0)
    generator = np.random.default_rng(0)

    university, community = (draw_record(np.array([hospital]), patient, generator) for hospital in (0, 1))

    assert (university["lab_procedures"].item(), community["lab_procedures"].item()) == (41, 33)  # 0.8 * 41 = 32.8
    assert (university["diagnoses"].item(), community["diagnoses"].item()) == (7, 5)
    for name in set(patient) - {"lab_procedures", "diagnoses", "hba1c", "glucose", "admission_type"}:
        assert university[name] == community[name] == patient[name]


def test_missing_cells_depend_on_the_true_values(truth: tuple[Codes, Columns]) -> None:
    hospital, values = truth
    record = draw_record(hospital, values, np.random.default_rng(4))
    for number, steps in ((0, 0.1), (1, 0.2)):
        here = hospital == number
        empty = np.isnan(record["hba1c"])
        tight, middling, loose = (
            empty[here & (values["hba1c"] > low) & (values["hba1c"] <= high)].mean()
            for low, high in ((0, 6.5), (6.5, 9), (9, 20))
        )
        assert tight > middling + steps / 3 > loose + steps
        empty = np.isnan(record["glucose"])
        low, usual, high = (
            empty[here & (values["glucose"] >= least) & (values["glucose"] < most)].mean()
            for least, most in ((0, 70), (110, 180), (270, 1000))
        )
        assert usual > 3 * max(low, high)
        emergency = values["admission_type"] == 1
        empty = np.isnan(record["admission_type"])
        assert empty[here & emergency].mean() > 1.5 * empty[here & ~emergency].mean()


@pytest.mark.parametrize(
    ("changes", "log_odds"),
    [
        ({}, 0.0),
        ({"age": 75}, 0.35),
        ({"sex": 1, "diagnoses": 8}, 0.10 + 2 * 0.15),
        ({"inpatient_visits": 6}, 4 * 0.50),
        ({"inpatient_visits": 2, "discharged_home": 1}, 2 * 0.50 - 0.80 + 2 * 0.35),
        ({"emergency_visits": 5}, 4 * 0.45),
        ({"diabetes_medication": 1}, -0.20),
        ({"days_in_hospital": 1}, 2 * 0.50),
        ({"days_in_hospital": 14}, 8 * 0.25),
        ({"hba1c": 5.5}, 2 * 1.20),
        ({"hba1c": 9.5}, 2 * 0.40),
        ({"hba1c": 14.5}, 5 * 0.40),
        ({"glucose": 69}, 1.5),
        ({"glucose": 70}, 0.5),
        ({"glucose": 180}, 0.4),
        ({"glucose": 270}, 1.0),
        ({"hba1c": 6.5, "insulin": 2}, 1.20 + 0.90),
        ({"hba1c": 6.5, "insulin": 3}, 1.20 - 0.90),
        ({"hba1c": 10.5, "insulin": 2}, 3 * 0.40 - 1.5 * 0.90),
        ({"hba1c": 10.5, "insulin": 3}, 3 * 0.40 + 1.5 * 0.90),
        ({"hba1c": 10.5, "insulin": 1}, 3 * 0.40),
        ({"age": 85, "medications": 22}, 2 * 0.35 + 2 * 1 * 0.40),
        ({"age": 45, "medications": 22}, -2 * 0.35 - 2 * 1 * 0.40),
        ({"age": 18, "medications": 60}, -4.7 * 0.35 - 3 * 3 * 0.40),
        ({"age": 75, "medications": 1}, 0.35 - 2 * 0.40),
        ({"admission_type": 1, "lab_procedures": 90}, 0.0),
    ],
)
def test_log_odds_worked_by_hand(changes: dict[str, float], log_odds: float) -> None:
    patient = complete(**changes)

    risk = true_risk(patient).item()
    assert math.log(risk / (1 - risk)) == pytest.approx(-3.28 + log_odds)
    # A complete record determines the true risk in either hospital, with two extra diagnoses or none.
    in_university = {**patient, "diagnoses": patient["diagnoses"] + 2}
    assert expected_risk(np.array([0]), in_university).item() == pytest.approx(risk)
    assert expected_risk(np.array([1]), patient).item() == pytest.approx(risk)


def simulate(hospital: int, record: Columns, generator: np.random.Generator, draws: int) -> tuple[float, float]:
    """Mean and standard error of the true risk of simulated patients whose record is this one.

    HbA1c, glucose and treatment are drawn anew for a patient with the other cells, as the model states; those whose
    record comes out as this one count. Glucose that is recorded is not drawn: its density weighs instead.
    """
    cells = {name: column.item() for name, column in record.items()}
    level = hba1c_level(record["age"], record["emergency_visits"]).item()
    hba1c = np.clip(np.rint(10 * (4 + np.exp(generator.normal(level, 0.42, draws)))), 45, 150) / 10
    mean = glucose_level(hba1c)
    drawn = np.clip(np.rint(np.exp(generator.normal(mean, 0.38))), 40, 600)
    if math.isnan(cells["glucose"]):
        weight = np.ones(draws)
    else:
        drawn = np.full(draws, cells["glucose"])
        weight = np.exp(-0.5 * ((math.log(cells["glucose"]) - mean) / 0.38) ** 2)
    if not math.isnan(cells["hba1c"]):
        hba1c = np.full(draws, cells["hba1c"])
        drawn = np.clip(np.rint(np.exp(generator.normal(glucose_level(hba1c), 0.38))), 40, 600)
        weight = np.ones(draws)
    shares = insulin_shares(hba1c)[:, int(cells["insulin"])]
    tablets = tablets_share(hba1c)
    if cells["insulin"] == 0:
        shares = shares * (tablets if cells["diabetes_medication"] == 1 else 1 - tablets)
    values = {name: np.full(draws, cell) for name, cell in cells.items()}
    values |= {"hba1c": hba1c, "glucose": drawn, "diagnoses": values["diagnoses"] - (2 if hospital == 0 else 0)}
    recorded = draw_record(np.full(draws, hospital), values, generator)
    alike = np.isnan(recorded["hba1c"]) == math.isnan(cells["hba1c"])
    alike &= np.isnan(recorded["glucose"]) == math.isnan(cells["glucose"])
    weight = weight * shares * alike
    weight /= weight.sum()
    risk = true_risk(values)
    estimate = float(weight @ risk)
    return estimate, float(np.sqrt((weight**2) @ (risk - estimate) ** 2))


@pytest.mark.parametrize("hospital", [0, 1])
@pytest.mark.parametrize(
    "changes",
    [
        {"hba1c": np.nan},
        {"glucose": np.nan},
        {"hba1c": np.nan, "glucose": np.nan},
        {"hba1c": np.nan, "glucose": 62, "insulin": 3, "diabetes_medication": 1, "age": 81, "medications": 25},
        {"hba1c": np.nan, "glucose": 330, "insulin": 2, "diabetes_medication": 1, "age": 40, "days_in_hospital": 1},
        {"hba1c": np.nan, "glucose": np.nan, "emergency_visits": 7, "days_in_hospital": 12, "diabetes_medication": 1},
        {"hba1c": 5.4, "glucose": np.nan, "insulin": 2, "diabetes_medication": 1},
    ],
)
def test_probability_of_a_record_by_simulation(hospital: int, changes: dict[str, float]) -> None:
    record = complete(**{"diagnoses": 8.0, **changes})

    probability = expected_risk(np.array([hospital]), record).item()

    estimate, error = simulate(hospital, record, np.random.default_rng(hospital), 500_000)
    assert error < 0.0025
    assert abs(probability - estimate) < 4 * error + 1e-4


def gap(labels: Vector, probability: Vector) -> float:
    """Difference between drawn and expected positives, in standard errors."""
    return abs(float((labels - probability).sum() / np.sqrt((probability * (1 - probability)).sum())))


def test_probabilities_are_calibrated(many: GeneratedPatients) -> None:
    labels = many.table["readmitted"].to_numpy().astype(np.float64)
    order = np.argsort(many.probability)

    for rows in np.array_split(order, 20):
        assert gap(labels[rows], many.probability[rows]) < 4


def test_probabilities_are_calibrated_in_every_pattern_of_missing_cells(many: GeneratedPatients) -> None:
    table = many.table
    pattern = [table["hospital"], *(table[name].isna() for name in ("hba1c", "glucose", "admission_type"))]
    groups = table.assign(probability=many.probability).groupby(pattern)

    assert len(groups) == 16
    for _, group in groups:
        in_order = group.sort_values("probability")
        parts = 5 if len(group) > 2000 else 1
        for rows in np.array_split(np.arange(len(group)), parts):
            part = in_order.iloc[rows]
            assert gap(part["readmitted"].to_numpy(np.float64), part["probability"].to_numpy()) < 4


def test_probabilities_are_calibrated_for_each_value_of_another_column_where_hba1c_is_missing(
    many: GeneratedPatients,
) -> None:
    table = many.table.assign(probability=many.probability)[many.table["hba1c"].isna()]
    cut = pd.cut(table["glucose"].fillna(0), [-1, 20, 100, 150, 200, 300, 601])
    visits, days = table["emergency_visits"].clip(upper=3), table["days_in_hospital"]

    for key in (cut, table["insulin"], table["diabetes_medication"], visits, days, table["age"] // 10):
        for _, group in table.groupby([table["hospital"], key], observed=True):
            assert gap(group["readmitted"].to_numpy(np.float64), group["probability"].to_numpy()) < 4.2


def test_the_probability_of_the_wrong_hospital_has_a_worse_brier_score(many: GeneratedPatients) -> None:
    record = {name: many.table[name].to_numpy() for name in READMISSION.column_names}
    hospital = (many.table["hospital"] == COMMUNITY).to_numpy().astype(np.int64)
    labels = many.table["readmitted"].to_numpy()

    assert np.array_equal(expected_risk(hospital, record), many.probability)
    assert ((many.probability - labels) ** 2).mean() < ((expected_risk(1 - hospital, record) - labels) ** 2).mean()


def test_the_true_risk_separates_the_classes(truth: tuple[Codes, Columns]) -> None:
    _, values = truth
    assert expected_roc_auc(true_risk(values)) > 0.83


@pytest.mark.parametrize("seed", range(4))
def test_expected_roc_auc_is_the_sum_over_pairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    probability = generator.choice([0.05, 0.2, 0.2, 0.6, 0.9, 1.0, 0.0], 40) if seed % 2 else generator.random(40)
    won = pairs = 0.0
    for i, p in enumerate(probability):
        for j, q in enumerate(probability):
            if i != j:
                pairs += p * (1 - q)
                won += p * (1 - q) * (1.0 if p > q else 0.5 if p == q else 0.0)

    assert expected_roc_auc(probability) == pytest.approx(won / pairs, abs=1e-12)


def test_expected_roc_auc_worked_by_hand() -> None:
    # Right with 0.8 * 0.6, wrong with 0.4 * 0.2.
    assert expected_roc_auc(np.array([0.8, 0.4])) == pytest.approx(0.48 / 0.56)
    assert expected_roc_auc(np.full(5, 0.3)) == pytest.approx(0.5)
    assert expected_roc_auc(np.array([0.0, 1.0, 1.0])) == 1.0


@pytest.mark.parametrize("probability", [[], [0.4], [0.0, 0.0], [1.0, 1.0, 1.0]])
def test_expected_roc_auc_needs_two_classes(probability: list[float]) -> None:
    with pytest.raises(ValueError, match="not defined"):
        expected_roc_auc(np.array(probability))


def test_drawn_labels_reach_the_expected_roc_auc(many: GeneratedPatients) -> None:
    expected = expected_roc_auc(many.probability)

    assert 0.80 < expected < 0.85
    # The standard error with 40,000 positives is near 0.0015.
    assert roc_auc_score(many.table["readmitted"], many.probability) == pytest.approx(expected, abs=0.005)


def features(table: pd.DataFrame) -> pd.DataFrame:
    """As the project's own encoder sees a row: scaled values with flags for missing ones, and one-hot codes."""
    columns = {}
    for column in READMISSION.columns:
        cells = table[column.name]
        columns[f"{column.name} missing"] = cells.isna().astype(float)
        if isinstance(column, Measurement):
            columns[column.name] = cells.fillna(cells.mean())
        else:
            columns |= {f"{column.name} {code}": (cells == code).astype(float) for code in column.codes}
    return pd.DataFrame(columns)


def test_trees_beat_a_linear_model_and_the_probability_beats_both(many: GeneratedPatients) -> None:
    rows = np.random.default_rng(0).permutation(len(many.table))[:20_000]
    table = many.table.iloc[rows].reset_index(drop=True)
    inputs, labels, train = features(table), table["readmitted"].to_numpy(), np.arange(20_000) < 10_000

    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(inputs[train], labels[train])
    with threadpool_limits(1):  # threads that wait for busy cores take longer than one thread
        boosted = HistGradientBoostingClassifier(max_iter=50, random_state=0).fit(inputs[train], labels[train])
    scores = (
        linear.predict_proba(inputs[~train])[:, 1],
        boosted.predict_proba(inputs[~train])[:, 1],
        many.probability[rows][~train],
    )
    line, trees, best = (roc_auc_score(labels[~train], score) for score in scores)

    assert trees - line > 0.03
    assert best - trees > 0.005
    assert all(auc > 0.7 for auc in (line, trees, best))
    assert line < trees < best
