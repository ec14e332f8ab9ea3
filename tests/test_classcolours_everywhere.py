"""One class has one colour everywhere: in every picture and every file that has colours."""

from __future__ import annotations

import gzip
import json
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import tifffile
from inline_tiles import Inline, inline_runs  # noqa: F401 - fixtures

import tilevision as tv
from tilevision.colouring import class_colours, classcolours
from tilevision.evaluation import compare, evaluate
from tilevision.exporting.bridges import handover
from tilevision.exporting.geojson import qupath_features
from tilevision.view.compare.compareview import CompareView
from tilevision.view.live import LiveView
from tilevision.view.mapping.mapchoice import choices_of
from tilevision.view.mapping.maplegend import legend_of
from tilevision.view.outcome.findingstable import packed
from tilevision.view.outcome.mapreport import map_report
from tilevision.view.outcome.report import report_of
from tilevision.view.panel.inspector import tile_rows
from tilevision.view.picture.boxes import BoxLayer
from tilevision.view.picture.viewstate import initial

Make = Callable[..., Inline]
NAME, OTHER = "stroma & <b>", "tumour"
CHOSEN = "#123abc"


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Return what makes this process one that has read no colours; none stays after a test."""
    before = dict(classcolours.CHOSEN)

    def afresh() -> None:
        classcolours.CHOSEN.clear()
        monkeypatch.setattr(classcolours, "_read", {})

    afresh()
    yield afresh
    classcolours.CHOSEN.clear()
    classcolours.CHOSEN.update(before)


def objects(pixels: np.ndarray) -> list[dict[str, Any]]:
    """Find one object of each of two classes in each tile."""
    return [
        {"box": (2, 2, 9, 9), "label": NAME, "score": 0.9},
        {"box": (14, 14, 25, 25), "label": OTHER, "score": 0.8},
    ]


def shares(pixels: np.ndarray) -> np.ndarray:
    """Say that most of each tile is the first class."""
    first = np.full(pixels.shape[:2], 0.8)
    first[:4] = 0.1
    return np.stack([first, 1 - first])


MODELS = {
    "objects": tv.model(objects),
    "map": tv.model(shares, returns="probabilities", classes=(NAME, OTHER)),
}


@pytest.fixture
def results(inline: Make, tmp_path: Path) -> dict[str, Any]:
    """A result with objects and one with a map, kept in one folder."""
    folder = str(tmp_path / "kept")
    return {kind: inline(made, checkpoint=folder).conduct() for kind, made in MODELS.items()}


# Where a class has a colour. Each returns those of the first class, "#rrggbb". --------------------


def _hex(values: Any) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(int(value) for value in list(values)[:3]))


def _plot(result: Any, _: Path) -> set[str]:
    """Of lines over the picture, and in the legend."""
    axes = result.plot().axes[0]
    drawn = {
        mpl.colors.to_hex(colour) for one in axes.collections for colour in one.get_edgecolor()
    }
    legend = axes.get_legend()
    texts = [text.get_text() for text in legend.get_texts()]
    (at,) = [n for n, words in enumerate(texts) if NAME in words]
    handle = legend.legend_handles[at]
    key = handle.get_facecolor() if hasattr(handle, "get_facecolor") else handle.get_color()
    colour = mpl.colors.to_hex(key)
    assert colour in drawn or not len(result.findings)
    return {colour}


def _table(result: Any, _: Path) -> set[str]:
    _, names, colours, *_ = packed(result)
    return {colours[names.index(NAME)]}


def _boxes(result: Any, _: Path) -> set[str]:
    layer = BoxLayer.of(result.findings)
    return {dict(zip(layer.labels, layer.colours, strict=True))[NAME]}


def _inspector(result: Any, _: Path) -> set[str]:
    rows = tile_rows(result.tile_findings[0])
    return {rows["colours"][rows["labels"].index(NAME)]}


def _features(features: Any) -> set[str]:
    kinds = [one["properties"]["classification"] for one in features]
    return {_hex(kind["color"]) for kind in kinds if kind["name"] == NAME}


def _qupath(result: Any, folder: Path) -> set[str]:
    plain = json.loads(result.save(folder / "a.qupath.geojson").read_text())
    zipped = gzip.decompress(result.save(folder / "a.qupath.geojson.gz").read_bytes())
    slide = json.loads(result.save(folder / "a.geojson").read_text())  # no place on Earth
    return set().union(*(_features(one["features"]) for one in (plain, json.loads(zipped), slide)))


def _gateway(result: Any, _: Path) -> set[str]:
    return _features(qupath_features(result, (0, 0), "annotation"))


def _napari(result: Any, _: Path) -> set[str]:
    """Napari gives the colours of a cycle to the names of classes in sorted order."""
    _, settings, _ = handover.shapes_of(result)
    labels = np.unique(settings["features"]["label"]).tolist()
    cycle = dict(zip(labels, settings["edge_color_cycle"], strict=True))
    return {cycle[NAME]}


def _swipe(result: Any, _: Path) -> set[str]:
    with _open(CompareView(compare(result, result.with_(min_score=0.85)))) as view:
        legend = view._sides.legend("swipe")
    return {entry["colour"] for entry in legend if entry["words"].startswith(NAME[:6])}


def _watched(result: Any, _: Path) -> set[str]:
    """The picture of `tv.watch` reads the folder of a run in this process."""
    run = SimpleNamespace(
        id="r",
        name="x",
        model=SimpleNamespace(name="m"),
        source=result.source,
        tiles=tuple(row.tile for row in result.rows),
        checkpoint=result.facts.checkpoint,
        events=lambda: list(result.rows),
        subscribe=lambda _: lambda: None,
    )
    with _open(LiveView(run)):  # type: ignore[arg-type]
        return {class_colours([NAME])[NAME]}


def _results_tab(result: Any, _: Path) -> set[str]:
    state = initial([row.tile for row in result.rows], planned=True)
    return {row[1] for row in report_of(result, state, "run")["classes"] if row[0][:6] == NAME[:6]}


def _map(result: Any, _: Path) -> set[str]:
    raster = result.raster
    number = raster.classes[NAME]
    picture, stands = raster.cover()
    _, y = np.unravel_index(0, (1, 1)), picture.shape[0] - 1
    words = re.findall(r"background:(#\w{6})'></span> ([^<]*)<", raster._repr_html_())
    (shown,) = {colour for colour, name in words if name.startswith("stroma")}
    return {_hex(raster.colours[number]), stands[NAME], _hex(picture[y, 0]), shown}


def _map_views(result: Any, _: Path) -> set[str]:
    """The layer of the panel, its legend and the areas of the Results tab."""
    raster, choice = result.raster, choices_of(result.raster)[0]
    (entry,) = [one for one in legend_of(raster, choice, None) if one["words"].startswith("stroma")]
    (row,) = [one for one in map_report(raster, "ha", ended=True)["rows"] if one[0][:6] == NAME[:6]]
    painted = choice.palette(raster, frozenset())[raster.classes[NAME]]
    return {entry["colour"], row[1], _hex(painted)}


def _geotiff(result: Any, folder: Path) -> set[str]:
    rasterio = pytest.importorskip("rasterio")
    path = result.save(folder / "a.tif")
    number = result.raster.classes[NAME]
    with rasterio.open(path) as read:
        found = {_hex(read.colormap(1)[number])}
        said = json.loads(read.tags()["TILEVISION"])
    table = ET.parse(path.with_name("a.tif.aux.xml")).getroot()
    rows = [[cell.text for cell in row] for row in table.iter("Row")]
    found |= {_hex(row[2:]) for row in rows if row[1] == NAME}
    return found | {said["colours"][NAME]}


def _ome_tiff(result: Any, folder: Path) -> set[str]:
    path = result.save(folder / "a.ome.tif", layer="probabilities")
    with tifffile.TiffFile(path) as read:
        told = ET.fromstring(read.ome_metadata or "")
    channels = [one.attrib for one in told.iter() if one.tag.endswith("}Channel")]
    (colour,) = [int(one["Color"]) for one in channels if one["Name"] == NAME]
    with tifffile.TiffFile(result.save(folder / "b.ome.tif")) as read:
        assert CHOSEN in (read.ome_metadata or "")
    return {_hex(colour.to_bytes(4, signed=True))}


def _ome_zarr(result: Any, folder: Path) -> set[str]:
    pytest.importorskip("zarr")
    number = result.raster.classes[NAME]

    def ome(name: str, **options: Any) -> Any:
        path = result.save(folder / name, **options)
        return json.loads((path / "zarr.json").read_text())["attributes"]["ome"]

    labels = ome("a.ome.zarr")["image-label"]
    assert {"label-value": number, "class": NAME} in labels["properties"]
    found = {_hex(one["rgba"]) for one in labels["colors"] if one["label-value"] == number}
    channels = ome("b.ome.zarr", layer="probabilities")["omero"]["channels"]
    return found | {f"#{one['color'].lower()}" for one in channels if one["label"] == NAME}


def _napari_map(result: Any, _: Path) -> set[str]:
    _, settings, _ = handover._map(result, {})
    return {_hex(np.round(settings["colormap"][result.raster.classes[NAME] + 1] * 255))}


@contextmanager
def _open(view: Any) -> Iterator[Any]:
    try:
        yield view
    finally:
        view.close()


# What is drawn into a picture that is open takes the colours that the picture has read.
ALONE: dict[str, tuple[str, Callable[[Any, Path], set[str]]]] = {
    "plot": ("objects", _plot),
    "plot of a map": ("map", _plot),
    "QuPath files": ("objects", _qupath),
    "QuPath itself": ("objects", _gateway),
    "napari": ("objects", _napari),
    "Compare": ("objects", _swipe),
    "tv.watch": ("objects", _watched),
    "map": ("map", _map),
    "GeoTIFF": ("map", _geotiff),
    "OME-TIFF": ("map", _ome_tiff),
    "OME-Zarr": ("map", _ome_zarr),
    "napari, map": ("map", _napari_map),
}
IN_A_PICTURE: dict[str, tuple[str, Callable[[Any, Path], set[str]]]] = {
    "table": ("objects", _table),
    "picture": ("objects", _boxes),
    "inspector": ("objects", _inspector),
    "Results": ("objects", _results_tab),
    "map in the panel": ("map", _map_views),
}


@pytest.mark.parametrize("place", [*ALONE, *IN_A_PICTURE])
def test_one_class_has_one_colour_everywhere(
    results: dict[str, Any], place: str, tmp_path: Path
) -> None:
    """As soon as it is chosen, through any result of the folder."""
    kind, colours = (ALONE | IN_A_PICTURE)[place]
    next(one for name, one in results.items() if name != kind).set_colours({NAME: CHOSEN})
    assert colours(results[kind], tmp_path) == {CHOSEN}


@pytest.mark.parametrize("place", ALONE)
def test_another_process_has_the_same_colours(
    results: dict[str, Any], place: str, tmp_path: Path, forget: Callable[[], None]
) -> None:
    """Whatever is drawn or saved first there: nothing has to be opened before it."""
    kind, colours = ALONE[place]
    results[kind].set_colours({NAME: CHOSEN})
    forget()
    assert colours(results[kind], tmp_path) == {CHOSEN}


@pytest.mark.parametrize("place", ALONE)
def test_a_result_has_the_colours_of_its_own_folder(
    inline: Make, results: dict[str, Any], place: str, tmp_path: Path
) -> None:
    """Not of another that was looked at meanwhile, so that a file does not depend on that."""
    kind, colours = ALONE[place]
    results[kind].set_colours({NAME: CHOSEN})
    colours(results[kind], tmp_path)
    other = inline(MODELS[kind], checkpoint=str(tmp_path / "other")).conduct()
    other.set_colours({NAME: "#fedcba"})
    assert colours(results[kind], tmp_path) == {CHOSEN}


def test_plots_of_parts_have_no_colour_of_a_class(results: dict[str, Any]) -> None:
    """There a colour says found, missed or only in A; a chosen one must not look like that."""
    result = results["objects"]
    result.set_colours({NAME: CHOSEN})
    score = evaluate(result, result.findings)
    for figure in (compare(result, result.with_(min_score=0.85)).plot(), score.plot()):
        drawn = {
            mpl.colors.to_hex(colour)
            for axes in figure.axes
            for one in (*axes.collections, *axes.patches)
            for colour in [*np.atleast_2d(one.get_edgecolor()), *np.atleast_2d(one.get_facecolor())]
            if len(colour)
        }
        assert CHOSEN not in drawn


def test_a_look_at_the_folder_costs_next_to_nothing(results: dict[str, Any]) -> None:
    """A map's colours are asked for at every frame: nothing that has not changed is read again."""
    raster = results["map"].raster
    results["map"].set_colours({NAME: CHOSEN})
    path = Path(results["map"].facts.checkpoint, classcolours.FILE)
    before = classcolours.colours_version()
    assert all(_hex(raster.colours[0]) == CHOSEN for _ in range(3))
    assert classcolours.colours_version() == before  # so no picture is drawn again for it
    time.sleep(0.01)  # another time of change
    path.write_text(json.dumps({"colours": {NAME: "#00ff00"}}))
    assert _hex(raster.colours[0]) == "#00ff00"
