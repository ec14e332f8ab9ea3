"""Detections sent to the image that is open in a running QuPath, through its Py4J gateway.

Objects travel as the GeoJSON of ``.qupath.geojson``, some at a time, and wait in a list on QuPath's
side: the picture changes once, when all have arrived. Each has an id that begins with a mark of
ours, by which a later call knows what an earlier one put there. QuPath keeps ids with its project.
"""

from __future__ import annotations

import gc
import json
import logging
import socket
import threading
import traceback
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

from tilevision.errors import RunArgumentError, RunError
from tilevision.exporting.geojson import qupath_corner, qupath_features

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["PORT", "to_qupath"]

PORT = 25333  # QuPath's default

_MARK = "7e1c0a5d-93b4-8"  # 48 bits drawn once, and version 8: no UUID of anybody else begins so
_FEATURES, _CHARACTERS = 1000, 4_000_000  # of one message
_IDS = 20_000  # of one answer
_SECONDS = 600  # that QuPath may be busy with one message


def to_qupath(
    result: ResultData,
    *,
    port: int = PORT,
    token: str | None = None,
    gateway: Any = None,
    object_type: str = "detection",
    replace: bool = True,
    anyway: bool = False,
) -> str:
    """Send the detections to the image that is open in QuPath; return what happened, in a line.

    In QuPath 0.6, *Extensions > Py4J > Start Py4J Gateway* lets Python in. Outlines, rotated
    boxes, boxes or points arrive with class, score and the other measurements, and classified tiles
    as tiles, in QuPath's own frame: the same as in ``.qupath.geojson``. They are taken out of the
    picture and put into it at once, so that a call that fails changes nothing.

    Parameters
    ----------
    result : Result
    port : int
        As set in QuPath.
    token : str, optional
        As set in QuPath; None where none was.
    gateway : py4j.java_gateway.JavaGateway, optional
        A connection that is open already, as from ``qubalab.qupath.create_gateway()``, instead
        of `port` and `token`. It stays open.
    object_type : str
        ``"detection"`` (QuPath draws a million) or ``"annotation"`` (can be edited).
    replace : bool
        True if objects that an earlier call put into this image are removed, also those of
        another model, with whatever was changed on them in QuPath. No other object is touched.
    anyway : bool
        True if the names of the two images may differ, as of a converted or renamed file, or
        of an array. Their sizes must be the same.

    Returns
    -------
    str

    Raises
    ------
    RunError
        If py4j is not installed, no QuPath answers, no image or another one is open there, or
        QuPath refuses the objects.
    """
    if type(port) is not int or not 0 < port < 65536:
        raise RunArgumentError(f"port is {port!r}; give the number that is set in QuPath.")
    with _connected(port, token, gateway) as connection:
        return _send(result, connection, object_type, replace, anyway)


def _send(result: ResultData, connection: Any, kind: str, replace: bool, anyway: bool) -> str:
    """Take the objects to QuPath; what is held of QuPath's is let go before the connection is."""
    entry, jvm = connection.entry_point, connection.jvm
    image = entry.getQuPath().getImageData()
    if image is None:
        raise RunError("No image is open in QuPath. Open the image of this result there.")
    corner = _frame(result, image.getServer(), anyway)
    arrived = jvm.java.util.ArrayList()
    for text in _messages(_marked(qupath_features(result, corner, kind), result)):
        arrived.addAll(entry.toPathObjects(text))
    hierarchy = image.getHierarchy()
    gone = _earlier(entry, jvm, hierarchy) if replace else jvm.java.util.ArrayList()
    if removed := gone.size():
        hierarchy.removeObjects(gone, True)  # True: keep what lies in them
        hierarchy.getSelectionModel().clearSelection()
    if sent := arrived.size():
        hierarchy.addObjects(arrived)
    return _said(result, str(image.getServer().getMetadata().getName()), sent, removed)


def _said(result: ResultData, name: str, sent: int, removed: int) -> str:
    objects = "1 object" if sent == 1 else f"{sent:,} objects"
    before = f" and removed {removed:,} sent before" if removed else ""
    # How much was not analysed, which says as well what was corrected by hand.
    told = str(result.correction_counts or "") if result.complete else result.coverage
    return f"Sent {objects} to {name} in QuPath{before}. {told}".rstrip()


# The connection ---------------------------------------------------------------------------------


@contextmanager
def _connected(port: int, token: str | None, gateway: Any) -> Iterator[Any]:
    """Yield a gateway at whose other end a QuPath answers; what it refuses is one line."""
    try:
        from py4j.java_gateway import GatewayParameters, JavaGateway
        from py4j.protocol import Py4JError
    except ImportError:
        raise RunError(
            "The package py4j is not installed: pip install 'tilevision[qupath]'; or save "
            ".qupath.geojson and drag it onto the image in QuPath."
        ) from None
    given = GatewayParameters(port=port, auth_token=token, read_timeout=_SECONDS)
    with _unlogged():
        connection = JavaGateway(gateway_parameters=given) if gateway is None else gateway
        try:
            if gateway is None:
                _knock(port)
            _greet(connection, port, token)
            yield connection
        except (RunError, Py4JError) as error:
            traceback.clear_frames(error.__traceback__)  # they hold objects of QuPath's
            raise (error if isinstance(error, RunError) else _refusal(error, port)) from None
        finally:
            if gateway is None:
                _leave(connection)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep py4j from logging, in this thread, tracebacks of what is said in one line."""
    log, mine = logging.getLogger("py4j.java_gateway"), threading.get_ident()

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != mine

    log.addFilter(elsewhere)
    try:
        yield
    finally:
        log.removeFilter(elsewhere)


def _leave(connection: Any) -> None:
    """Let go of what was held of QuPath's, then close the connection for good.

    py4j's objects are cycles. Those that Python collects later would open a connection anew, and
    log tracebacks if QuPath had gone, at the latest when the interpreter ends.
    """
    gc.collect()
    connection.close()
    connection._gateway_client.is_connected = False  # noqa: SLF001 - close() leaves it True


def _refusal(error: Exception, port: int) -> RunError:
    """Return the line that says what went wrong at the other end, or on the way."""
    from py4j.protocol import Py4JJavaError, Py4JNetworkError

    if isinstance(error, Py4JJavaError):
        said = str(error.java_exception.toString()).splitlines()[0]
        return RunError(f"QuPath refused the objects: {said.rstrip('.'):.300}.")
    if isinstance(error, Py4JNetworkError):
        return RunError(
            f"The connection to QuPath broke ({_line(error)}). See there what arrived, and call "
            "to_qupath again: it replaces what an earlier call put there."
        )
    return RunError(
        f"What answers at port {port} does not understand to_qupath ({_line(error)}). It takes "
        "QuPath 0.6, or its Py4J extension 0.1."
    )


def _knock(port: int) -> None:
    """Make sure that anybody listens: py4j would log a traceback first.

    Raises
    ------
    RunError
        If nobody does.
    """
    try:
        socket.create_connection(("127.0.0.1", port), 10).close()
    except OSError:
        raise _nobody(port) from None


def _greet(connection: Any, port: int, token: str | None) -> None:
    """Make sure that a QuPath answers.

    Raises
    ------
    RunError
        If nobody does, or it wants another token.
    """
    from py4j.protocol import Py4JAuthenticationError, Py4JError, Py4JNetworkError

    try:
        there = connection.entry_point.getQuPath() is not None
    except (Py4JNetworkError, OSError):
        there = False
    except Py4JError as error:
        if isinstance(error, Py4JAuthenticationError) or "Authentication error" in str(error):
            which = "a token" if token is None else "another token, or none"
            raise RunError(
                f"The QuPath at port {port} wants {which}. Give token= as set in QuPath."
            ) from None
        raise
    if not there:
        raise _nobody(port)


def _nobody(port: int) -> RunError:
    return RunError(
        f"No QuPath answers at port {port} of this machine. Start its gateway (Extensions > Py4J > "
        "Start Py4J Gateway) and give port= as set there."
    )


def _line(error: Exception) -> str:
    """Return the line of an error that says what it is: py4j puts Java's below its own."""
    lines = [line for line in str(error).splitlines() if not line.endswith("Trace:")]
    return (lines or [type(error).__name__])[0].strip()[:200].rstrip(".")


# The image --------------------------------------------------------------------------------------


def _frame(result: ResultData, server: Any, anyway: bool) -> tuple[float, float]:
    """Return the pixel of our image that is 0, 0 in QuPath's.

    Raises
    ------
    RunError
        If the image there has another size or, unless `anyway`, another name.
    """
    size = (int(server.getWidth()), int(server.getHeight()))
    name = str(server.getMetadata().getName())
    corner, bounds = qupath_corner(result), result.source.metadata.bounds
    cropped = None if bounds is None else (round(bounds.width), round(bounds.height))
    if size not in (result.source.size, cropped):
        raise RunError(
            f"Another image is open in QuPath: {name} ({_sides(size)}), and this result is of "
            f"{result.name} ({_sides(result.source.size)}). Open that one there."
        )
    names = {name, *(_file_name(str(uri.toString())) for uri in server.getURIs())}
    if not anyway and not any(_same_name(result.name, there) for there in names):
        raise RunError(
            f"{name} is open in QuPath, and this result is of {result.name}. Open that one there, "
            "or give anyway=True if both are the same picture."
        )
    return corner if size == cropped else (0, 0)


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]:,} × {size[1]:,} px"


def _file_name(address: str) -> str:
    return PurePosixPath(unquote(urlsplit(address).path)).name


def _same_name(ours: str, theirs: str) -> bool:
    """Return True if QuPath's name is that of our file; it may say which part of the file it is."""
    a, b = (unicodedata.normalize("NFC", name).casefold() for name in (ours, theirs))
    a = a.partition("#")[0]
    return a == b or b.startswith(f"{a} ")


# The objects ------------------------------------------------------------------------------------


def _marked(features: Iterable[dict[str, Any]], result: ResultData) -> Iterator[dict[str, Any]]:
    """Yield features with ids that bear our mark, the same each time for the same result."""
    about = f"{result.source.fingerprint} {result.facts.model_fingerprint}"
    for row, feature in enumerate(features):
        digits = sha256(f"{about} {row} {feature['geometry']}".encode()).hexdigest()
        variant = "89ab"[int(digits[0], 16) % 4]
        text = f"{_MARK}{digits[1:4]}-{variant}{digits[4:7]}-{digits[7:19]}"
        yield {"type": "Feature", "id": str(UUID(text))} | feature


def _messages(features: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield FeatureCollections of bounded length; a feature longer than that is alone."""
    waiting: list[str] = []
    length = 0
    for text in map(json.dumps, features):
        if waiting and (len(waiting) == _FEATURES or length + len(text) > _CHARACTERS):
            yield _collection(waiting)
            waiting, length = [], 0
        waiting.append(text)
        length += len(text)
    if waiting:
        yield _collection(waiting)


def _collection(texts: list[str]) -> str:
    return f'{{"type":"FeatureCollection","features":[{",".join(texts)}]}}'


def _earlier(entry: Any, jvm: Any, hierarchy: Any) -> Any:
    """Return the objects that earlier calls put there, as a list on QuPath's side.

    Their ids come here, and lie side by side as they were added; so a few calls collect them.
    """
    every = jvm.java.util.ArrayList(hierarchy.getAllObjects(False))  # False: without the root
    ours = jvm.java.util.ArrayList()
    count = every.size()
    for start in range(0, count, _IDS):
        part = every.subList(start, min(start + _IDS, count))
        ids = str(jvm.java.lang.String.join("\n", entry.getObjectIds(part))).split("\n")
        for first, last in _runs([name.startswith(_MARK) for name in ids]):
            ours.addAll(part.subList(first, last))
    return ours


def _runs(wanted: list[bool]) -> Iterator[tuple[int, int]]:
    """Yield where each run of wanted rows begins, and where it ends (exclusive)."""
    first = None
    for at, one in enumerate([*wanted, False]):
        if one and first is None:
            first = at
        elif not one and first is not None:
            yield first, at
            first = None
