"""Reports: one self-contained HTML page each, its charts, and the files of a run.

Pages and charts load when there are results to show, through `load`. May import `messages` and everything below.
"""

import sys
from types import ModuleType


def load() -> ModuleType:
    """This package with `page`, `run_page` and `svg`."""
    from federated_health.report import page, run_page, svg  # noqa: F401, PLC0415  # the loader of this folder

    return sys.modules[__name__]
