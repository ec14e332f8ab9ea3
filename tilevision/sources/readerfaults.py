"""Whose fault it is that a library does not read a file: the file's, or what is installed here."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from tilevision.errors import SourceError

__all__ = ["is_unsupported", "unreadable"]

# Of bytes that are not what they should be; each library has classes of its own beside them.
_OF_BYTES = ("zlib.error", "struct.error", "builtins.EOFError", "_struct.error")
_NOT_SUPPORTED = (
    "not supported",
    "not implemented",
    "requires the",
    "unsupported",
    "cannot handle",
)


def is_unsupported(reason: str) -> bool:
    """Return True if a library's words say that it does not read such a file, whole as it is."""
    return any(word in reason.lower() for word in _NOT_SUPPORTED)


def unreadable(what: str, error: BaseException, *libraries: str) -> SourceError:
    """Return the error for what a library could not read, in one line.

    A file is called damaged only where a library says so of its bytes: by an error of its own
    kind. A codec that is missing and a mistake in a program say nothing of the file.

    Parameters
    ----------
    what : str
        The file, and which part of it.
    error : BaseException
        What was raised.
    libraries : str
        The packages that were at work, the one that reads first.
    """
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    used = " and ".join(f"{name} {_version(name)}" for name in libraries)
    kind = type(error)
    if isinstance(error, (ImportError, NotImplementedError)) or is_unsupported(reason):
        return SourceError(
            f"{what} needs something that {used} cannot read ({reason}); install a newer version "
            "of it, or convert the file."
        )
    own = any(kind.__module__.split(".")[0].lstrip("_") == name for name in libraries)
    if own or f"{kind.__module__}.{kind.__name__}" in _OF_BYTES:
        return SourceError(f"{what} is damaged or incomplete ({reason}); get the file again.")
    return SourceError(
        f"{what} cannot be read by {used} ({kind.__name__}: {reason}); open it with another "
        "program to see whether it is whole, or install another version of the library."
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
