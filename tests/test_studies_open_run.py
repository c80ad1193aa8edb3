"""Settings of runs in this process."""

import pytest

from federated_health.settings import Settings
from federated_health.studies.study import open_run
from tests.support.audits import hospitals_of


@pytest.mark.usefixtures("server_identity")
def test_a_run_in_process_does_not_wait_and_limits_no_update() -> None:
    from client import app

    settings = open_run(hospitals_of({"a": 8, "b": 8}), Settings(), app).settings

    assert (settings.hospitals, settings.appraisal) == (2, False)
    assert settings.wait < 1  # in process, a hospital that is not there will not come later
    assert settings.max_update_norm == 0  # an honest hospital with few patients may move far
