"""How many hospitals one server takes: a connection is an open file, of which a process may have only so many."""

from contextlib import suppress

from federated_health.errors import SettingsError

MAX_STREAMS = 2_000
"""Hospitals at one time."""

MAX_CONNECTIONS = MAX_STREAMS + 500
"""At one time; more are closed at once. Beyond those of hospitals there are some for who comes back from a cut that the
server has not noticed yet, and for strangers, who should not fill it."""

OTHER_FILES = 100
"""That a server may have open beside its connections."""


def open_files(wanted: int) -> int:
    """Ask the system for so many open files, as far as it allows a process to ask.

    Returns:
        How many this process may open.
    """
    with suppress(ImportError):  # Windows has no such limit on connections
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        enough = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < enough:
            with suppress(OSError, ValueError):  # some systems allow less than they say
                resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
                return enough
        return wanted if soft == resource.RLIM_INFINITY else soft
    return wanted


def max_connections() -> int:
    """That this process may have at one time."""
    return max(1, min(MAX_CONNECTIONS, open_files(MAX_CONNECTIONS + OTHER_FILES) - OTHER_FILES))


def max_streams() -> int:
    """Hospitals that this process has room for; some connections are left for others."""
    return max(1, min(MAX_STREAMS, max_connections() * MAX_STREAMS // MAX_CONNECTIONS))


def check_room(hospitals: int) -> None:
    """Refuse to wait for more hospitals than could ever be connected.

    Raises:
        SettingsError: says how many there is room for, and why.
    """
    room = max_streams()
    if hospitals <= room:
        return
    why = "" if room == MAX_STREAMS else f": this process may have {open_files(0)} files open (see `ulimit -n`)"
    raise SettingsError(f"hospitals: expected at most {room}, which one server has room for{why}; got {hospitals}")
