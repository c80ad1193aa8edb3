"""Public heart disease files and what people do to them: read with UCI's codes and labels, or refused with a way out.

`tests.support.public_files` makes the files from UCI's table. Every row has its number in UCI's table as its index.
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federated_health.data.sources.label_meaning import parse_label_meaning
from federated_health.data.sources.source import Source, read_source
from federated_health.errors import DataError
from tests.support.public_files import (
    KAGGLE_CODES,
    PUBLIC_FILES,
    PublicFile,
    cleveland,
    expected_labels,
    kaggle_heart,
    recode,
    uci_rows,
)
from tests.support.script_calls import RunScript, assert_one_line

CASES = Path(__file__).parent / "cases"

every_file = pytest.mark.parametrize("file", PUBLIC_FILES.values(), ids=list(PUBLIC_FILES))


def write(folder: Path, text: str, name: str = "file.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def read(path: Path, means: str | None = None, *, drop_invalid: bool = False) -> Source:
    meaning = parse_label_meaning(means) if means else None
    return read_source(path, label_meaning=meaning, drop_invalid=drop_invalid)


def refusal(path: Path, means: str | None = None, *, drop_invalid: bool = False) -> str:
    """Message of the error with which a file is refused."""
    with pytest.raises(DataError) as refused:
        read(path, means, drop_invalid=drop_invalid)
    assert str(refused.value).startswith(str(path))
    return str(refused.value)


def stated(message: str) -> str:
    """The statement that a message advises, the last if there are several."""
    advice: list[str] = re.findall(r"--label-means (disease=[^\s;,]+)", message)
    return advice[-1]


def assert_uci_s(source: Source, rows: pd.DataFrame) -> None:
    """A source has UCI's label in every row, and UCI's values wherever both tables have one.

    Args:
        rows: the file's rows; those that repeat an earlier one may be missing in the source.
    """
    kept = rows[~rows.index.duplicated()]
    if len(source.table) < len(kept):
        kept = kept[~kept.duplicated()]
    reference = uci_rows().loc[kept.index].drop(columns=["hospital", "num"]).apply(pd.to_numeric)
    assert source.table["disease"].tolist() == expected_labels(kept)
    own = source.table[reference.columns]
    for name in reference:
        both = own[name].notna().to_numpy() & reference[name].notna().to_numpy()
        np.testing.assert_array_equal(own[name].to_numpy()[both], reference[name].to_numpy()[both], err_msg=name)


def of_other_patients(file: PublicFile, rows: pd.DataFrame) -> pd.DataFrame:
    """The file with measurements that no patient of UCI's has."""
    age = file.measurements[0]
    return rows.assign(**{age: rows[age].map(lambda cell: f"{float(cell) + 0.25:g}")})


# Files as they are, and changes that leave their meaning.


@every_file
def test_a_public_file_has_uci_s_labels_and_codes(tmp_path: Path, file: PublicFile) -> None:
    rows = file.build()

    source = read(write(tmp_path, file.text(rows)))

    assert_uci_s(source, rows)
    assert len(source.table) == file.rows
    assert source.describe()["confirmation"]["in_uci_table"] > 0.85 * len(rows)
    assert any(remark.startswith("confirmed: ") for remark in source.remarks())


@every_file
def test_the_order_and_number_of_rows_does_not_matter(tmp_path: Path, file: PublicFile) -> None:
    rows = file.build().sample(50, random_state=3)

    assert_uci_s(read(write(tmp_path, file.text(rows))), rows)


@every_file
@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
def test_other_separators_are_read(tmp_path: Path, file: PublicFile, separator: str) -> None:
    rows = file.build()

    assert_uci_s(read(write(tmp_path, file.text(rows, separator))), rows)


@every_file
def test_a_few_other_rows_do_not_change_what_is_confirmed(tmp_path: Path, file: PublicFile) -> None:
    rows = file.build()
    rows = pd.concat([rows[:200], of_other_patients(file, rows[200:250])])

    source = read(write(tmp_path, file.text(rows)))

    assert source.table["disease"].tolist()[:200] == expected_labels(rows)[:200]
    assert source.describe()["confirmation"]["in_uci_table"] <= 200


# Changes of what codes and labels mean.


@every_file
def test_an_inverted_label_is_refused_and_the_advised_statement_turns_it(tmp_path: Path, file: PublicFile) -> None:
    rows = file.build()
    healthy = next(cell for cell, ill in zip(rows[file.label], expected_labels(rows), strict=True) if not ill)
    rows[file.label] = [healthy if ill else file.ill for ill in expected_labels(rows)]
    path = write(tmp_path, file.text(rows))

    message = refusal(path)

    assert re.search(r"contradicts UCI's diagnosis in \d+ of \d+ rows", message)
    assert_uci_s(read(path, stated(message)), rows)


@every_file
def test_a_statement_that_the_rows_contradict_is_refused(tmp_path: Path, file: PublicFile) -> None:
    rows = file.build()
    healthy = next(cell for cell, ill in zip(rows[file.label], expected_labels(rows), strict=True) if not ill)
    path = write(tmp_path, file.text(rows))

    message = refusal(path, f"disease={healthy}")

    assert "contradicts UCI's diagnosis" in message
    assert_uci_s(read(path, stated(message)), rows)
    assert_uci_s(read(path, f"disease={file.ill}"), rows)


@every_file
def test_shifted_codes_are_refused_by_their_column(tmp_path: Path, file: PublicFile) -> None:
    codes = file.chest_pain_codes
    rows = recode(file.build(), {file.chest_pain: dict(zip(codes, codes[1:] + codes[:1], strict=True))})
    path = write(tmp_path, file.text(rows))

    for drop_invalid in (False, True):
        message = refusal(path, drop_invalid=drop_invalid)
        assert re.search(
            rf"codes in {file.chest_pain} are not UCI's: {file.chest_pain} differs in (\d+) of \1", message
        )
    assert "codes in" in refusal(path, f"disease={file.ill}")


def test_a_rare_code_with_another_meaning_is_refused(tmp_path: Path) -> None:
    rows = kaggle_heart()  # its restecg 2 is UCI's 1, in 4 of 303 rows
    normal = rows.index[rows["restecg"] == "1"][:4]
    rows["restecg"] = rows["restecg"].replace("2", "1")
    rows.loc[normal, "restecg"] = "2"

    assert "restecg differs in 8 of 303 rows" in refusal(write(tmp_path, rows.to_csv(index=False)))


@every_file
def test_a_file_of_other_patients_needs_a_statement_or_the_task_s_own_codes(tmp_path: Path, file: PublicFile) -> None:
    rows = of_other_patients(file, file.build())
    path = write(tmp_path, file.text(rows))

    message = refusal(path)

    assert "no row has the measurements of a patient in UCI's table" in message
    if file.is_recoded or not file.has_header:
        assert "--label-means" not in message
        assert "--mapping" in refusal(path, f"disease={file.ill}")
    else:
        assert f"disease={file.ill.lower()}" in message
        source = read(path, f"disease={file.ill}")
        assert source.table["disease"].tolist() == expected_labels(
            rows[~rows.duplicated()] if file.rows == 918 else rows
        )
        assert any(remark.startswith("NOT CONFIRMED: ") for remark in source.remarks())


@pytest.mark.parametrize("name", [name for name, file in PUBLIC_FILES.items() if file.has_header])
def test_a_renamed_column_is_named_and_renaming_it_back_helps(tmp_path: Path, name: str) -> None:
    file = PUBLIC_FILES[name]
    rows = file.build()
    path = write(tmp_path, file.text(rows.rename(columns={file.chest_pain: "angina type"})))

    message = refusal(path)

    assert re.search(rf"the column {file.chest_pain} is missing; .*rename it", message)
    assert_uci_s(read(write(tmp_path, file.text(rows))), rows)


# The task's own columns.


def own_rows(label: Callable[[str], str] = lambda num: str(int(num != "0"))) -> pd.DataFrame:
    rows = cleveland().drop(columns="hospital")
    return rows.assign(num=rows["num"].map(label)).rename(columns={"num": "disease"})


def test_own_columns_of_other_patients_state_their_direction(tmp_path: Path) -> None:
    rows = own_rows()
    rows["thalach"] = rows["thalach"].map(lambda cell: f"{float(cell) + 0.5:g}")

    source = read(write(tmp_path, rows.to_csv(index=False)))

    assert source.table["disease"].tolist() == expected_labels(rows)
    assert not [remark for remark in source.remarks() if "onfirm" in remark]


def test_own_columns_may_have_another_label_than_uci_s(tmp_path: Path) -> None:
    severe = own_rows(lambda num: str(int(num in "34")))

    source = read(write(tmp_path, severe.to_csv(index=False)))

    assert source.table["disease"].tolist() == (severe["disease"] == "1").tolist()
    assert "contradicts" in refusal(write(tmp_path, severe.rename(columns={"disease": "target"}).to_csv(index=False)))


def test_own_columns_with_uci_s_patients_and_the_opposite_label_are_refused(tmp_path: Path) -> None:
    rows = own_rows(lambda num: str(int(num == "0")))
    path = write(tmp_path, rows.to_csv(index=False))

    message = refusal(path)

    assert "303 of 303" in message
    assert_uci_s(read(path, stated(message)), rows)


@pytest.mark.parametrize("label", ["disease", "num"])
def test_kaggle_s_codes_under_another_label_are_refused_until_they_are_the_task_s(tmp_path: Path, label: str) -> None:
    rows = kaggle_heart().rename(columns={"target": label})
    path = write(tmp_path, rows.to_csv(index=False))

    for means in (None, "disease=0", "disease=1"):
        assert "--mapping" in refusal(path, means)

    back = {name: {after: before for before, after in codes.items()} for name, codes in KAGGLE_CODES.items()}
    followed = recode(rows, back).assign(**{label: rows[label].map({"0": "1", "1": "0"})})
    assert_uci_s(read(write(tmp_path, followed.rename(columns={label: "disease"}).to_csv(index=False))), rows)


@pytest.mark.parametrize(
    ("label", "means"),
    [
        (lambda num: "1" if num == "0" else "2", "disease=2"),
        (lambda num: "no" if num == "0" else "yes", "disease=VALUE"),
    ],
    ids=["1 and 2", "words"],
)
def test_own_columns_with_another_label_coding_are_refused_until_it_is_stated(
    tmp_path: Path, label: Callable[[str], str], means: str
) -> None:
    rows = own_rows(label)
    path = write(tmp_path, rows.to_csv(index=False))

    for drop_invalid in (False, True):
        assert stated(refusal(path, drop_invalid=drop_invalid)) == means

    assert_uci_s(read(path, means.replace("VALUE", "Yes")), rows)


@pytest.mark.parametrize("drop_invalid", [False, True])
@pytest.mark.parametrize(("cell", "advice"), [("", "delete it"), ("?", "delete it"), ("7", "correct")])
def test_no_row_is_dropped_for_its_label(tmp_path: Path, cell: str, advice: str, drop_invalid: bool) -> None:
    rows = own_rows()
    spoiled = rows.assign(disease=[*rows["disease"][:-1], cell])

    message = refusal(write(tmp_path, spoiled.to_csv(index=False)), drop_invalid=drop_invalid)

    assert "column disease, row 303: expected 0 or 1" in message
    assert advice in message
    assert_uci_s(read(write(tmp_path, spoiled[:-1].to_csv(index=False))), rows[:-1])


def test_a_num_without_0_is_refused_until_all_its_values_are_stated(tmp_path: Path) -> None:
    rows = uci_rows()[lambda table: table["num"] != "0"].drop(columns="hospital")
    rows["thalach"] = rows["thalach"].map(lambda cell: f"{float(cell) + 0.5:g}" if cell else "")
    path = write(tmp_path, rows.to_csv(index=False))

    assert "num is not confirmed" in refusal(path)
    for means in ("disease=1,2,3,4", "disease=1"):
        assert set(read(path, means).table["disease"]) == {1}


def test_a_typing_error_in_the_label_is_no_value_that_a_statement_leaves_over(tmp_path: Path) -> None:
    ill = own_rows()[lambda table: table["disease"] == "1"]
    slips = ill.assign(disease=["l", "1l", *ill["disease"][2:]])
    path = write(tmp_path, slips.to_csv(index=False))

    for means in ("disease=1", "disease=1,2"):
        assert "2 of 139 rows have no valid label" in refusal(path, means)
    assert "1l" not in refusal(path, "disease=1")


def test_a_label_with_one_value_can_be_stated_by_the_other(tmp_path: Path) -> None:
    path = write(tmp_path, own_rows()[lambda table: table["disease"] == "0"].to_csv(index=False))

    assert set(read(path, "disease=1").table["disease"]) == {0}
    assert "contradicts UCI's diagnosis" in refusal(path, "disease=0")


def test_a_statement_about_a_value_that_the_label_has_not_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, own_rows(lambda num: "1" if num == "0" else "2").to_csv(index=False))

    assert "must name all values" in refusal(path, "disease=5")
    assert set(read(path, "disease=2").table["disease"]) == {0, 1}


# Advice about invalid cells.


def test_few_typing_errors_can_be_dropped_as_advised(tmp_path: Path) -> None:
    rows = own_rows()
    slips = rows.assign(age=["630", *rows["age"][1:]], cp=["1", "9", *rows["cp"][2:]])
    path = write(tmp_path, slips.to_csv(index=False))

    assert "--drop-invalid" in refusal(path)
    assert_uci_s(read(path, drop_invalid=True), rows[2:])


@pytest.mark.parametrize(("column", "cell"), [("thal", "0"), ("chol", "9999"), ("ca", "9")])
def test_a_repeated_invalid_cell_is_a_code_of_the_file_and_emptying_it_helps(
    tmp_path: Path, column: str, cell: str
) -> None:
    rows = own_rows()
    rows.iloc[5:10, list(rows.columns).index(column)] = cell
    path = write(tmp_path, rows.to_csv(index=False))

    message = refusal(path)

    assert f"5 rows have the same invalid {column}" in message
    assert "--drop-invalid" not in message
    assert_uci_s(read(write(tmp_path, rows.replace({column: {cell: ""}}).to_csv(index=False))), rows)


def test_rows_with_the_same_invalid_code_are_not_dropped_beside_codes_that_may_be_shifted(tmp_path: Path) -> None:
    rows = own_rows()
    age = pd.to_numeric(rows["age"]) + 0.5  # no patient of UCI's
    path = write(tmp_path, rows.assign(age=age, cp=(pd.to_numeric(rows["cp"]) - 1).astype(str)).to_csv(index=False))

    message = refusal(path, drop_invalid=True)

    assert "same invalid cp" in message
    assert "--mapping" in message


def test_dropping_is_neither_advised_nor_done_where_it_would_lose_a_class(tmp_path: Path) -> None:
    rows = own_rows()
    few = pd.concat([rows[rows["disease"] == "0"], rows[rows["disease"] == "1"][:2]])
    few["age"] = [*few["age"][:-2], "630", "-1"]
    path = write(tmp_path, few.to_csv(index=False))

    assert "--drop-invalid" not in refusal(path)
    assert "every patient with disease 1" in refusal(path, drop_invalid=True)
    corrected = few.assign(age=[*few["age"][:-2], *rows.loc[few.index[-2:], "age"]])
    assert_uci_s(read(write(tmp_path, corrected.to_csv(index=False))), few)


# Hospitals.


@pytest.mark.parametrize(
    ("hospital", "column"),
    [("cleveland", "disease"), ("switzerland", "disease"), ("va-long-beach", "disease"), ("va-long-beach", "exang")],
)
def test_the_opposite_at_one_hospital_of_four_is_refused(tmp_path: Path, hospital: str, column: str) -> None:
    rows = uci_rows().rename(columns={"num": "disease"})
    rows["disease"] = (rows["disease"] != "0").astype(int).astype(str)
    read(write(tmp_path, rows.to_csv(index=False)))
    rows[column] = rows[column].where(rows["hospital"] != hospital, rows[column].map({"0": "1", "1": "0"}))

    message = refusal(write(tmp_path, rows.to_csv(index=False)))

    assert f"{column}: at the hospital {hospital}" in message


@pytest.mark.parametrize("name", ["hospital", "dataset", "Location", "site", "Institution"])
def test_a_column_that_names_hospitals_is_used(tmp_path: Path, name: str) -> None:
    rows = uci_rows().rename(columns={"hospital": name})

    source = read(write(tmp_path, rows.to_csv(index=False)))

    assert source.table["hospital"].tolist() == uci_rows()["hospital"].tolist()
    assert (f"hospitals are those of the column {name}" in source.remarks()) is (name != "hospital")


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (["train", "test"], "training and testing"),
        (["1", "2"], "numbers"),
        (["a", "?"], "no valid name"),
        (["North 1", "north-1"], "alike"),
        ([f"room {number}" for number in range(100)], "too many"),
    ],
)
def test_a_column_that_names_no_hospitals_is_reported(tmp_path: Path, cells: list[str], reason: str) -> None:
    rows = cleveland().drop(columns="hospital")
    rows["dataset"] = [cells[place % len(cells)] for place in range(len(rows))]

    source = read(write(tmp_path, rows.to_csv(index=False)))

    assert not source.has_hospitals
    assert [remark for remark in source.remarks() if "column dataset is not used" in remark and reason in remark]


def test_of_two_columns_of_hospitals_one_is_used_and_the_other_reported(tmp_path: Path) -> None:
    rows = uci_rows().assign(site="somewhere")

    source = read(write(tmp_path, rows.to_csv(index=False)))

    assert source.table["hospital"].nunique() == 4
    assert any("column site is not used" in remark for remark in source.remarks())


# Files that are something else.


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("% heart\n@RELATION heart\n@attribute age real\n@data\n63\n", "ARFF"),
        ("<!DOCTYPE html><html></html>", "HTML"),
        ('[{"age": 63}]', "JSON"),
        ("PAR1xx", "Parquet"),
        ("row.names,sbp,tobacco,age,chd\n1,160,12,52,1\n", "expected such columns as age, sex, cp"),
        ("this file is a note\nof two lines\n", "no known layout"),
    ],
)
def test_another_kind_of_file_is_described_as_what_it_is(tmp_path: Path, content: str, what: str) -> None:
    message = refusal(write(tmp_path, content))

    assert what in message
    assert "closest" not in message


def test_an_arff_file_is_read_once_it_is_saved_as_advised(tmp_path: Path) -> None:
    rows = cleveland().drop(columns="hospital")
    attributes = "".join(f"@attribute {name} real\n" for name in rows)
    data = rows.to_csv(index=False, header=False)
    assert "ARFF" in refusal(write(tmp_path, f"@relation heart\n{attributes}@data\n{data}"))

    header = ",".join(re.findall(r"@attribute (\w+)", attributes))

    assert_uci_s(read(write(tmp_path, f"{header}\n{data}")), rows)


def test_a_folder_of_csvs_is_described_and_its_csv_can_be_named(tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    rows = kaggle_heart()
    write(folder, rows.to_csv(index=False), "heart.csv")

    message = refusal(folder)

    assert "got 1 CSV" in message
    assert_uci_s(read(Path(message.partition("--source ")[2])), rows)


# The command.


def test_each_case_is_refused_without_writing_anything(run_script: RunScript) -> None:
    for name in ("codes_from_0_target_not_inverted", "statlog_label_1_2_num", "statlog_label_1_2_disease"):
        for flags in ("", "--drop-invalid", "--label-means disease=3"):
            result = run_script("create_dataset.py", "--source", str(CASES / f"{name}.csv"), *flags.split())
            assert (result.code, result.output) == (1, "")
            assert_one_line(result, name)
            assert not Path("data").exists()


def test_codes_that_nothing_confirms_are_refused_whatever_is_stated_of_the_label(run_script: RunScript) -> None:
    source = str(CASES / "codes_from_0_target_not_inverted.csv")

    for means in ("disease=0", "disease=1"):
        result = run_script("create_dataset.py", "--source", source, "--label-means", means)
        assert result.code == 1
        assert_one_line(result, "meaning of its codes", "--mapping")


def test_codes_that_nothing_confirms_can_be_stated_by_a_mapping_as_advised(run_script: RunScript) -> None:
    codes = {"cp": {0: 1, 1: 2, 2: 3, 3: 4}, "slope": {0: 1, 1: 2, 2: 3}, "thal": {1: 3, 2: 6, 3: 7}}
    source = CASES / "codes_from_0_target_not_inverted.csv"
    *columns, target = source.read_text().splitlines()[0].split(",")
    lines = ['task = "heart-disease"']
    for name in columns:
        lines += [f"[columns.{name}]", f'column = "{name}"']
        if name in codes:
            pairs = ", ".join(f'"{cell}" = {code}' for cell, code in codes[name].items())
            lines.append(f"codes = {{ {pairs} }}")
    lines += ["[columns.disease]", f'column = "{target}"', 'codes = { "1" = 1, "0" = 0 }']
    Path("mapping.toml").write_text("\n".join(lines))

    flags = f"--source {source} --mapping mapping.toml --task heart-disease --hospitals 1"
    assert run_script("create_dataset.py", *flags.split()).succeeded
    assert_one_line(run_script("create_dataset.py", *flags.split(), "--label-means", "disease=1"), "--label-means")

    rows, written = pd.read_csv(source), pd.read_csv("data/client_1.csv")
    expected = rows.replace(codes).rename(columns={target: "disease"})
    order = [*columns]
    pd.testing.assert_frame_equal(
        written.sort_values(order, ignore_index=True), expected.sort_values(order, ignore_index=True), check_dtype=False
    )


@pytest.mark.parametrize("name", ["statlog_label_1_2_num.csv", "statlog_label_1_2_disease.csv"])
def test_statlog_s_codes_are_explained_and_the_advised_command_reads_them(run_script: RunScript, name: str) -> None:
    source = str(CASES / name)
    result = run_script("create_dataset.py", "--source", source)
    assert_one_line(result, "1 for absence and 2 for presence")
    advice = re.search(r"--label-means disease=2", result.error)
    assert advice

    result = run_script("create_dataset.py", "--source", source, "--hospitals", "1", *shlex.split(advice.group()))

    assert result.succeeded
    labels = [row.rpartition(",")[2] for row in (CASES / name).read_text().splitlines()[1:]]
    assert sorted(pd.read_csv("data/client_1.csv")["disease"]) == sorted(int(label == "2") for label in labels)


@pytest.mark.parametrize("means", ["disease", "=1", "disease=", "disease=1,"])
def test_an_incomplete_statement_is_refused(run_script: RunScript, means: str) -> None:
    Path("heart.csv").write_text(kaggle_heart().to_csv(index=False))

    result = run_script("create_dataset.py", "--source", "heart.csv", "--label-means", means)

    assert result.code == 2
    assert_one_line(result, "--label-means", "disease=1")


def test_a_statement_about_another_label_is_refused_with_the_right_one(run_script: RunScript) -> None:
    Path("heart.csv").write_text(kaggle_heart().to_csv(index=False))

    result = run_script("create_dataset.py", "--source", "heart.csv", "--label-means", "target=0")

    assert_one_line(result, "expected disease=VALUE")
    assert run_script("create_dataset.py", "--source", "heart.csv", "--label-means", "disease=0").succeeded
