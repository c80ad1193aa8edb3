"""create_dataset.py as a user meets it: what it writes, prints and refuses."""

import gzip
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from federated_health.data.task_files import read_task_file
from tests.conftest import PROJECT
from tests.support.diabetes_stays import made_up_stays
from tests.support.script_calls import RunScript, assert_one_line

HEART_CSV = """age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,disease
63,1,1,145,233,1,2,150,0,2.3,3,0,6,0
67,1,4,160,286,0,2,108,1,1.5,2,3,3,1
37,1,3,130,250,0,0,187,0,3.5,3,0,3,0
41,0,2,130,204,0,2,172,0,1.4,1,0,3,0
"""


EXAMPLES = PROJECT / "examples"
STROKE = EXAMPLES / "own_question" / "stroke.toml"
SEVERITY = EXAMPLES / "heart_severity" / "heart-severity.toml"


def manifest_of(folder: str = "data") -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(Path(folder, "manifest.json").read_text())
    return manifest


def hospitals_of(folder: str = "data") -> list[tuple[str, int]]:
    return [(entry["name"], entry["rows"]) for entry in manifest_of(folder)["hospitals"]]


@pytest.fixture
def create(run_script: RunScript) -> RunScript:
    """Runs create_dataset.py with its flags as one text."""
    return lambda flags="": run_script("create_dataset.py", *flags.split())


def test_uci_gives_4_hospitals_in_order(create: RunScript) -> None:
    Path("data").mkdir()
    assert create("--seed 7").succeeded
    manifest = manifest_of()
    assert [(entry["file"], entry["name"], entry["rows"]) for entry in manifest["hospitals"]] == [
        ("client_1.csv", "cleveland", 303),
        ("client_2.csv", "hungary", 294),
        ("client_3.csv", "switzerland", 123),
        ("client_4.csv", "va-long-beach", 200),
    ]
    assert manifest["partition"] == {"by": "hospital", "seed": 7}
    assert create().succeeded  # its own files may be written anew


def test_rows_that_hospitals_share_are_reported_by_pair(create: RunScript) -> None:
    case = PROJECT / "tests" / "cases" / "same_patients_two_hospitals.csv"
    output = create(f"--source {case} --out shared").output
    assert "north and south: 12 distinct rows" in output
    assert "are they the same patients" not in create("--out uci").output


def test_files_of_another_origin_are_overwritten_only_by_force(create: RunScript) -> None:
    Path("data").mkdir()
    Path("data/client_9.csv").write_text("mine\n")
    assert_one_line(create(), "client_9.csv", "--force")
    assert [path.name for path in Path("data").iterdir()] == ["client_9.csv"]
    assert create("--force").succeeded
    assert not Path("data/client_9.csv").exists()


@pytest.mark.parametrize(
    ("flags", "code", "pattern"),
    [
        ("--by random", 2, "--by: invalid choice: 'random'"),
        ("--by size", 2, "--ratios: .*--by size"),
        ("--by size --hospitals 3", 2, "--ratios: .*--by size"),
        ("--by size --ratios 2,1 --hospitals 3", 2, "--hospitals: expected 2.*got 3"),
        ("--by size --ratios 2,0", 2, "--ratios: expected numbers above 0.*got '0'"),
        ("--by size --ratios 2,nan", 2, "--ratios: expected numbers above 0.*got 'nan'"),
        ("--by size --ratios 1e999,1", 2, "--ratios: expected numbers above 0.*got '1e999'"),
        ("--by size --ratios 2,", 2, "--ratios: expected numbers above 0.*got ''"),
        ("--by size --ratios 2;1", 2, "--ratios: expected numbers above 0.*got '2;1'"),
        ("--by size --ratios 2,1 --alpha 1", 2, "--alpha: .*--by dirichlet"),
        ("--by size --ratios 1e-300,1", 1, "--ratios: .*920 patients"),
        ("--by size --ratios 10000,1", 1, "--ratios: .*920 patients"),
        ("--ratios 2,1", 2, "--ratios: .*--by size"),
        ("--alpha 1", 2, "--alpha: .*--by dirichlet"),
        ("--by iid --alpha 1", 2, "--alpha: .*--by dirichlet"),
        ("--by dirichlet --ratios 2,1", 2, "--ratios: .*--by size"),
        ("--by dirichlet --alpha 0", 2, "--alpha: expected 0.001 to .*got 0"),
        ("--by dirichlet --alpha=-1", 2, "--alpha: expected 0.001 to .*got -1"),
        ("--by dirichlet --alpha nan", 2, "--alpha: expected 0.001 to .*got nan"),
        ("--by dirichlet --alpha inf", 2, "--alpha: expected 0.001 to .*got inf"),
        ("--by dirichlet --alpha half", 2, "--alpha: expected a number, got 'half'"),
        ("--by dirichlet --hospitals 60 --alpha 0.001", 1, "--alpha 0.001: .*100 draws"),
        ("--hospitals 3", 1, "--hospitals: expected 4.*got 3"),
        ("--by hospital --hospitals 5", 1, "--hospitals: expected 4.*got 5"),
        ("--by iid --hospitals 921", 1, r"--hospitals: expected at most .*\(920\), got 921"),
        ("--by iid --hospitals 1001", 2, "--hospitals: expected 1 to 1000, got 1001"),
        ("--by iid --hospitals 2147483647", 2, "--hospitals: expected 1 to 1000, got 2147483647"),
        ("--by iid --hospitals 2147483648", 2, "--hospitals: expected a whole number from 1, got '2147483648'"),
        ("--by iid --hospitals 0", 2, "--hospitals: expected a whole number from 1, got '0'"),
        ("--by iid --hospitals=-4", 2, "--hospitals: expected a whole number from 1, got '-4'"),
        ("--by iid --hospitals four", 2, "--hospitals: expected a whole number from 1, got 'four'"),
        ("--min-patients 0", 2, "--min-patients: expected a whole number from 1, got '0'"),
        ("--min-patients 1000", 1, "--min-patients: no hospital .* has 1000 different patients"),
        ("--by iid --hospitals 100 --min-patients 10", 1, "--min-patients: expected at least 10 .*got 8"),
        ("--by dirichlet --hospitals 100 --min-patients 10", 1, "--alpha 0.5: .*fewer than 10 patients"),
        ("--by iid --hospital-column cp", 2, "--hospital-column: .*got --by iid"),
        ("--hospital-column cp --hospitals 2", 2, "--hospitals: not allowed with --hospital-column"),
        ("--hospital-column cp --alpha 1", 2, "--alpha: .*--by dirichlet"),
        ("--hospital-column cp --ratios 2,1", 2, "--ratios: .*--by size"),
        ("--hospital-column cp --min-patients 0", 2, "--min-patients: expected a whole number from 1, got '0'"),
        ("--hospital-column cp --min-patients 900", 1, "--hospital-column cp: expected at least 2 groups of 900 "),
        ("--hospital-column ward", 1, "--hospital-column: expected a column .*: hospital, age, .*; got 'ward'"),
        ("--hospital-column CP", 1, "--hospital-column: .*got 'CP'.*cp is not CP"),
        ("--hospital-column=", 1, "--hospital-column: expected a column .*got ''"),
        ("--source heart.csv --hospital-column cp", 1, "--hospital-column cp: expected at least 2 groups of 8 "),
        ("--source readmission --hospital-column ward", 1, "--hospital-column: expected a column .*: hospital, age, "),
        ("--seed=-1", 2, "--seed: expected a whole number from 0 to 2147483647, got '-1'"),
        ("--seed 2147483648", 2, "--seed: expected a whole number from 0 to 2147483647, got '2147483648'"),
        ("--drop-invalid", 2, "--drop-invalid: expected a file.*got uci"),
        ("--task heart-disease", 2, "--task: expected a file.*got uci"),
        ("--source readmission --task-file own.toml", 2, "--task-file: expected a file.*got readmission"),
        (f"--task-file {STROKE}", 1, "heart_disease.csv: has no known layout"),
        ("--source readmission --drop-invalid", 2, "--drop-invalid: expected a file.*got readmission"),
        ("--patients 10", 2, "--patients: expected --source readmission, got uci"),
        ("--source uci --patients 10", 2, "--patients: expected --source readmission, got uci"),
        ("--source heart.csv --patients 10", 2, "--patients: expected --source readmission, got heart.csv"),
        ("--source readmission --patients 0", 2, "--patients: expected a whole number from 1, got '0'"),
        ("--source readmission --patients 1", 2, "--patients: expected 2 to 10000000, got 1"),
        ("--source readmission --patients 10000001", 2, "--patients: expected 2 to 10000000, got 10000001"),
        ("--source readmission --patients 3 --by iid", 1, r"--hospitals: expected at most .*\(3\), got 4"),
        ("--source nowhere.csv", 2, "--source: expected uci, diabetes, readmission, .*got 'nowhere.csv'"),
        ("--source UCI", 2, "--source: expected uci, diabetes, readmission, .*got 'UCI'"),
        (f"--source {'a' * 300}.csv", 2, "--source: expected .*got 'aaaa"),
        (f"--source {'a/' * 3000}", 2, "--source: expected .*got 'a/a/"),
        ("--source .", 1, "expected processed.cleveland.data"),
        ("--source /dev/null", 1, "/dev/null: cannot be read"),
        ("--source heart.csv --by hospital", 1, "--by hospital: "),
        ("--source heart.csv --hospitals 5", 1, r"--hospitals: expected at most .*\(4\), got 5"),
        ("--out heart.csv", 1, r"heart.csv: .*\(File exists\)"),
        ("--out heart.csv/data", 1, r"heart.csv/data: .*\(Not a directory\)"),
        (f"--out {'a' * 300}", 1, r"a: .*\(File name too long\)"),
        ("uci", 2, "unrecognized arguments: uci"),
        ("--hosp 4", 2, "unrecognized arguments: --hosp 4"),
    ],
)
def test_an_invalid_flag_is_rejected_in_one_line_and_nothing_is_written(
    create: RunScript, in_folder: Path, flags: str, code: int, pattern: str
) -> None:
    Path("heart.csv").write_text(HEART_CSV)

    result = create(flags)

    assert_one_line(result)
    assert (result.code, result.output) == (code, "")
    assert re.search(f"^error: .*{pattern}", result.error)
    assert [path.name for path in in_folder.rglob("*")] == ["heart.csv"]


@pytest.mark.parametrize(
    ("flags", "partition", "sizes"),
    [
        ("--by iid", {"by": "iid", "hospitals": 4}, [230] * 4),
        ("--by iid --hospitals 3", {"by": "iid", "hospitals": 3}, [307, 307, 306]),
        ("--by size --ratios 8,4,2,1", {"by": "size", "ratios": [8, 4, 2, 1]}, [491, 245, 123, 61]),
        ("--by size --ratios 2,1 --hospitals 2", {"by": "size", "hospitals": 2, "ratios": [2, 1]}, [613, 307]),
        ("--by dirichlet", {"by": "dirichlet", "hospitals": 4, "alpha": 0.5}, None),
        ("--by dirichlet --hospitals 2 --alpha 3", {"by": "dirichlet", "hospitals": 2, "alpha": 3.0}, None),
        ("--by hospital", {"by": "hospital"}, [303, 294, 123, 200]),
        ("--hospitals 4", {"by": "hospital", "hospitals": 4}, [303, 294, 123, 200]),
        ("--by iid --hospitals 1", {"by": "iid", "hospitals": 1}, [920]),
    ],
)
def test_a_partition_has_the_sizes_and_the_manifest_entry_of_its_flags(
    create: RunScript, flags: str, partition: dict[str, object], sizes: list[int] | None
) -> None:
    assert create(f"{flags} --seed 7").succeeded

    assert manifest_of()["partition"] == {"seed": 7, **partition}
    rows = [len(pd.read_csv(f"data/client_{number}.csv")) for number in range(1, len(hospitals_of()) + 1)]
    assert rows == [rows for _, rows in hospitals_of()]
    assert sum(rows) == 920
    assert sizes is None or rows == sizes
    names = ["cleveland", "hungary", "switzerland", "va-long-beach"]
    if partition["by"] != "hospital":
        names = [f"hospital-{number}" for number in range(1, len(rows) + 1)]
    assert [name for name, _ in hospitals_of()] == names


@pytest.mark.parametrize("by", ["iid", "dirichlet --alpha 2", "size --ratios 3,2,1", "hospital"])
@pytest.mark.parametrize("source", ["uci", "readmission --patients 300"])
def test_the_same_seed_writes_the_same_bytes(create: RunScript, source: str, by: str) -> None:
    for seed, folder in ((7, "first"), (7, "second"), (8, "other")):
        assert create(f"--source {source} --by {by} --seed {seed} --out {folder}").succeeded

    first, second, other = (
        {path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("first", "second", "other")
    )
    assert first == second
    assert {"client_1.csv", "client_2.csv", "manifest.json"} <= set(first)
    assert (first["client_1.csv"] == other["client_1.csv"]) is (source == "uci" and by == "hospital")


def test_example_patients_have_the_columns_of_the_task(create: RunScript) -> None:
    example = Path("data/example_patients.csv")
    create()
    assert "chol" in example.read_text()
    create("--source readmission")
    assert "hba1c" in example.read_text()


def test_a_task_of_one_s_own_has_no_example_patients_whatever_its_name(create: RunScript) -> None:
    create()
    declared = 'name = "heart-disease"\nlabel = { column = "died", meaning = "died" }\n'
    Path("own.toml").write_text(f'{declared}[columns.age]\nmeaning = "age"\nunit = "years"\nrange = [0, 120]\n')
    Path("own.csv").write_text("age,died\n" + "".join(f"{50 + row},{row % 2}\n" for row in range(40)))
    assert create("--source own.csv --task-file own.toml").succeeded
    assert not Path("data/example_patients.csv").exists()


def test_another_file_named_example_patients_is_not_overwritten(create: RunScript) -> None:
    own = Path("data/example_patients.csv")
    own.parent.mkdir()
    own.write_text("somebody's")
    assert create().succeeded
    assert own.read_text() == "somebody's"


def test_example_patients_that_cannot_be_written_are_one_error(create: RunScript) -> None:
    Path("data/example_patients.csv").mkdir(parents=True)
    assert_one_line(create(), "example_patients.csv: cannot be written (Is a directory)")


def test_the_table_shows_each_hospital_s_patients_and_labels(create: RunScript) -> None:
    result = create("--by size --ratios 915,5")

    assert result.succeeded
    lines = [line.split() for line in result.output.splitlines()]
    assert "920 patients\n" in result.output
    assert "num is disease: 0 -> 0, 1 -> 1, 2 -> 1, " in result.output
    assert ["heart-disease:", "2", "hospitals,", "by", "size"] in lines
    ill, healthy = (manifest_of()["hospitals"][0]["labels"][label] for label in ("1", "0"))
    assert ["client_1.csv", "hospital-1", "915", str(ill), str(healthy)] in lines
    assert ill + healthy == 915
    assert "1 hospital has fewer than 8 different patients" in result.output
    assert result.output.endswith("wrote data/manifest.json\n")


def test_the_table_shows_at_most_200_hospitals(create: RunScript) -> None:
    result = create("--by iid --hospitals 920")

    assert result.succeeded
    assert result.output.count("client_") == 200
    assert "... and 720 more\n" in result.output
    assert "920 hospitals have fewer than 8 different patients" in result.output
    assert len(list(Path("data").glob("client_*.csv"))) == 920
    assert hospitals_of()[::919] == [("hospital-001", 1), ("hospital-920", 1)]


@pytest.mark.parametrize("folder", ["[red]x", "[/b]", "a:smile:b", "ü", "a%sb"])
def test_a_folder_s_name_is_printed_without_markup(create: RunScript, folder: str) -> None:
    result = create(f"--out {folder}")

    assert result.succeeded
    assert result.output.endswith(f"wrote {folder}/manifest.json\n")


def test_a_chart_is_drawn_only_with_plot(create: RunScript) -> None:
    result = create("--plot")

    assert result.succeeded
    assert result.output.endswith("wrote data/manifest.json and partition.png\n")
    assert Path("data/partition.png").read_bytes().startswith(b"\x89PNG")
    assert create().output.endswith("wrote data/manifest.json\n")
    assert not Path("data/partition.png").exists()


def test_a_file_without_hospitals_is_divided_iid(create: RunScript) -> None:
    Path("heart.csv").write_text(HEART_CSV)
    result = create("--source heart.csv")

    assert result.succeeded
    assert "heart-disease: 4 patients\n" in result.output
    assert manifest_of()["source"]["name"] == "file"
    assert list(manifest_of()["source"]["files"]) == ["heart.csv"]
    assert manifest_of()["partition"] == {"by": "iid", "seed": 42, "hospitals": 4}
    assert hospitals_of() == [(f"hospital-{number}", 1) for number in range(1, 5)]
    assert create("--source heart.csv --hospitals 2").succeeded
    assert hospitals_of() == [("hospital-1", 2), ("hospital-2", 2)]


def test_a_file_with_hospitals_is_divided_by_hospital(create: RunScript) -> None:
    header, *rows = HEART_CSV.splitlines()
    named = [f"{name},{row}" for name, row in zip(("North", "South 2", "North", "North"), rows, strict=True)]
    Path("heart.csv").write_text("\n".join([f"hospital,{header}", *named]))

    assert create("--source heart.csv").succeeded
    assert hospitals_of() == [("north", 3), ("south-2", 1)]
    assert manifest_of()["partition"] == {"by": "hospital", "seed": 42}
    assert list(pd.read_csv("data/client_1.csv")["age"]) == [63, 37, 41]


def test_a_zip_is_read(create: RunScript) -> None:
    with zipfile.ZipFile("archive.zip", "w") as archive:
        archive.writestr("heart.csv", HEART_CSV)

    assert create("--source archive.zip --hospitals 1").succeeded
    assert hospitals_of() == [("hospital-1", 4)]


def test_a_folder_of_uci_files_is_read(create: RunScript) -> None:
    Path("uci").mkdir()  # the plain name uci means the included data set
    rows = HEART_CSV.splitlines()[1:]
    Path("uci/processed.cleveland.data").write_text("\n".join(rows[:3]))
    Path("uci/processed.va.data").write_text(rows[3])

    assert create("--source ./uci").succeeded
    assert hospitals_of() == [("cleveland", 3), ("va-long-beach", 1)]


def test_invalid_rows_are_dropped_only_with_drop_invalid_and_counted(create: RunScript) -> None:
    Path("heart.csv").write_text(HEART_CSV.replace("63,1,1", "630.25,1,1").replace("41,0,2", "41,0,X"))

    result = create("--source heart.csv --hospitals 1")
    assert (result.code, result.output) == (1, "")
    assert_one_line(result, "heart.csv: column age, row 1", "expected", "2 of 4 rows")
    assert "630.25" not in result.error
    assert not Path("data").exists()

    result = create("--source heart.csv --hospitals 1 --drop-invalid")
    assert result.succeeded
    assert "  rows that break a rule: 2 dropped\n" in result.output
    assert hospitals_of() == [("hospital-1", 2)]
    assert manifest_of()["source"]["dropped"]["rows that break a rule"] == 2


@pytest.mark.parametrize(("flags", "rows"), [("", 4000), ("--patients 50", 50), ("--patients 2", 2)])
def test_readmission_generates_the_requested_number_of_patients(create: RunScript, flags: str, rows: int) -> None:
    result = create(f"--source readmission {flags} --seed 3")

    assert result.succeeded
    source = manifest_of()["source"]
    assert (source["generated_patients"], source["generator_seed"]) == (rows, 3)
    assert f": {rows} patients\n" in result.output
    assert re.search(rf"Bayes-optimal ROC-AUC.*: {source['expected_bayes_optimal_roc_auc']}\n", result.output)
    assert sum(count for _, count in hospitals_of()) == rows
    assert [name for name, _ in hospitals_of()] == ["university", "community"]
    assert manifest_of()["task"] == "readmission"


def test_small_hospitals_are_left_out_and_named(create: RunScript) -> None:
    result = create("--min-patients 150")

    assert [name for name, _ in hospitals_of()] == ["cleveland", "hungary", "va-long-beach"]
    partition = manifest_of()["partition"]
    assert (partition["min_patients"], partition["left_out"]) == (150, {"switzerland": 123})
    assert "fewer than 150 different patients: switzerland (123 rows)" in result.output


def test_every_hospital_has_the_smallest_number_of_patients(create: RunScript) -> None:
    assert create("--by dirichlet --hospitals 6 --alpha 0.3 --min-patients 20").succeeded
    assert min(rows for _, rows in hospitals_of()) >= 20


def test_a_compressed_csv_is_read_like_its_content(create: RunScript) -> None:
    content = HEART_CSV.encode()
    Path("packed.csv.gz").write_bytes(gzip.compress(content))
    Path("heart.csv").write_bytes(content)

    assert create("--source packed.csv.gz --hospitals 1 --out packed").succeeded
    assert create("--source heart.csv --hospitals 1 --out plain").succeeded

    assert Path("packed/client_1.csv").read_bytes() == Path("plain/client_1.csv").read_bytes()
    assert list(manifest_of("packed")["source"]["files"]) == ["packed.csv.gz", "packed.csv"]


def test_the_diagnosis_of_uci_can_be_the_label(create: RunScript) -> None:
    result = create(f"--task-file {SEVERITY} --plot")

    assert result.succeeded
    assert manifest_of()["task"] == "heart-severity"
    assert [list(entry["labels"].values()) for entry in manifest_of()["hospitals"]] == [
        [164, 55, 36, 35, 13],
        [188, 106, 0, 0, 0],
        [8, 48, 32, 30, 5],
        [51, 56, 41, 42, 10],
    ]
    assert ["client_1.csv", "cleveland", "303", "164", "55", "36", "35", "13"] in map(
        str.split, result.output.splitlines()
    )
    assert Path("data/partition.png").exists()
    assert read_task_file(Path("data/task.toml")).agreement == read_task_file(SEVERITY).agreement
    assert create(f"--task-file {SEVERITY} --by dirichlet --hospitals 3").succeeded
    assert sum(rows for _, rows in hospitals_of()) == 920


def test_hospitals_of_a_number_have_no_classes(create: RunScript) -> None:
    declared = (
        'name = "stay"\n[label]\ncolumn = "stay"\nmeaning = "stay"\nkind = "number"\nunit = "days"\nrange = [0, 99]\n'
    )
    Path("own.toml").write_text(f'{declared}[columns.age]\nmeaning = "age"\nunit = "years"\nrange = [0, 120]\n')
    Path("own.csv").write_text("age,stay\n" + "".join(f"{50 + row},{row / 4}\n" for row in range(40)))
    result = create("--source own.csv --task-file own.toml --by dirichlet --hospitals 2 --plot")
    assert result.succeeded
    assert "stay = " not in result.output
    assert [entry["labels"] for entry in manifest_of()["hospitals"]] == [{}, {}]
    stays = pd.concat(pd.read_csv(f"data/client_{number}.csv") for number in (1, 2))["stay"]
    assert sorted(stays) == [row / 4 for row in range(40)]


def test_hospitals_too_small_for_several_classes_are_named(create: RunScript) -> None:
    assert "9 different patients" in create(f"--task-file {SEVERITY} --by size --ratios 912,8").output
    assert "cannot join" not in create(f"--task-file {SEVERITY} --by size --ratios 911,9").output


# A column of the data, and patients of several rows

STAYS = """
name = "stays"
[label]
column = "died"
meaning = "died"
[patient]
column = "id"
[columns.age]
meaning = "age"
unit = "years"
range = [0, 120]
"""


def write_stays(wards: Sequence[str], ids: Sequence[str], ages: Sequence[int]) -> str:
    """Write a file of stays and its task file; returns the flags that name them."""
    Path("stays.toml").write_text(STAYS)
    rows = {"id": ids, "ward": wards, "age": ages, "died": [number % 2 for number in range(len(ids))]}
    pd.DataFrame(rows).to_csv("stays.csv", index=False)
    return "--source stays.csv --task-file stays.toml"


def test_a_column_of_a_file_names_its_hospitals_and_what_is_merged_is_said(create: RunScript) -> None:
    wards = ["ICU 1"] * 10 + ["Surgery"] * 9 + ["Stroke unit"] * 2 + [""] * 7
    flags = write_stays(wards, [f"p{number}" for number in range(28)], range(28))

    result = create(f"{flags} --hospital-column ward --min-patients 6")

    assert result.succeeded
    assert hospitals_of() == [("ward-icu-1", 10), ("ward-surgery", 9), ("other", 9)]
    assert manifest_of()["partition"] == {
        "by": "hospital",
        "seed": 42,
        "column": "ward",
        "min_patients": 6,
        "patients_with_several_values": 0,
        "merged": {"missing": 7, "ward-stroke-unit": 2},
    }
    assert "merged into other" in result.output
    assert "missing (7), ward-stroke-unit (2)" in result.output
    assert "several values" not in result.output
    assert list(pd.read_csv("data/client_3.csv")["age"]) == [*range(19, 28)]


def test_patients_with_several_values_are_counted(create: RunScript) -> None:
    ids = [f"p{number // 2}" for number in range(10)] + list("abcdefghij")
    flags = write_stays(["north", "south"] * 10, ids, [50] * 20)

    result = create(f"{flags} --hospital-column ward --min-patients 1")

    assert manifest_of()["partition"]["patients_with_several_values"] == 5
    assert hospitals_of() == [("north", 15), ("south", 5)]
    assert [entry["patients"] for entry in manifest_of()["hospitals"]] == [10, 5]
    assert "5 patients have several values of ward" in result.output
    assert ["client_1.csv", "north", "10", "15"] in [line.split()[:4] for line in result.output.splitlines()]


def test_a_column_s_name_cannot_change_the_terminal(create: RunScript) -> None:
    ids = [f"p{number // 2}" for number in range(10)] + list("abcdefghij")
    flags = write_stays(["north", "south"] * 10, ids, [50] * 20)
    table = pd.read_csv("stays.csv").rename(columns={"ward": "ward\x1b[31m"})
    table.to_csv("stays.csv", index=False)

    result = create(f"{flags} --hospital-column ward\x1b[31m --min-patients 1")

    assert result.succeeded
    assert "5 patients have several values of ward?[31m" in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize("by", ["--by iid --hospitals 2", "--hospital-column ward --min-patients 1", ""])
def test_equal_rows_of_different_patients_are_reported_of_the_data_s_hospitals_only(create: RunScript, by: str) -> None:
    """The hospitals of the data may number the same patient differently; other partitions know who is who."""
    flags = write_stays(["north"] * 10 + ["south"] * 10, [f"p{number}" for number in range(20)], [50] * 20)
    table = pd.read_csv("stays.csv").assign(hospital=["north"] * 10 + ["south"] * 10)
    table.to_csv("stays.csv", index=False)

    result = create(f"{flags} {by}")

    assert result.succeeded
    assert ("are they the same patients?" in result.output) is (by == "")
    assert ("repeated_rows" in manifest_of()) is (by == "")


def test_two_hospitals_share_the_diabetes_stays_by_default(create: RunScript) -> None:
    result = create("--source diabetes")

    assert result.succeeded
    assert manifest_of()["partition"] == {"by": "iid", "seed": 42, "hospitals": 2}
    assert [entry["patients"] for entry in manifest_of()["hospitals"]] == [34994, 34993]
    assert sum(rows for _, rows in hospitals_of()) == 99340
    assert "99340 rows of 69987 patients" in result.output
    assert "are they the same patients?" not in result.output
    ids = [set(pd.read_csv(f"data/client_{number}.csv")["patient"]) for number in (1, 2)]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize(
    ("flags", "hospitals"), [("", 2), ("--by dirichlet --alpha 100", 2), ("--by iid --hospitals 3", 3)]
)
def test_two_hospitals_share_a_copy_of_the_diabetes_stays_by_default(
    create: RunScript, flags: str, hospitals: int
) -> None:
    made_up = made_up_stays()
    copies = [
        made_up.assign(encounter_id=made_up["encounter_id"] + str(time), patient_nbr=made_up["patient_nbr"] + str(time))
        for time in range(9)
    ]
    pd.concat(copies).to_csv("diabetic_data.csv", index=False)

    assert create(f"--source diabetic_data.csv {flags}").succeeded
    assert len(hospitals_of()) == hospitals


def test_a_copy_of_the_diabetes_stays_is_divided_by_uci_s_columns(create: RunScript) -> None:
    """Rows that the task leaves out are left out of the columns, too: the patient of the stay 1450, who died."""
    made_up_stays().to_csv("diabetic_data.csv", index=False)

    result = create("--source diabetic_data.csv --hospital-column medical_specialty --min-patients 1")

    assert result.succeeded
    assert hospitals_of() == [("missing", 6), ("internalmedicine", 1)]  # the stay 1500 is its patient's second
    assert manifest_of()["partition"]["patients_with_several_values"] == 1
