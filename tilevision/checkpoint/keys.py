"""Keys: what must be the same for stored work to be the same work."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from tilevision.codec import SCHEMA_VERSION, canonical_json
from tilevision.errors import CheckpointError, ModelError
from tilevision.grid import Tile

__all__ = ["stage_key", "tile_key", "tile_keys"]


def tile_key(source_fp: str, options: Mapping[str, Any], tile: Tile, model_fp: str) -> str:
    """Return the key of a tile's findings, the same in every process and on every machine.

    Thresholds, merge and synthesis are no part of it: changing them costs no inference.

    Parameters
    ----------
    source_fp : str
        Fingerprint of the image's content.
    options : mapping
        Read options as plain JSON types (``dataclasses.asdict``).
    tile : Tile
        Its box and scale count; row, column and id do not.
    model_fp : str
        Fingerprint of the model.

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits.

    Raises
    ------
    CheckpointError
        If `options` hold something with no canonical form.
    """
    return tile_keys(source_fp, options, (tile,), model_fp)[0]


def tile_keys(
    source_fp: str, options: Mapping[str, Any], tiles: Iterable[Tile], model_fp: str
) -> list[str]:
    """Return `tile_key` of each of `tiles`; what they share is spelled once."""
    shared = _digest(
        {"kind": "tile", "options": options, "source": source_fp, "model": model_fp}
    ).hexdigest()
    begun = hashlib.sha256(f'["{shared}"'.encode())
    return [_finished(begun, tile) for tile in tiles]


def _finished(begun: hashlib._Hash, tile: Tile) -> str:
    """Return the digest of a list whose beginning was hashed, and that ends with the region."""
    digest, box = begun.copy(), tile.box
    edges = f",{_spelled(box.x0)},{_spelled(box.y0)},{_spelled(box.x1)},{_spelled(box.y1)}"
    digest.update(f"{edges},{_spelled(tile.scale)}]".encode())
    return digest.hexdigest()


@lru_cache(maxsize=4096)
def _spelled(value: float) -> str:
    """Spell a number as canonical JSON does; edges of tiles come again and again."""
    return canonical_json(_number(value)).decode()


def stage_key(stage: str, payload: Mapping[str, Any]) -> str:
    """Return the key of what a stage (moderation, synthesis) made of `payload`.

    Parameters
    ----------
    stage : str
    payload : mapping
        All that the stage reads: fingerprints, digest, options; plain JSON types.

    Raises
    ------
    CheckpointError
        If `payload` holds something with no canonical form.
    """
    return _digest({"kind": "stage", "stage": stage, "payload": payload}).hexdigest()


def _digest(value: dict[str, Any]) -> hashlib._Hash:
    try:
        text = canonical_json(_canonical({"schema": SCHEMA_VERSION, **value}))
    except ModelError as error:
        raise CheckpointError(f"No key can be made from these values: {error}") from None
    return hashlib.sha256(text)


def _canonical(value: Any) -> Any:
    """Return `value` so that equal values are spelled equally: 1 and 1.0, tuples and lists."""
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays
        value = value.tolist()
    if isinstance(value, Mapping):
        odd = [name for name in value if not isinstance(name, str)]
        if odd:
            raise CheckpointError(f"A key cannot hold the name {odd[0]!r}: names must be text.")
        return {name: _canonical(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(value)
    if value is None or isinstance(value, (str, bool)):
        return value
    raise CheckpointError(
        f"A key cannot hold a {type(value).__name__}. Use text, numbers, lists and dicts."
    )


def _number(value: float) -> Any:
    """Spell numbers one way; JSON has no NaN, but a no-data value may well be NaN."""
    if not math.isfinite(value):
        return {"number": str(float(value))}
    return int(value) if value == int(value) else value
