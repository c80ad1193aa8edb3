"""The report of a hospital that may not join, such as one whose CSV cannot be used."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from federated_health.errors import CertificateError, JoinError, RefusedMessageError
from federated_health.transport.stream_client import (
    UNFIT,
    Consent,
    HospitalStream,
    Ledger,
    ask_terms,
    join_metadata,
    make_check,
    open_channel,
    prove,
)

if TYPE_CHECKING:
    from federated_health.security.identity import Identity

UNFIT_SECONDS = 3.0
"""Time limit for reporting to the server that a hospital may not join."""


def report_unfit(
    name: str,
    address: str,
    agreement: Mapping[str, str],
    reason: str,
    ledger: Ledger,
    tls: "Identity | None" = None,
    consent: Consent | None = None,
) -> None:
    """Report to the server why this hospital may not join, without joining, and without waiting for a server.

    Args:
        reason: a text without values.
        consent: see `join_run`; nothing is reported if it raises. None if the hospital has accepted the terms already.

    Raises:
        LedgerError: the report could not be recorded, and was not sent.
    """
    metadata = (*join_metadata(name, agreement), ("unfit", reason))
    with open_channel(address, tls) as channel:
        try:
            check = make_check(address, tls, lambda _: None) if tls else None
            if prove(channel, check, timeout=UNFIT_SECONDS):
                return  # the server cannot be reached
            if consent is not None:
                failed, terms = ask_terms(channel, timeout=UNFIT_SECONDS)
                if failed:
                    return
                consent(terms, check.fingerprint if check else "")
        except (JoinError, CertificateError, RefusedMessageError):
            return
        stream = HospitalStream(channel, ledger)
        stream.close()
        call = stream.begin(UNFIT, metadata, timeout=UNFIT_SECONDS)
        call.code()  # waits until the server has refused, or the time limit is over
