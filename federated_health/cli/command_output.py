"""Output that is the result of a command: an error if it cannot be written, unless nobody reads it."""

import sys

from federated_health.errors import OutputError


def write_output(text: str) -> None:
    """Write the result of a command to standard output, exactly.

    Raises:
        OutputError: it cannot be written, or the encoding lacks a character. Nobody reads it: that is no error.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        raise OutputError(f"standard output: expected an encoding such as UTF-8, got {encoding}") from None
    sys.stdout.write(text)
    check_output()


def check_output() -> None:
    """Check that standard output was written, at the end of a command that has no other result.

    Raises:
        OutputError: it was not, for another reason than that nobody reads it.
    """
    sys.stdout.flush()
    problem = getattr(sys.stdout, "problem", None)
    if problem is not None and not isinstance(problem, BrokenPipeError):
        reason = getattr(problem, "strerror", None) or problem
        raise OutputError(f"standard output: cannot be written ({reason})")
