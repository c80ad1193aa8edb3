"""Charts of a label that is a quantity as SVG."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from federated_health.report import svg
from federated_health.report.charts import Floats, draw_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_quantity_calibration(groups: Mapping[str, Floats], *, quantity: str, lowest: float | None = None) -> str:
    """Mean prediction (x) and mean observation (y) of each group of patients; a larger point has more patients.

    Args:
        groups: name of a panel -> [groups, 3]: patients, mean prediction, mean observation.
        quantity: name of both axes.
        lowest: smallest possible value, below which no axis starts; None if there is none.
    """
    most = max(float(part[:, 0].max()) for part in groups.values())
    low, high = svg.limits_of(np.concatenate([part[:, 1:].ravel() for part in groups.values()]).tolist())
    low = low if lowest is None else max(low, lowest)

    def draw(axes: "Axes", part: Floats) -> None:
        patients, predicted, observed = part.T
        style: dict[str, Any] = {"color": svg.SERIES[0], "linewidth": 0, "clip_on": False, "zorder": 3}
        axes.scatter(predicted, observed, s=5 + 45 * patients / most, **style)

    y_title = f"observed {quantity}; a larger point has more patients"
    return draw_panels(groups, draw, f"predicted {quantity}", y_title, (low, high))
