"""Example data that comes with the package: the heart disease table, and made-up patients of each task to score."""

from pathlib import Path

FOLDER = Path(__file__).parent

HEART_DISEASE_TABLE = FOLDER / "heart_disease.csv"
"""920 patients of four hospitals."""

DIABETES_STAYS = FOLDER / "diabetes_stays.csv.gz"
"""Columns of UCI's Diabetes 130-US Hospitals: 101,766 stays in order of `encounter_id`, patients numbered."""


def find_example_patients(task: str) -> Path | None:
    """CSV of patients without outcome for a task of this name; None if there is none."""
    path = FOLDER / f"patients_{task.replace('-', '_')}.csv"
    return path if path.exists() else None
