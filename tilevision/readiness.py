"""Whether a process can do a run's work: it sees the image, and has what the model needs."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tilevision
import tilevision.sources.localfiles  # all formats, before workers are forked
from tilevision.adapters.modelfiles import lost, place_of, unchanged
from tilevision.errors import SourceError, TilevisionError
from tilevision.modelspec import ModelSpec, runtime
from tilevision.modelspec.build import attribute
from tilevision.sources import SourceRef, open_reference
from tilevision.sources.identity import known_fingerprint

__all__ = ["Readiness", "carries_code", "examine"]

_FUNCTIONS = "tilevision.adapters.function"


@dataclass(frozen=True, slots=True)
class Readiness:
    """What a process says of itself.

    Parameters
    ----------
    version : str
        Of tilevision there.
    troubles : tuple of str
        Why it cannot do the work, each with its remedy; worded to follow the process's name:
        ``"cannot read /data/slide.svs: …"``.
    runtime : str
        On what it would run the model; empty where nobody knows.
    temp : str
        Folder where images without windows are decoded.
    temp_free : int
        Bytes; -1 where the folder cannot be used.
    """

    version: str
    troubles: tuple[str, ...] = ()
    runtime: str = ""
    temp: str = ""
    temp_free: int = -1


def examine(source: SourceRef | None = None, model: ModelSpec | None = None) -> Readiness:
    """Try in this process what a run needs, short of reading pixels and loading the model.

    Parameters
    ----------
    source : SourceRef, optional
        Opened, and its content compared; an image without windows is decoded, as its first
        tile would do.
    model : ModelSpec, optional
        Its file is compared, its code is unpickled, and its library and device are asked for.
    """
    troubles: list[str] = []
    if source is not None:
        troubles.extend(_trouble_with_image(source))
    on = ""
    if model is not None:
        try:
            troubles.extend(_trouble_with_weights(model))
            on = _ask_model(model)
        except Exception as error:  # noqa: BLE001 unpickling runs anybody's code
            troubles.append(f"cannot run model {model.name}: {_words(error)}")
    temp = tempfile.gettempdir()
    try:
        free = shutil.disk_usage(temp).free
    except OSError:
        free = -1
    return Readiness(tilevision.__version__, tuple(troubles), on, temp, free)


def carries_code(model: ModelSpec) -> bool:
    """Return True if the model travels as bytecode, which only the same Python understands."""
    return bool(model.payload) and model.factory.startswith(_FUNCTIONS)


def _trouble_with_image(source: SourceRef) -> list[str]:
    stamp = source.options.get("stamp")
    try:
        if stamp is not None:
            Path(source.path).stat()
            if known_fingerprint(source.path, stamp, source.fingerprint) != source.fingerprint:
                return [
                    f"has another file at {source.path}: its content is not the client's; "
                    "copy the client's file there, or mount its folder"
                ]
        open_reference(source)
    except OSError as error:
        return [
            f"cannot read {source.path}: {error.strerror or error}; mount the folder there, "
            "or pass a URL"
        ]
    except SourceError as error:
        return [f"cannot open the image: {error}"]
    except Exception as error:  # noqa: BLE001 an opener may be anybody's code
        return [f"cannot open {source.path}: {_words(error)}"]
    return []


def _trouble_with_weights(model: ModelSpec) -> list[str]:
    named, content = model.params.get("path"), model.params.get("content")
    if not isinstance(named, str) or not isinstance(content, str):
        return []
    path = place_of(model.params)
    if missing := lost(model.params, path):
        return [missing]
    if not unchanged(model.params, path):
        return [
            f"has another model at {path}: its content is not the client's; copy the client's "
            "file there"
        ]
    return []


def _ask_model(model: ModelSpec) -> str:
    attribute(model.factory)
    if carries_code(model):
        from tilevision.adapters.packing import unpack

        unpack(model.payload)
    return runtime(model)


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, TilevisionError) else f"{type(error).__name__}: {text}"
