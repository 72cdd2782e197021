"""What a file holds, as one number: the SHA-256 that reports and records name their inputs by."""

import hashlib
from pathlib import Path

__all__ = ["file_sha256"]

_CHUNK = 1 << 20


def file_sha256(file: Path) -> str:
    """SHA-256 of a file.

    Args:
        file: the file, of any size.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
