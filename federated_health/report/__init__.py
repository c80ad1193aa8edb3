"""Reports: one self-contained HTML page each, its charts, and the files of a run.

Pages and charts load when there are results to show, through `load`. May import `messages` and everything below.
"""

import sys
from types import ModuleType


def load() -> ModuleType:
    """This package with the modules that write a run's files and report."""
    from federated_health.report import (  # noqa: F401, PLC0415  # the loader of this folder
        page,
        run_files,
        run_page,
        svg,
    )

    return sys.modules[__name__]


def load_saved_model() -> ModuleType:
    """The module `saved_model`."""
    from federated_health.report import saved_model  # noqa: PLC0415  # the loader of this folder

    return saved_model
