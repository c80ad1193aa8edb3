"""The number of hospitals that a server can serve under the system's limits on open files."""

import resource

import pytest

from federated_health.errors import SettingsError
from federated_health.transport import listening


class System:
    """A system with limits on open files. It allows fewer than its hard limit if `most` is smaller."""

    def __init__(self, soft: int, hard: int, most: int = 10**9) -> None:
        self.limits = soft, hard
        self.most = most

    def getrlimit(self, kind: int) -> tuple[int, int]:
        assert kind == resource.RLIMIT_NOFILE
        return self.limits

    def setrlimit(self, kind: int, limits: tuple[int, int]) -> None:
        assert kind == resource.RLIMIT_NOFILE
        if limits[0] > min(limits[1] if limits[1] >= 0 else self.most, self.most) or limits[1] != self.limits[1]:
            raise ValueError("not allowed")
        self.limits = limits


def system_with(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int = 10**9) -> System:
    system = System(soft, hard, most)
    monkeypatch.setattr(resource, "getrlimit", system.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", system.setrlimit)
    return system


def test_a_process_raises_its_limit_and_serves_two_thousand_hospitals(monkeypatch: pytest.MonkeyPatch) -> None:
    system = system_with(monkeypatch, 1024, 4096)
    assert listening.max_connections() == 2500
    assert system.limits == (2600, 4096)
    assert listening.max_streams() == 2000
    listening.check_room(2000)
    with pytest.raises(SettingsError, match=r"at most 2000.*got 2001"):
        listening.check_room(2001)


def test_a_sufficient_limit_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    system = system_with(monkeypatch, 20_000, 20_000)
    assert listening.max_connections() == 2500
    assert system.limits == (20_000, 20_000)


@pytest.mark.parametrize("soft", [256, resource.RLIM_INFINITY])
def test_an_unlimited_process_serves_two_thousand_hospitals(soft: int, monkeypatch: pytest.MonkeyPatch) -> None:
    system_with(monkeypatch, soft, resource.RLIM_INFINITY)
    assert (listening.max_connections(), listening.max_streams()) == (2500, 2000)


def test_a_hard_limit_reduces_the_number_of_hospitals_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    system_with(monkeypatch, 256, 1024)
    assert listening.max_connections() == 924
    assert listening.max_streams() == 739  # 924 * 2000 / 2500 = 739.2
    with pytest.raises(SettingsError, match=r"at most 739.*got 740.*1024 files.*ulimit -n"):
        listening.check_room(740)


def test_the_limit_stays_if_the_system_refuses_to_raise_it(monkeypatch: pytest.MonkeyPatch) -> None:
    system = system_with(monkeypatch, 1024, 4096, most=2000)
    assert listening.max_connections() == 924
    assert system.limits == (1024, 4096)


def test_at_least_one_hospital_can_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    system_with(monkeypatch, 64, 64)
    assert (listening.max_connections(), listening.max_streams()) == (1, 1)
