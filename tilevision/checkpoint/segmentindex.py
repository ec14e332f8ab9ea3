"""Where in the segments of a folder each key is: columns, since there may be millions."""

from __future__ import annotations

import hashlib
from array import array
from binascii import unhexlify
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tilevision.checkpoint.segmentfile import ROW, Packed, data_of

__all__ = ["RecordPlace", "SegmentIndex", "deletions", "digest"]

_HASH_DIGITS = 64


def digest(key: str) -> bytes:
    """Return the 32 bytes that stand for a key; those of a tile are a hash already."""
    if len(key) == _HASH_DIGITS:
        try:
            raw = unhexlify(key)
        except ValueError:  # binascii's own error, or no ASCII
            raw = b""
        if raw.hex() == key:
            return raw
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class RecordPlace(NamedTuple):
    """Where the newest records of a key are.

    Parameters
    ----------
    segment : str
        Name of the file.
    offset, size : int
        Of the data, bytes.
    records : int
        How many there are; 0 where the key was deleted.
    check : int
        CRC of the data.
    time : float
        When they were stored, seconds since the epoch.
    """

    segment: str
    offset: int
    size: int
    records: int
    check: int
    time: float


class SegmentIndex:
    """The newest place of each key: of two, the one in the later segment, then the later frame.

    Segments are ordered by their names, which begin with a number; clocks decide nothing.
    """

    def __init__(self) -> None:
        self._slots: dict[bytes, int] = {}
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._segment = array("I")
        self._offset = array("Q")
        self._size = array("I")
        self._count = array("I")
        self._check = array("I")
        self._time = array("d")

    def add(self, segment: str, data: int, table: bytes) -> None:
        """Enter the rows of a frame, whose data begin at `data`.

        Raises
        ------
        ValueError
            If the table is not made of whole rows.
        """
        if len(table) % ROW.size:
            raise ValueError("The table of a frame is not made of whole rows.")
        number = self._number(segment)
        slots, segments, names = self._slots, self._segment, self._names
        offsets, sizes, counts = self._offset, self._size, self._count
        checks, times = self._check, self._time
        for key, time, count, size, check in ROW.iter_unpack(table):
            slot = slots.get(key)
            if slot is None:
                slots[key] = len(segments)
                segments.append(number)
                offsets.append(data)
                sizes.append(size)
                counts.append(count)
                checks.append(check)
                times.append(time)
            elif segments[slot] == number or names[segments[slot]] <= segment:
                segments[slot], offsets[slot], sizes[slot] = number, data, size
                counts[slot], checks[slot], times[slot] = count, check, time
            data += size

    def enter(self, segment: str, begins: int, frame: bytes, rows: int) -> None:
        """Enter a frame that was just written, from its bytes."""
        head = data_of(0, 0)
        table = frame[head : head + rows * ROW.size]
        self.add(segment, data_of(begins, rows), table)

    def stored(self, keys: Iterable[str]) -> set[str]:
        """Return those of `keys` that have records."""
        slots, counts = self._slots, self._count
        found = ((key, slots.get(digest(key))) for key in keys)
        return {key for key, slot in found if slot is not None and counts[slot]}

    def place(self, key: bytes) -> RecordPlace | None:
        """Return where the records of a key are, or that it was deleted; None if it is unknown."""
        slot = self._slots.get(key)
        return None if slot is None else self._place(slot)

    def places(self, keys: Sequence[bytes]) -> tuple[NDArray[np.int64], ...]:
        """Return segment (-1: unknown), offset, size and number of records of keys: each ``(n,)``.

        `name` has the name of a segment.
        """
        slots = self._slots
        rows = np.fromiter((slots.get(key, -1) for key in keys), np.int64, len(keys))
        if not len(self._segment):
            return tuple(np.full(len(keys), -1, dtype=np.int64) for _ in range(4))
        columns = (self._segment, self._offset, self._size, self._count)
        found = [
            np.frombuffer(column, column.typecode)[rows].astype(np.int64) for column in columns
        ]
        found[0][rows < 0] = -1
        return tuple(found)

    def name(self, number: int) -> str:
        """Return the name of a segment by its number, as `places` has it."""
        return self._names[number]

    def time(self, key: bytes) -> float | None:
        """Return when a key was stored; None where nothing is."""
        slot = self._slots.get(key)
        return None if slot is None or not self._count[slot] else self._time[slot]

    def forget(self, key: bytes, place: RecordPlace) -> None:
        """Forget a key whose newest records cannot be read, unless it has moved since."""
        slot = self._slots.get(key)
        if slot is not None and self._place(slot) == place:
            del self._slots[key]

    def forget_segments(self, gone: Iterable[str]) -> None:
        """Forget what is in segments that are no longer there."""
        numbers = {self._numbers.pop(name) for name in gone if name in self._numbers}
        if numbers:
            kept = self._slots.items()
            self._slots = {key: at for key, at in kept if self._segment[at] not in numbers}

    def living(self, unused: Collection[bytes] = ()) -> dict[str, int]:
        """Return how many bytes of each segment are in use, those of `unused` keys left out."""
        used = dict.fromkeys(self._numbers, 0)
        for key, slot in self._slots.items():
            if self._count[slot] and key not in unused:
                used[self._names[self._segment[slot]]] += self._size[slot] + ROW.size
        return used

    def within(self, segments: frozenset[str]) -> list[bytes]:
        """Return the keys whose newest row, a deletion too, is in one of `segments`."""
        numbers = {self._numbers[name] for name in segments if name in self._numbers}
        return [key for key, slot in self._slots.items() if self._segment[slot] in numbers]

    def older(self, before: float) -> list[bytes]:
        """Return the keys that were stored before a time."""
        times, counts = self._time, self._count
        slots = self._slots.items()
        return [key for key, slot in slots if counts[slot] and times[slot] < before]

    def _number(self, segment: str) -> int:
        number = self._numbers.get(segment)
        if number is None:
            number = self._numbers[segment] = len(self._names)
            self._names.append(segment)
        return number

    def _place(self, slot: int) -> RecordPlace:
        return RecordPlace(
            self._names[self._segment[slot]],
            self._offset[slot],
            self._size[slot],
            self._count[slot],
            self._check[slot],
            self._time[slot],
        )


def deletions(keys: Iterable[bytes], now: float) -> list[Packed]:
    """Return the rows that say that keys were deleted."""
    return [(key, now, 0, b"") for key in keys]
