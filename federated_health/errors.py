"""Errors that a user can fix. A script prints each as one line, and exits with its code.

A message says what is wrong and where, what was expected, and what was found. It never holds a patient's value.
"""

from importlib.util import find_spec


class UserError(Exception):
    """Something that the user can fix.

    Attributes:
        reason: text for the other side, without paths, rows or values; by default the class's own, or else the message.
    """

    exit_code = 1
    default_reason: str | None = None

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason or message


class SettingsError(UserError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 2  # argparse's code for the same kind of mistake


class NetworkError(UserError):
    """The file of a network cannot be used."""

    default_reason = "its network file cannot be used"


class MissingLibraryError(UserError):
    """A run asks for a feature whose library is not installed."""


class DataError(UserError):
    """A CSV, or a folder of them, is not what the task needs."""

    default_reason = "its CSV cannot be used"


class AddressError(UserError):
    """An address cannot be used: malformed, taken, or not allowed without encryption."""


class JoinError(UserError):
    """A hospital could not join, or the server is gone."""


class RefusedMessageError(UserError):
    """A hospital does not answer a message: it is malformed, or no run would send it at this point."""


class TermsError(RefusedMessageError):
    """A server's message is not what the terms of the run say, so that the hospital takes no further part."""


class ConsentError(JoinError):
    """A hospital does not accept the terms of a run."""


class AnswerError(Exception):
    """A hospital cannot answer. The text is safe to send: the `reason` or the type of the error that caused it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error.reason if isinstance(error, UserError) else f"{type(error).__name__} at the hospital")
        self.error = error


class RunError(UserError):
    """A run cannot start or continue."""


class StorageError(RunError):
    """A run's files cannot be written; the run can be resumed once they can."""


class OutputError(UserError):
    """Standard output cannot be written, and the command has no other result."""


class CheckpointError(StorageError):
    """A checkpoint cannot be saved, or a run cannot be resumed from it."""


class CertificateError(UserError):
    """A key, certificate, request or revocation list cannot be used for its purpose."""


class SecureAggregationError(UserError):
    """A hospital does not take part in a sum, or sends nothing outside of one."""


class LedgerError(UserError):
    """An egress ledger cannot record a message, so the hospital does not send it; or a file is not a ledger."""


class DisclosureError(UserError):
    """What a hospital released cannot be remembered, so it sends nothing; or it has too few patients to take part."""

    default_reason: str | None = "its record of earlier releases cannot be read or written"


class PrivacyError(UserError):
    """The privacy budget that training would spend cannot be recorded, so the hospital does not train."""

    default_reason: str | None = "its privacy account cannot be read or written"


class BudgetError(PrivacyError):
    """A run would spend more of the privacy budget than the hospital allows, or none is accounted for."""

    default_reason = None


OPTIONAL_LIBRARIES = {
    "dp_accounting": ("differential privacy", "dp-accounting", "privacy"),
    "openpyxl": ("an Excel workbook", "openpyxl", "xlsx"),
    "pyarrow": ("a Parquet file", "pyarrow", "parquet"),
}
"""Module -> the feature that needs it, its library, and the package's extra that installs it."""


def check_installed(module: str) -> None:
    """Raise MissingLibraryError if an optional library's module cannot be found; does not import it."""
    feature, library, extra = OPTIONAL_LIBRARIES[module]
    if find_spec(module) is None:
        remedy = f"install it with `pip install {library.lower()}`, or with the package's extra {extra!r}"
        raise MissingLibraryError(
            f"{feature}: needs {library}, which is not installed; {remedy}", reason=f"it has no {library}"
        )
