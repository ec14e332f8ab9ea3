"""Lengths as files spell them: numbers with a comma or an exponent, units by symbol or by word."""

from __future__ import annotations

import math
import re
import unicodedata

__all__ = ["in_microns", "microns_per_unit", "number", "pixel_size"]

# By symbol, where upper and lower case differ: "Mm" is no "mm". These are OME's symbols.
_SYMBOLS = {
    "ym": 1e-18,
    "zm": 1e-15,
    "am": 1e-12,
    "fm": 1e-9,
    "pm": 1e-6,
    "nm": 1e-3,
    "\u03bcm": 1.0,
    "um": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "dam": 1e7,
    "hm": 1e8,
    "km": 1e9,
    "Mm": 1e12,
    "thou": 25.4,
    "mil": 25.4,
    "in": 25_400.0,
    "ft": 304_800.0,
    "yd": 914_400.0,
    "mi": 1_609_344_000.0,
    "pt": 25_400.0 / 72,
    '"': 25_400.0,
}
_WORDS = {
    "angstrom": 1e-4,
    "\u00e5": 1e-4,
    "picometer": 1e-6,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "micron": 1.0,
    "\u03bc": 1.0,
    "\u03bcmeter": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "decimeter": 1e5,
    "meter": 1e6,
    "kilometer": 1e9,
    "inch": 25_400.0,
    "inches": 25_400.0,
    "foot": 304_800.0,
    "feet": 304_800.0,
    "yard": 914_400.0,
    "mile": 1_609_344_000.0,
}
_ESCAPED = re.compile(r"\\u([0-9A-Fa-f]{4})")
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


def number(text: object) -> float:
    """Return the number that a text is, with a point or a comma; NaN where it is none."""
    if isinstance(text, (int, float)):
        return float(text)
    stripped = text.strip() if isinstance(text, str) else ""
    if _NUMBER.fullmatch(stripped) is None:
        return math.nan
    return float(stripped.replace(",", "."))


def microns_per_unit(unit: object) -> float:
    """Return how many microns a unit of length is; NaN for any other.

    Parameters
    ----------
    unit : str
        A symbol (``"µm"``, with either of Unicode's two signs, ``"um"``, ``"cm"``, ``"in"``) or a
        word in the singular or plural, British or American (``"micrometres"``).
    """
    if not isinstance(unit, str):
        return math.nan
    # ImageJ escapes the micro sign; some writers encode it twice.
    plain = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), unit).replace("\u00c2\u00b5", "µ")
    plain = unicodedata.normalize("NFKC", plain).strip().rstrip(".\0").strip()
    if plain in _SYMBOLS:
        return _SYMBOLS[plain]
    word = plain.lower()
    word = re.sub("metre", "meter", word)
    if word in _WORDS:
        return _WORDS[word]
    if word.removesuffix("s") in _WORDS:
        return _WORDS[word.removesuffix("s")]
    return _SYMBOLS.get(word, math.nan) if len(word) > 1 and plain != "Mm" else math.nan


def in_microns(text: object, unit: object) -> float:
    """Return a length in microns; NaN where its number or its unit is not understood."""
    return number(text) * microns_per_unit(unit)


def pixel_size(x: float, y: float) -> tuple[float, float] | None:
    """Return both as the size of a pixel, or None where one is no positive number."""
    both = float(x), float(y)
    return both if all(math.isfinite(value) and value > 0 for value in both) else None
