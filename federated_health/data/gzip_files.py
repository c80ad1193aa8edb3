"""Unpacks files that were packed with gzip."""

import gzip
import io
import zlib

from federated_health.data.csv_reading import file_error

MAX_UNPACKED_BYTES = 512 * 2**20
"""Largest size of a file that was packed with gzip; also a small one may unpack to more than the memory holds."""


def unpack(content: bytes, name: str) -> bytes:
    """The content of a gzip file; a DataError, with this name of the file, if it is damaged or too large."""
    try:
        with gzip.open(io.BytesIO(content)) as file:
            unpacked = file.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        raise file_error(name, "is a damaged gzip file", ": incomplete, or changed since it was packed") from None
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise file_error(name, "is too large", f": expected at most {MAX_UNPACKED_BYTES // 2**20} MiB unpacked")
    return unpacked
