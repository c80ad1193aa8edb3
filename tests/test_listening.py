"""How many hospitals a server has room for, under the limits that a system sets a process."""

import resource

import pytest

from federated_health.errors import SettingsError
from federated_health.transport import listening


class System:
    """Limits on open files, which are the tests' own."""

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


def under(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int = 10**9) -> System:
    system = System(soft, hard, most)
    monkeypatch.setattr(resource, "getrlimit", system.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", system.setrlimit)
    return system


def test_a_usual_process_asks_for_more_files_and_has_room_for_two_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    system = under(monkeypatch, 1024, 4096)
    assert listening.max_connections() == 2500
    assert system.limits == (2600, 4096)
    assert listening.max_streams() == 2000
    listening.check_room(2000)
    with pytest.raises(SettingsError, match=r"^hospitals: expected at most 2000.*got 2001$"):
        listening.check_room(2001)


def test_a_limit_that_is_high_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    system = under(monkeypatch, 20_000, 20_000)
    assert listening.max_connections() == 2500
    assert system.limits == (20_000, 20_000)


@pytest.mark.parametrize("soft", [256, resource.RLIM_INFINITY])
def test_no_limit_is_no_limit(soft: int, monkeypatch: pytest.MonkeyPatch) -> None:
    under(monkeypatch, soft, resource.RLIM_INFINITY)
    assert (listening.max_connections(), listening.max_streams()) == (2500, 2000)


def test_a_hard_limit_leaves_less_room_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    under(monkeypatch, 256, 1024)
    assert listening.max_connections() == 924
    assert listening.max_streams() == 739  # 924 * 2000 / 2500 = 739.2
    with pytest.raises(SettingsError, match=r"^hospitals: expected at most 739.*1024 files.*ulimit -n.*got 740$"):
        listening.check_room(740)


def test_a_system_that_allows_less_than_it_says_leaves_the_limit_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    system = under(monkeypatch, 1024, 4096, most=2000)
    assert listening.max_connections() == 924
    assert system.limits == (1024, 4096)


def test_there_is_always_room_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    under(monkeypatch, 64, 64)
    assert (listening.max_connections(), listening.max_streams()) == (1, 1)
