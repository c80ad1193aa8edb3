"""Reports as self-contained HTML pages, their charts, and the saved model of a run.

Pages and charts load when there are results to show, through `load`. May import `messages` and everything below.
"""

import sys
from types import ModuleType


def load() -> ModuleType:
    """This package with the modules that write a run's report and model."""
    from federated_health.report import run_page, saved_model, svg  # noqa: F401, PLC0415  # the loader

    return sys.modules[__name__]
