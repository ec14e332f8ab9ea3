"""The record of a tile: findings as canonical JSON, and nothing else; what may be stored as one.

Sorted keys, boxes to 0.01 px, scores to 1e-5, UTF-8: the same tile gives the same bytes.
Crowded tiles span several records, since a limit that failed them would bias counts
exactly where they matter.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tilevision.errors import CheckpointError, CheckpointTooLarge, ModelError
from tilevision.findings import Findings, plain
from tilevision.payloads import PREFIX

__all__ = [
    "RECORDS_PER_TILE",
    "RECORD_LIMIT",
    "SCHEMA_VERSION",
    "check_record",
    "check_records",
    "decode",
    "encode",
    "label",
    "matches",
]

RECORD_LIMIT = 256 * 1024
RECORDS_PER_TILE = 64
SCHEMA_VERSION = 1


def encode(findings: Findings) -> tuple[bytes, ...]:
    """Return the records of a tile's findings: canonical JSON, 256 KiB of UTF-8 each at most.

    Embeddings are not among them: see `tilevision.payloads`. Rows stand in the order of
    ``findings.rounded()``.

    Raises
    ------
    CheckpointTooLarge
        If one detection alone passes the limit, or the tile needs more than 64 records.
    ModelError
        If attributes hold what JSON cannot.
    """
    if not len(findings) and not findings.tile_scores and not findings.note:
        columns = tuple(findings.columns)
        if columns not in _nothing:
            _nothing[columns] = _encode(findings)
        return _nothing[columns]
    records = _encode(findings.rounded())
    if len(records) > RECORDS_PER_TILE:
        raise CheckpointTooLarge(
            f"{len(findings)} detections need {len(records)} records of 256 KiB, more than "
            f"{RECORDS_PER_TILE}; use smaller tiles, or return fewer or simpler detections."
        )
    return records


def decode(records: Sequence[bytes]) -> Findings:
    """Read what `encode` wrote.

    A record that refers to arrays (`tilevision.payloads.arrays_of`) is passed over.

    Raises
    ------
    ValueError, KeyError, TypeError, ModelError
        If the bytes are anything else.
    """
    if len(records) == 1:
        (record,) = records
        bare = record.startswith(_BARE) and len(record) < _BARE_BYTES and b"tile_" not in record
        return _bare(record) if bare else _decode(record)
    if records and records[-1].startswith(PREFIX):
        return decode(records[:-1])
    first, *rest = (_decode(record) for record in records)
    rows = Findings.concat([first, *rest])
    return Findings(**rows.columns, tile_scores=first.tile_scores, note=first.note)


# Most tiles of most images hold nothing: their findings, which never change, are one object.
_BARE, _BARE_BYTES = b'{"boxes":[],', 128
_nothing: dict[tuple[str, ...], tuple[bytes, ...]] = {}  # their records, by the columns there are


@lru_cache(maxsize=64)
def _bare(record: bytes) -> Findings:
    return _decode(record)


def _encode(findings: Findings) -> tuple[bytes, ...]:
    record = _record(findings)
    if len(record) <= RECORD_LIMIT:
        return (record,)
    if len(findings) < 2:
        raise CheckpointTooLarge(
            f"One detection takes {len(record):,} bytes, the limit of a record is "
            f"{RECORD_LIMIT:,}; shorten its polygon, text or attributes."
        )
    half = len(findings) // 2
    rows = np.arange(len(findings))
    rest = findings.take(rows[half:])
    rest = Findings(**rest.columns)  # what belongs to the tile stands in the first record
    return _encode(findings.take(rows[:half])) + _encode(rest)


def _record(findings: Findings) -> bytes:
    raw: dict[str, Any] = {
        name: plain(column)
        for name, column in findings.columns.items()
        if name not in ("labels", "class_ids", "embeddings")
    }
    if (findings.class_ids != -1).any():
        raw["class_ids"] = findings.class_ids.tolist()
    classes = sorted(set(findings.labels))
    number = {label: i for i, label in enumerate(classes)}
    raw |= {"classes": classes, "labels": [number[label] for label in findings.labels]}
    if findings.tile_scores:
        raw["tile_scores"] = dict(findings.tile_scores)
    if findings.note:
        raw["note"] = findings.note
    return canonical_json(raw)


def canonical_json(value: Any) -> bytes:
    """Return the one spelling of `value`: sorted keys, no spaces, UTF-8.

    Raises
    ------
    ModelError
        If `value` holds what JSON cannot.
    """
    try:
        text = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode()
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"A record cannot hold this ({error}); give text, finite numbers, true or false, "
            "lists and dicts."
        ) from None


def _decode(record: bytes) -> Findings:
    raw = json.loads(record)
    classes = [sys.intern(str(name)) for name in raw.pop("classes")]  # the same in every tile
    labels = [classes[i] for i in raw.pop("labels")]
    for name in ("scores", "oriented", "points", "keypoints"):
        if name in raw:
            raw[name] = np.array(raw[name], dtype=np.float64)  # null is NaN
    return Findings(labels=labels, **raw)


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
    """Return True if `records` are those that `tag` was made for."""
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
