"""The made-up patients of the worked example in docs/task-files.md."""

from pathlib import Path

import numpy as np
import pandas as pd


def write_strokes(path: Path) -> pd.DataFrame:
    """Write a CSV with 2,000 patients and their outcome; returns its table."""
    generator = np.random.default_rng(1)
    age, systolic = generator.integers(30, 90, 2000), generator.integers(100, 200, 2000)
    smoker = generator.choice(["0", "1", "2", ""], 2000)
    stroke = (age + systolic + 30 * (smoker == "2") > 220 + generator.normal(0, 10, 2000)).astype(int)
    sex = generator.integers(0, 2, 2000)
    table = pd.DataFrame({"age": age, "sex": sex, "systolic": systolic, "smoker": smoker, "stroke": stroke})
    table.to_csv(path, index=False)
    return table
