"""What a user can get wrong. Each error is one clear line; a door prints it and exits with its code.

A message says what is wrong, where, what was expected and what came. It never holds a patient's value.
"""


class UserError(Exception):
    """Something that the person at the keyboard can put right."""

    exit_code = 1

    @property
    def reason(self) -> str:
        """The words that another party may hear."""
        return str(self)


class SettingsError(UserError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 2  # argparse's code for the same kind of mistake


class DataError(UserError):
    """A CSV, or a folder of them, is not what the task needs.

    Args:
        reason: why, in words that a server may hear: without paths, rows and values.
    """

    def __init__(self, message: str, *, reason: str = "its CSV cannot be used") -> None:
        super().__init__(message)
        self._reason = reason

    @property
    def reason(self) -> str:
        return self._reason


class AddressError(UserError):
    """An address cannot be used: badly formed, taken, or not allowed without encryption."""


class JoinError(UserError):
    """A hospital could not join, or the server is gone."""


class AnswerError(Exception):
    """A hospital cannot answer, in words that the server may hear: an error's `reason`, or an exception's type.

    Args:
        error: why, with words that stay at the hospital.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error.reason if isinstance(error, UserError) else f"{type(error).__name__} at the hospital")
        self.error = error


class RunError(UserError):
    """A run could not start or go on."""


class StorageError(RunError):
    """A run's files cannot be written; it can go on once they can."""


class CheckpointError(StorageError):
    """A checkpoint cannot be saved, or none can be gone on from."""


class CertificateError(UserError):
    """A key, a certificate, a request or a list of revoked ones cannot be used for what it is meant for."""


class EncryptionError(UserError):
    """A hospital cannot make, pass on or use the key of an encrypted run, or what it decrypted cannot be used.

    Args:
        reason: why, in words that a server may hear: without paths and values, decrypted ones above all.
    """

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self._reason = reason or message

    @property
    def reason(self) -> str:
        return self._reason


class LedgerError(UserError):
    """What leaves a hospital cannot be recorded, and so does not leave; or a file is not a ledger."""


class PrivacyError(UserError):
    """The privacy that training would spend cannot be recorded, so the hospital does not train.

    Args:
        reason: why, for the server: without paths and without what other runs have spent.
    """

    def __init__(self, message: str, *, reason: str = "its privacy budget cannot be used") -> None:
        super().__init__(message)
        self._reason = reason

    @property
    def reason(self) -> str:
        return self._reason


class BudgetError(PrivacyError):
    """A run would spend more privacy than the hospital allows, or none is accounted for.

    Args:
        reason: see `PrivacyError`; None if the server may see the whole message.
    """

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message, reason=reason or message)
