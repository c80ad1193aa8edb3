"""The partition chart: areas of colours are proportional to numbers of patients."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from federated_health.data.partition_chart import CLASSES, MAX_NAMES, NEGATIVE, POSITIVE, draw_partition


def entries(*labels: tuple[int, int]) -> list[dict[str, Any]]:
    """Hospitals of a manifest, by their patients without and with the label."""
    return [
        {"name": f"hospital-{number}", "rows": healthy + ill, "labels": {"0": healthy, "1": ill}}
        for number, (healthy, ill) in enumerate(labels, start=1)
    ]


def pixels(path: Path, color: Any) -> np.ndarray[Any, Any]:
    """[height, width], where the picture has this colour."""
    found: np.ndarray[Any, Any] = np.all(np.abs(imread(path)[..., :3] - to_rgb(color)) < 0.01, axis=-1)
    return found


def draw(folder: Path, hospitals: Sequence[dict[str, Any]]) -> Path:
    path = folder / "picture.png"
    draw_partition(path, "task: what is predicted", hospitals)
    return path


@pytest.mark.parametrize("count", [1, MAX_NAMES, 1000])
def test_the_chart_is_a_png_that_fits_a_screen(tmp_path: Path, count: int) -> None:
    content = draw(tmp_path, entries(*[(i % 7, 1 + i % 5) for i in range(count)])).read_bytes()

    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert 700 <= width <= 1600
    assert 150 <= height <= 2000


@pytest.mark.parametrize("count", [3, MAX_NAMES + 1])
def test_the_area_of_a_colour_is_proportional_to_its_patients(tmp_path: Path, count: int) -> None:
    path = draw(tmp_path, entries(*[(100, 300)] * count))

    warm, cold = (pixels(path, color)[:-60].sum() for color in (POSITIVE, NEGATIVE))  # the legend is below
    assert cold > 5000
    assert warm / cold == pytest.approx(3, rel=0.05)


def test_bars_are_proportional_to_sizes_with_the_first_hospital_on_top(tmp_path: Path) -> None:
    path = draw(tmp_path, entries((100, 100), (50, 50), (0, 25)))

    lengths = (pixels(path, POSITIVE) | pixels(path, NEGATIVE))[:-60].sum(axis=1)
    found = [int(length) for length in dict.fromkeys(lengths.tolist()) if length > 20]
    assert np.array(found) / found[0] == pytest.approx([1, 0.5, 0.125], abs=0.02)


def test_many_hospitals_are_drawn_side_by_side_in_order(tmp_path: Path) -> None:
    path = draw(tmp_path, entries(*[(i, 0) for i in range(1, 51)]))

    heights = pixels(path, NEGATIVE)[:-60].sum(axis=0)
    heights = heights[heights > 0]
    assert (np.diff(heights[2:-2]) >= -1).all()
    assert heights[-3] > 20 * heights[2]


def test_the_same_hospitals_give_the_same_bytes(tmp_path: Path) -> None:
    hospitals = entries((10, 20), (1, 0))

    assert draw(tmp_path, hospitals).read_bytes() == draw(tmp_path, hospitals).read_bytes()


@pytest.mark.parametrize("count", [3, MAX_NAMES + 1])
def test_several_classes_have_colours_of_their_own(tmp_path: Path, count: int) -> None:
    hospitals = [{"name": f"h{i}", "rows": 100, "labels": {"0": 10, "1": 30, "7": 60}} for i in range(count)]
    path = draw(tmp_path, hospitals)

    first, middle, last = (pixels(path, colour)[:-60].sum() for colour in colormaps[CLASSES]([0.0, 0.5, 1.0])[:, :3])
    assert middle / first == pytest.approx(3, rel=0.05)
    assert last / first == pytest.approx(6, rel=0.05)


@pytest.mark.parametrize("count", [3, MAX_NAMES + 1])
def test_of_a_quantity_only_sizes_are_drawn(tmp_path: Path, count: int) -> None:
    hospitals: list[dict[str, Any]] = [{"name": f"h{i}", "rows": 100, "labels": {}} for i in range(count)]
    path = draw(tmp_path, hospitals)

    assert pixels(path, NEGATIVE)[:-60].sum() > 20_000
    assert not pixels(path, POSITIVE).any()
