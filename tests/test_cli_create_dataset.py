"""create_dataset.py as a user meets it: what it writes, prints and refuses."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.script_calls import Run, Show, assert_one_line

BEST = "expected_bayes_optimal_roc_auc"


@pytest.fixture
def create(show: Show) -> Show:
    """Runs create_dataset.py with arguments as they are typed; returns its exit code, stdout and stderr."""
    return lambda typed="": show("create_dataset.py", *typed.split())


def test_create_dataset_writes_four_hospitals_in_order(run: Run) -> None:
    Path("data").mkdir()
    assert run("create_dataset.py", "--seed", 7)[0] == 0
    manifest = json.loads(Path("data/manifest.json").read_text())
    assert [(entry["file"], entry["name"], entry["rows"]) for entry in manifest["hospitals"]] == [
        ("client_1.csv", "cleveland", 303),
        ("client_2.csv", "hungary", 294),
        ("client_3.csv", "switzerland", 123),
        ("client_4.csv", "va-long-beach", 200),
    ]
    assert manifest["partition"] == {"by": "hospital", "seed": 7}
    assert run("create_dataset.py")[0] == 0  # its own files may be written anew


def test_create_dataset_does_not_overwrite_what_is_not_its_own(run: Run) -> None:
    Path("data").mkdir()
    Path("data/client_9.csv").write_text("mine\n")
    assert_one_line(run("create_dataset.py"), "client_9.csv", "--force")
    assert [path.name for path in Path("data").iterdir()] == ["client_9.csv"]
    assert run("create_dataset.py", "--force")[0] == 0
    assert not Path("data/client_9.csv").exists()


HEART_CSV = """age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,disease
63,1,1,145,233,1,2,150,0,2.3,3,0,6,0
67,1,4,160,286,0,2,108,1,1.5,2,3,3,1
37,1,3,130,250,0,0,187,0,3.5,3,0,3,0
41,0,2,130,204,0,2,172,0,1.4,1,0,3,0
"""


def manifest_of(folder: str = "data") -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(Path(folder, "manifest.json").read_text())
    return manifest


def hospitals_of(folder: str = "data") -> list[tuple[str, int]]:
    return [(entry["name"], entry["rows"]) for entry in manifest_of(folder)["hospitals"]]


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        ("--by random", 2, "argument --by: invalid choice: 'random'"),
        ("--by size", 2, "--ratios: --by size needs it"),
        ("--by size --hospitals 3", 2, "--ratios: --by size needs it"),
        ("--by size --ratios 2,1 --hospitals 3", 2, "--hospitals: expected 2, as in --ratios, got 3"),
        ("--by size --ratios 2,0", 2, "argument --ratios: expected numbers above 0 between commas"),
        ("--by size --ratios 2,nan", 2, "argument --ratios: expected numbers above 0 between commas"),
        ("--by size --ratios 1e999,1", 2, "argument --ratios: expected numbers above 0 between commas"),
        ("--by size --ratios 2,", 2, "argument --ratios: expected numbers above 0 between commas"),
        ("--by size --ratios 2;1", 2, "argument --ratios: expected numbers above 0 between commas"),
        ("--by size --ratios 2,1 --alpha 1", 2, "--alpha: goes with --by dirichlet only"),
        ("--by size --ratios 1e-300,1", 1, "--ratios: of 920 patients a hospital would get none"),
        ("--by size --ratios 10000,1", 1, "--ratios: of 920 patients a hospital would get none"),
        ("--ratios 2,1", 2, "--ratios: goes with --by size only"),
        ("--alpha 1", 2, "--alpha: goes with --by dirichlet only"),
        ("--by iid --alpha 1", 2, "--alpha: goes with --by dirichlet only"),
        ("--by dirichlet --ratios 2,1", 2, "--ratios: goes with --by size only"),
        ("--by dirichlet --alpha 0", 2, "--alpha: expected 0.001 to 1e+06, got 0"),
        ("--by dirichlet --alpha=-1", 2, "--alpha: expected 0.001 to 1e+06, got -1"),
        ("--by dirichlet --alpha nan", 2, "--alpha: expected 0.001 to 1e+06, got nan"),
        ("--by dirichlet --alpha inf", 2, "--alpha: expected 0.001 to 1e+06, got inf"),
        ("--by dirichlet --alpha half", 2, "argument --alpha: expected a number, got 'half'"),
        ("--by dirichlet --hospitals 60 --alpha 0.001", 1, "--alpha 0.001: in 100 draws a hospital was left without"),
        ("--hospitals 3", 1, "--hospitals: expected 4, as in the data, got 3; see --by"),
        ("--by hospital --hospitals 5", 1, "--hospitals: expected 4, as in the data, got 5; see --by"),
        ("--by iid --hospitals 921", 1, "--hospitals: expected at most one per patient (920), got 921"),
        ("--by iid --hospitals 1001", 2, "--hospitals: expected 1 to 1000, got 1001"),
        ("--by iid --hospitals 2147483647", 2, "--hospitals: expected 1 to 1000, got 2147483647"),
        (
            "--by iid --hospitals 2147483648",
            2,
            "expected a whole number from 1, got '2147483648'",
        ),
        ("--by iid --hospitals 0", 2, "argument --hospitals: expected a whole number from 1, got '0'"),
        ("--by iid --hospitals=-4", 2, "argument --hospitals: expected a whole number from 1, got '-4'"),
        ("--by iid --hospitals four", 2, "argument --hospitals: expected a whole number from 1, got 'four'"),
        ("--seed=-1", 2, "argument --seed: expected a whole number from 0 to 2147483647, got '-1'"),
        ("--seed 2147483648", 2, "argument --seed: expected a whole number from 0 to 2147483647, got '2147483648'"),
        ("--drop-invalid", 2, "--drop-invalid goes with a file"),
        ("--source readmission --drop-invalid", 2, "--drop-invalid goes with a file"),
        ("--patients 10", 2, "--patients goes with --source readmission"),
        ("--source uci --patients 10", 2, "--patients goes with --source readmission"),
        ("--source heart.csv --patients 10", 2, "--patients goes with --source readmission"),
        ("--source readmission --patients 0", 2, "argument --patients: expected a whole number from 1, got '0'"),
        ("--source readmission --patients 1", 2, "--patients: expected 2 to 10000000, got 1"),
        ("--source readmission --patients 10000001", 2, "--patients: expected 2 to 10000000, got 10000001"),
        ("--source readmission --patients 3 --by iid", 1, "--hospitals: expected at most one per patient (3), got 4"),
        ("--source nowhere.csv", 2, "expected uci, readmission, or a file, zip or folder; there is no nowhere.csv"),
        ("--source UCI", 2, "expected uci, readmission, or a file, zip or folder; there is no UCI"),
        (f"--source {'a' * 300}.csv", 2, "or a file, zip or folder; there is no aaaa"),
        (f"--source {'a/' * 3000}", 2, "or a file, zip or folder; there is no a/a/"),
        ("--source .", 1, "expected processed.cleveland.data"),
        ("--source /dev/null", 1, "/dev/null: is empty"),
        (
            "--source heart.csv --by hospital",
            1,
            "--by hospital: the data does not say which hospital a patient is from",
        ),
        ("--source heart.csv --hospitals 5", 1, "--hospitals: expected at most one per patient (4), got 5"),
        ("--out heart.csv", 1, "heart.csv: cannot be written to (File exists)"),
        ("--out heart.csv/data", 1, "heart.csv/data: cannot be written to (Not a directory)"),
        (f"--out {'a' * 300}", 1, "cannot be written to (File name too long)"),
        ("uci", 2, "unrecognized arguments: uci"),
        ("--hosp 4", 2, "unrecognized arguments: --hosp 4"),
    ],
)
def test_create_dataset_refuses_what_cannot_be_in_one_line_and_writes_nothing(
    create: Show, in_folder: Path, typed: str, code: int, words: str
) -> None:
    Path("heart.csv").write_text(HEART_CSV)

    ended, printed, said = create(typed)

    assert (ended, printed) == (code, "")
    *usage, line = said.splitlines()
    assert words in line
    assert not usage or usage[0].startswith("usage: create_dataset.py ")  # argparse's own lines
    assert "error: " in line
    assert [path.name for path in in_folder.rglob("*")] == ["heart.csv"]


@pytest.mark.parametrize(
    ("typed", "partition", "sizes"),
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
def test_create_dataset_divides_as_it_is_told_and_says_so_in_the_manifest(
    create: Show, typed: str, partition: dict[str, object], sizes: list[int] | None
) -> None:
    assert create(f"{typed} --seed 7")[::2] == (0, "")

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
def test_create_dataset_writes_the_same_bytes_for_the_same_seed(create: Show, source: str, by: str) -> None:
    for seed, folder in ((7, "one"), (7, "two"), (8, "other")):
        assert create(f"--source {source} --by {by} --seed {seed} --out {folder}")[0] == 0

    one, two, other = (
        {path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("one", "two", "other")
    )
    assert one == two
    assert {"client_1.csv", "client_2.csv", "manifest.json"} <= set(one)
    assert (one["client_1.csv"] == other["client_1.csv"]) is (source == "uci" and by == "hospital")


def test_create_dataset_writes_example_patients_of_the_task(create: Show) -> None:
    example = Path("data/example_patients.csv")
    create()
    assert "chol" in example.read_text()
    create("--source readmission")
    assert "hba1c" in example.read_text()


def test_create_dataset_leaves_a_file_of_the_name_of_its_example_patients_alone(create: Show) -> None:
    own = Path("data/example_patients.csv")
    own.parent.mkdir()
    own.write_text("somebody's")
    assert create()[0] == 0
    assert own.read_text() == "somebody's"


def test_create_dataset_prints_who_has_what(create: Show) -> None:
    code, printed, said = create("--by size --ratios 915,5")

    assert (code, said) == (0, "")
    lines = [line.split() for line in printed.splitlines()]
    assert printed.startswith("UCI's heart disease table: 920 patients\n  num is disease: 0 -> 0, 1 -> 1, 2 -> 1, ")
    assert ["heart-disease:", "2", "hospitals,", "by", "size"] in lines
    ill, healthy = (manifest_of()["hospitals"][0]["labels"][label] for label in ("1", "0"))
    assert ["client_1.csv", "hospital-1", "915", str(ill), str(healthy)] in lines
    assert ill + healthy == 915
    assert printed.endswith("1 of them has fewer than 8 patients, and may not join\nwrote data/manifest.json\n")


def test_create_dataset_prints_two_hundred_of_many_hospitals(create: Show) -> None:
    code, printed, said = create("--by iid --hospitals 920")

    assert (code, said) == (0, "")
    assert printed.count("client_") == 200
    assert "... and 720 more\n" in printed
    assert "920 of them have fewer than 8 patients, and may not join\n" in printed
    assert len(list(Path("data").glob("client_*.csv"))) == 920
    assert hospitals_of()[::919] == [("hospital-001", 1), ("hospital-920", 1)]


@pytest.mark.parametrize("folder", ["[red]x", "[/b]", "a:smile:b", "ü", "a%sb"])
def test_create_dataset_shows_a_folder_as_it_is_called(create: Show, folder: str) -> None:
    code, printed, said = create(f"--out {folder}")

    assert (code, said) == (0, "")
    assert printed.endswith(f"wrote {folder}/manifest.json\n")


def test_create_dataset_draws_when_asked(create: Show) -> None:
    code, printed, said = create("--plot")

    assert (code, said) == (0, "")
    assert printed.endswith("wrote data/manifest.json and partition.png\n")
    assert Path("data/partition.png").read_bytes().startswith(b"\x89PNG")
    assert create()[1].endswith("wrote data/manifest.json\n")
    assert not Path("data/partition.png").exists()


def test_create_dataset_reads_a_file_without_hospitals_and_deals_it_out(create: Show) -> None:
    Path("heart.csv").write_text(HEART_CSV)
    code, printed, said = create("--source heart.csv")

    assert (code, said) == (0, "")
    assert printed.startswith("the columns of the task heart-disease: 4 patients\n")
    assert manifest_of()["source"]["name"] == "file"
    assert list(manifest_of()["source"]["files"]) == ["heart.csv"]
    assert manifest_of()["partition"] == {"by": "iid", "seed": 42, "hospitals": 4}
    assert hospitals_of() == [(f"hospital-{number}", 1) for number in range(1, 5)]
    assert create("--source heart.csv --hospitals 2")[0] == 0
    assert hospitals_of() == [("hospital-1", 2), ("hospital-2", 2)]


def test_create_dataset_reads_a_file_with_hospitals_by_hospital(create: Show) -> None:
    header, *rows = HEART_CSV.splitlines()
    named = [f"{name},{row}" for name, row in zip(("North", "South 2", "North", "North"), rows, strict=True)]
    Path("heart.csv").write_text("\n".join([f"hospital,{header}", *named]))

    assert create("--source heart.csv")[::2] == (0, "")
    assert hospitals_of() == [("north", 3), ("south-2", 1)]
    assert manifest_of()["partition"] == {"by": "hospital", "seed": 42}
    assert list(pd.read_csv("data/client_1.csv")["age"]) == [63, 37, 41]


def test_create_dataset_reads_a_zip(create: Show) -> None:
    with zipfile.ZipFile("archive.zip", "w") as archive:
        archive.writestr("heart.csv", HEART_CSV)

    assert create("--source archive.zip --hospitals 1")[::2] == (0, "")
    assert hospitals_of() == [("hospital-1", 4)]


def test_create_dataset_reads_a_folder_of_uci_s_files(create: Show) -> None:
    Path("uci").mkdir()  # the data set of that name comes first, so the folder is given as ./uci
    rows = HEART_CSV.splitlines()[1:]
    Path("uci/processed.cleveland.data").write_text("\n".join(rows[:3]))
    Path("uci/processed.va.data").write_text(rows[3])

    assert create("--source ./uci")[::2] == (0, "")
    assert hospitals_of() == [("cleveland", 3), ("va-long-beach", 1)]


def test_create_dataset_leaves_invalid_rows_out_when_asked_and_counts_them(create: Show) -> None:
    Path("heart.csv").write_text(HEART_CSV.replace("63,1,1", "630.25,1,1").replace("41,0,2", "41,0,X"))

    code, printed, said = create("--source heart.csv --hospitals 1")
    assert (code, printed) == (1, "")
    assert said == (
        "error: heart.csv: column age, row 1: expected a number from 0 to 120 (years), or empty; "
        "2 of 4 rows break a rule\n"
    )
    assert not Path("data").exists()

    code, printed, said = create("--source heart.csv --hospitals 1 --drop-invalid")
    assert (code, said) == (0, "")
    assert "  rows that break a rule: 2 dropped\n" in printed
    assert hospitals_of() == [("hospital-1", 2)]
    assert manifest_of()["source"]["dropped"]["rows that break a rule"] == 2


@pytest.mark.parametrize(("flags", "rows"), [("", 4000), ("--patients 50", 50), ("--patients 2", 2)])
def test_create_dataset_generates_as_many_patients_as_asked_for(create: Show, flags: str, rows: int) -> None:
    code, printed, said = create(f"--source readmission {flags} --seed 3")

    assert (code, said) == (0, "")
    source = manifest_of()["source"]
    assert (source["generated_patients"], source["generator_seed"]) == (rows, 3)
    best = f"Bayes-optimal ROC-AUC, expected over the labels of all these patients: {source[BEST]}"
    assert printed.startswith(f"generated records of diabetes patients: {rows} patients\n  {best}\n")
    assert sum(count for _, count in hospitals_of()) == rows
    assert [name for name, _ in hospitals_of()] == ["university", "community"]
    assert manifest_of()["task"] == "readmission"
