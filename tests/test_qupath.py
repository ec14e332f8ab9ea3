"""Sending results to QuPath: over a real Py4J gateway, at whose other end QuPath's methods stand.

`qupath/QuPathGateway.java` is compiled here and runs on the loopback. No QuPath was there to try.
"""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import SIZE, partial, result_of

import tilevision as tv
from tilevision.exporting.bridges import qupathgateway
from tilevision.findings import Findings
from tilevision.geometry import Box

java_gateway = pytest.importorskip("py4j.java_gateway")

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent / "qupath"


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The class path of the stand-in, with py4j's own library."""
    if shutil.which("javac") is None:
        assert not os.environ.get("CI"), "CI has no JDK"
        pytest.skip("needs a JDK: apt-get install default-jdk-headless")
    found = [file for file in metadata.files("py4j") or () if file.name.endswith(".jar")]
    library = str(Path(str(found[0].locate())).resolve())
    made = tmp_path_factory.mktemp("classes")
    command = ["javac", "-cp", library, "-d", made, HERE / "QuPathGateway.java"]
    subprocess.run(command, check=True, timeout=200)
    return f"{made}:{library}"


class Running:
    """A stand-in for QuPath that runs, and what is in its image."""

    def __init__(self, port: int, token: str | None) -> None:
        given = java_gateway.GatewayParameters(port=port, auth_token=token)
        self.port, self.gateway = port, java_gateway.JavaGateway(gateway_parameters=given)

    @property
    def hierarchy(self) -> Any:
        """The objects of the image that is open."""
        return self.gateway.entry_point.getQuPath().getImageData().getHierarchy()

    @property
    def changes(self) -> int:
        """How often its picture was changed."""
        return int(java_gateway.get_field(self.hierarchy, "changes"))

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The features of the objects in its image, in the order in which they came."""
        every = self.hierarchy.getAllObjects(False)
        texts = self.gateway.entry_point.toFeatureCollections(every, 1000)
        return [one for text in texts for one in json.loads(text)["features"]]

    def draw(self, *ids: str) -> None:
        """Put objects into its image that are not ours."""
        point = {"type": "Point", "coordinates": [1, 1]}
        features = [{"type": "Feature", "id": name, "geometry": point} for name in ids]
        text = json.dumps({"features": features})
        self.hierarchy.addObjects(self.gateway.entry_point.toPathObjects(text))


@pytest.fixture
def qupath(classes: str) -> Iterator[Callable[..., Running]]:
    """Starts a QuPath with an image open: name, size, address."""
    started: list[subprocess.Popen[str]] = []
    opened: list[Running] = []

    def start(
        name: str = "scan.tif", size: Any = SIZE, address: str = "", token: Any = None
    ) -> Any:
        image = [name, *map(str, size), address or f"file:///slides/{name}"] if name else []
        command = ["java", "-cp", classes, "QuPathGateway", token or "-", *image]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, **pipes)
        started.append(process)
        opened.append(Running(int(process.stdout.readline()), token))
        return opened[-1]

    yield start
    for running in opened:
        running.gateway.shutdown()
    for process in started:
        process.communicate(timeout=200)


def saved(result: Any, **options: Any) -> list[dict[str, Any]]:
    """The features of the file for QuPath."""
    stream = io.StringIO()
    from tilevision.exporting import geojson

    geojson.write_qupath(result, stream, **options)
    return json.loads(stream.getvalue())["features"]


def without_ids(features: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: v for name, v in one.items() if name != "id"} for one in features]


def test_what_arrives_is_what_the_file_holds(qupath: Any) -> None:
    """Outlines, rotated boxes, boxes and points with class, colour, score and measurements."""
    there = qupath()
    result = result_of()
    assert result.to_qupath(port=there.port) == "Sent 4 objects to scan.tif in QuPath."
    assert without_ids(there.objects) == saved(result)
    kinds = [one["geometry"]["type"] for one in there.objects]
    assert sorted(kinds) == ["MultiPolygon", "Point", "Polygon", "Polygon"]
    assert result.to_qupath(port=there.port, object_type="annotation").endswith(
        "and removed 4 sent before."
    )
    assert without_ids(there.objects) == saved(result, object_type="annotation")


def test_only_what_was_sent_before_is_replaced(qupath: Any) -> None:
    """Objects of the user stay, wherever they lie among ours; the picture changes at once."""
    there = qupath()
    theirs = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(2)]
    there.draw(theirs[0])
    result_of().to_qupath(port=there.port)
    there.draw(theirs[1])
    first = [one["id"] for one in there.objects if one["id"] not in theirs]
    before = there.changes
    said = result_of().to_qupath(port=there.port)
    assert said == "Sent 4 objects to scan.tif in QuPath and removed 4 sent before."
    assert there.changes == before + 2, "removed at once, added at once"
    again = [one["id"] for one in there.objects]
    assert again == [*theirs, *first], "the same result has the same ids"
    result_of(model_fingerprint="other").to_qupath(port=there.port, replace=False)
    assert len(there.objects) == 10 == len({one["id"] for one in there.objects})
    empty = result_of(Findings())
    assert empty.to_qupath(port=there.port).endswith("QuPath and removed 8 sent before.")
    assert [one["id"] for one in there.objects] == theirs


def test_many_objects_go_in_messages_of_bounded_length(qupath: Any, monkeypatch: Any) -> None:
    """Each object once, in order; QuPath's picture changes once; names of any script arrive."""
    there = qupath()
    count = 2500
    boxes = np.random.default_rng(5).uniform(0, 200, (count, 2))
    labels = [f"größe {n % 3} 細胞 🦠" for n in range(count)]
    found = Findings(np.hstack([boxes, boxes + 5]), labels=labels)
    result = result_of(found).with_(merge="none")
    lengths: list[int] = []
    whole = qupathgateway._messages
    monkeypatch.setattr(
        *(qupathgateway, "_messages"),
        lambda rows: (lengths.append(len(text)) or text for text in whole(rows)),
    )
    monkeypatch.setattr(qupathgateway, "_IDS", 700)
    for removed in ("", " and removed 2,500 sent before"):
        said = result.to_qupath(port=there.port)
        assert said == f"Sent 2,500 objects to scan.tif in QuPath{removed}."
        assert without_ids(there.objects) == saved(result)
    assert there.changes == 3
    assert len(lengths) == 6 and max(lengths) < 4_000_000


def test_slides_that_qupath_crops_are_sent_cropped(qupath: Any) -> None:
    """To the bounds, if the image there has their size; whole, if it has that of the whole."""
    result = result_of(metadata={"bounds": Box(5, 5, 305, 205)})
    cropped = qupath(size=(300, 200))
    result.to_qupath(port=cropped.port)
    assert without_ids(cropped.objects) == saved(result)
    whole = qupath()
    result.to_qupath(port=whole.port)
    assert without_ids(whole.objects) == saved(result, origin=(0, 0))
    assert cropped.objects != whole.objects


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("scan.tif", ""),
        ("Slide 7 (renamed)", "file:/slides/scan.tif"),
        ("SCAN.tif - Series 1", "file:/x"),
    ],
)
def test_an_image_is_known_by_name_or_file(qupath: Any, name: str, address: str) -> None:
    """Projects rename images, and files with several say which one is open."""
    assert "Sent 4" in result_of().to_qupath(port=qupath(name, address=address).port)


def test_another_image_is_refused(qupath: Any) -> None:
    """By size, which nothing overrules, or by name; its objects stay as they are."""
    there = qupath("other.tif", (30, 40))
    with pytest.raises(tv.RunError, match=r"other.tif \(30 × 40 px\).* of scan.tif \(400 × 300"):
        result_of().to_qupath(port=there.port, anyway=True)
    named = qupath("other.tif")
    with pytest.raises(tv.RunError, match=r"other.tif is open in QuPath.*anyway=True"):
        result_of().to_qupath(port=named.port)
    assert there.objects == named.objects == []
    assert "to other.tif" in result_of().to_qupath(port=named.port, anyway=True)


def test_what_is_missing_is_said(qupath: Any) -> None:
    """That tiles failed stands in the line."""
    said = partial().to_qupath(port=qupath().port)
    assert "33% of the area, were not analysed" in said and "\n" not in said


def test_no_qupath_no_image_and_no_token_are_one_line(qupath: Any) -> None:
    """What to do in QuPath, or to give here."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    with pytest.raises(tv.RunError, match=rf"No QuPath answers at port {free} .*Py4J Gateway"):
        result_of().to_qupath(port=free)
    with pytest.raises(tv.RunError, match="No image is open in QuPath"):
        result_of().to_qupath(port=qupath("").port)
    locked = qupath(token="secret")
    assert "Sent 4" in result_of().to_qupath(port=locked.port, token="secret")
    with pytest.raises(tv.RunError, match=r"wants a token\. Give token="):
        result_of().to_qupath(port=locked.port)
    with pytest.raises(tv.RunError, match="wants another token"):
        result_of().to_qupath(port=locked.port, token="guess")
    with pytest.raises(tv.RunError, match="wants another token, or none"):
        result_of().to_qupath(port=qupath().port, token="none is set")
    with pytest.raises(tv.RunError, match="port is 'x'"):
        result_of().to_qupath(port="x")


def test_nothing_is_logged_for_what_is_one_line(qupath: Any, caplog: Any) -> None:
    """py4j logs tracebacks: of a wrong token, and of objects that outlive the connection."""
    caplog.set_level(logging.WARNING)
    locked = qupath("other.tif", token="secret")
    with pytest.raises(tv.RunError, match="wants another token"):
        result_of().to_qupath(port=locked.port, token="guess")
    with pytest.raises(tv.RunError, match=r"other\.tif"):
        result_of().to_qupath(port=locked.port, token="secret")
    result_of().to_qupath(port=locked.port, token="secret", anyway=True)
    locked.gateway.shutdown()
    gc.collect()
    assert not caplog.records
    assert not logging.getLogger("py4j.java_gateway").filters


def test_what_qupath_refuses_changes_nothing(qupath: Any, monkeypatch: Any) -> None:
    """Its own words in one line; what an earlier call sent is still there."""
    there = qupath()
    result_of().to_qupath(port=there.port)
    before = there.objects
    broken = [{"type": "Feature", "geometry": {}, "properties": {}}]
    monkeypatch.setattr(qupathgateway, "qupath_features", lambda *_: iter(broken))
    with pytest.raises(tv.RunError, match=r"QuPath refused the objects: .*no coordinates\.$"):
        result_of().to_qupath(port=there.port)
    assert there.objects == before


def test_a_gateway_that_is_open_is_used_and_stays_open(qupath: Any) -> None:
    """As qubalab makes one, which converts lists by itself."""
    there = qupath()
    given = java_gateway.GatewayParameters(port=there.port, auto_convert=True)
    gateway = java_gateway.JavaGateway(gateway_parameters=given)
    for _ in range(2):
        result_of().to_qupath(gateway=gateway)
    assert gateway.entry_point.getQuPath() is not None
    gateway.close()
    assert len(there.objects) == 4
