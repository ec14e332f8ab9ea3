"""What may be stored: canonical JSON within the limit, and nothing that could be an image."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from tilevision.codec import RECORD_LIMIT
from tilevision.errors import CheckpointError, CheckpointTooLarge

__all__ = ["check_record", "check_records", "label", "matches"]

_CONTROLS = bytes(range(32))  # canonical JSON escapes them all
_CLOSING = {ord("{"): ord("}"), ord("["): ord("]")}


def check_records(key: str, records: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return `records` if each of them may be stored under `key`.

    Raises
    ------
    CheckpointTooLarge
        If one passes 256 KiB of UTF-8.
    CheckpointError
        If there is none, or one is not canonical JSON.
    """
    if not records:
        raise CheckpointError(
            f"There is nothing to store for {key}; an empty result is a record too."
        )
    for record in records:
        check_record(key, record)
    return tuple(records)


def check_record(key: str, record: object) -> None:
    """Raise as `check_records` does; a look at every byte, without parsing."""
    if type(record) is not bytes:
        raise CheckpointError(
            f"A record must be canonical JSON bytes, not {type(record).__name__} ({key})."
        )
    if len(record) > RECORD_LIMIT:
        raise CheckpointTooLarge(
            f"A record of {len(record):,} bytes exceeds the limit of {RECORD_LIMIT:,} ({key}). "
            "Use smaller tiles, or return fewer or simpler detections."
        )
    closing = _CLOSING.get(record[0]) if record else None
    if closing is None or record[-1] != closing or not _is_plain_text(record):
        raise CheckpointError(f"A record must be canonical JSON, and this one is not ({key}).")


def label(records: Sequence[bytes]) -> str:
    """Return what is stored beside the first record: how many there are, and a checksum."""
    return f"{len(records)} {_checksum(records):08x}"


def matches(tag: object, records: Sequence[bytes]) -> bool:
    """Whether `records` are those that `tag` was made for."""
    return tag == label(records)


def _checksum(records: Sequence[bytes]) -> int:
    value = 0
    for record in records:
        value = zlib.crc32(record, value)
    return value


def _is_plain_text(record: bytes) -> bool:
    if len(record.translate(None, _CONTROLS)) != len(record):
        return False
    try:
        record.decode()
    except UnicodeDecodeError:
        return False
    return True
