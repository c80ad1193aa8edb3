"""Keeps a hospital's SuperNode running: Flower's own ends for good where the SuperLink does not let it in.

That is so until `superlink` has registered the hospital, when a SuperLink was started anew, and for up to a minute
after a node was killed: so long the SuperLink takes the earlier process for one that is there.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from federated_health.errors import JoinError, RunError
from federated_health.processes import process
from federated_health.security.identity import Identity
from federated_health.transport.reconnect import find_obstacle

FIRST_PAUSE, MAX_PAUSE = 2.0, 30.0
"""Seconds between two attempts; each pause is twice the one before."""

STEADY = 30.0
"""Seconds after which a node that ended is taken to have been let in."""

WRONG_USAGE = 2


def keep_running(
    make_command: Callable[[], Sequence[str]],
    env: Mapping[str, str],
    address: str,
    identity: Identity,
    wait: float,
    say: Callable[[str], None],
) -> NoReturn:
    """Run a SuperNode until this process is stopped, and start it again whenever it ends.

    Its code does not say why it ended: where a SuperLink was started anew, Flower's node ends with 0, too.

    Args:
        make_command: Flower's command, anew for every start.
        address: HOST:PORT of the SuperLink.
        wait: seconds that the SuperLink may be away, or not let the hospital in; anew each time that it was in.

    Raises:
        JoinError: it was so for longer, or waiting does not help.
        RunError: Flower does not take the command.
    """
    deadline, pause = time.monotonic() + wait, FIRST_PAUSE
    while True:
        _wait_for_superlink(address, identity, deadline, wait, say)
        began = time.monotonic()
        with process(make_command(), env=env, own_group=False) as running:
            code = running.wait()
        if code == WRONG_USAGE:
            raise RunError("flower-supernode does not take what it was given; its words are above")
        now = time.monotonic()
        if now - began > STEADY:
            deadline, pause = now + wait, FIRST_PAUSE
        if (left := deadline - now) <= 0:
            raise JoinError(
                f"{address}: the SuperLink has not let {identity.name} in within {wait:g} s; is its certificate among "
                "--hospitals there, and is no other node running with its key?"
            )
        why = f"{identity.name} is not registered there, or its earlier node is not given up yet"
        say(f"flower-supernode ended, mostly because {why}; trying again for {left:.0f} s")
        time.sleep(min(pause, left))
        pause = min(2 * pause, MAX_PAUSE)


def _wait_for_superlink(
    address: str, identity: Identity, deadline: float, wait: float, say: Callable[[str], None]
) -> None:
    """Wait until something answers there that shows the server's certificate.

    Raises:
        JoinError: nothing did, or waiting does not help.
    """
    has_spoken = False
    while why := find_obstacle(address, identity, max(0.0, deadline - time.monotonic())):
        if (left := deadline - time.monotonic()) <= 0:
            raise JoinError(f"{address}: no SuperLink within {wait:g} s{why}")
        if not has_spoken:
            say(f"waiting up to {left:.0f} s for the SuperLink at {address}{why}")
            has_spoken = True
        time.sleep(min(FIRST_PAUSE, left))
