"""Maps against truth for their pixels: the scores are those of scikit-learn, whatever the form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from inline_tiles import Inline, inline_runs  # noqa: F401 - fixtures
from matplotlib.figure import Figure
from PIL import Image

import tilevision as tv
from tilevision.evaluation import MapEvaluation, mapscoring
from tilevision.rasterspec import NODATA

metrics = pytest.importorskip("sklearn.metrics")
HEIGHT, WIDTH = 120, 170
NAMES = ["water", "tree", "road"]
RNG = np.random.default_rng(11)
NUMBERS = np.kron(RNG.integers(0, 3, (24, 34)), np.ones((5, 5), int)).astype(np.uint8)
HEIGHTS = RNG.normal(20, 8, (HEIGHT, WIDTH)).astype(np.float32)


def stored(pixels: np.ndarray) -> np.ndarray:
    """Class numbers as the picture has them."""
    return pixels[..., 0]


def heights(pixels: np.ndarray) -> np.ndarray:
    """Heights as the picture has them, from a byte."""
    values = pixels[..., 0] / 4.0
    return np.where(pixels[..., 0] == 200, np.nan, values)


CLASSES = tv.model(stored, returns="classes", classes=NAMES)
VALUES = tv.model(heights, returns="values", unit="m")
Run = Callable[..., Any]


@pytest.fixture
def run(inline: Callable[..., Inline], tmp_path: Path) -> Run:
    """Return what makes the result of a map that is `numbers` exactly."""

    def make(numbers: np.ndarray = NUMBERS, spec: Any = CLASSES, **given: Any) -> Any:
        image = tmp_path / "image.tif"
        tifffile.imwrite(image, np.stack([numbers] * 3, -1), photometric="rgb", tile=(64, 64))
        return Inline(image, spec, grid=tv.Grid.by_tile(64, 0.25), **given).conduct()

    del inline  # it makes runs stay in this process
    return make


def wrong(numbers: np.ndarray = NUMBERS, share: float = 0.3, classes: int = 3) -> np.ndarray:
    """Truth that differs from the map in a share of the pixels."""
    drawn = RNG.integers(0, classes, numbers.shape)
    return np.where(RNG.random(numbers.shape) < share, drawn, numbers).astype(np.uint8)


def check(score: MapEvaluation, true: np.ndarray, found: np.ndarray, names: Any = NAMES) -> None:
    """Compare with scikit-learn, of pixels that are known on both sides."""
    true, found = true.ravel(), found.ravel()
    labels = list(range(len(names)))
    matrix = metrics.confusion_matrix(true, found, labels=labels)
    assert np.array_equal(score.confusion.to_numpy(), matrix)
    assert list(score.confusion.index) == list(score.confusion.columns) == list(names)
    table = score.per_class.set_index("label").loc[list(names)]
    for column, measure in (
        ("iou", metrics.jaccard_score),
        ("dice", metrics.f1_score),
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
    ):
        expected = measure(true, found, labels=labels, average=None, zero_division=0)
        assert np.allclose(table[column].fillna(0), expected)  # it gives 0 for 0 of 0
    assert score.mean_iou == pytest.approx(np.nanmean(table["iou"]))
    assert score.accuracy == pytest.approx(metrics.accuracy_score(true, found))
    assert score.kappa == pytest.approx(metrics.cohen_kappa_score(true, found))
    assert score.n_pixels == len(true)


@pytest.mark.parametrize("block", [1024, 37])
def test_scores_are_those_of_scikit_learn(
    run: Run, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of the blocks that are compared."""
    monkeypatch.setattr(mapscoring, "_BLOCK", block)
    result, true = run(), wrong()
    check(tv.evaluate(result, true), true, NUMBERS)
    assert tv.evaluate(result, NUMBERS).mean_iou == 1


def test_truth_is_read_from_any_raster(run: Run, tmp_path: Path) -> None:
    """Files, arrays of any whole type, other maps; each gives the same scores."""
    result, true = run(), wrong()
    expected = tv.evaluate(result, true)
    Image.fromarray(true).save(tmp_path / "t.png")
    colours = Image.fromarray(true, "P")
    colours.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 200])
    colours.save(tmp_path / "p.png")
    tifffile.imwrite(tmp_path / "t.tif", true, tile=(64, 64))
    np.save(tmp_path / "t.npy", true.astype(np.int64))
    files = [tmp_path / name for name in ("t.png", "p.png", "t.tif", "t.npy")]
    given = [*files, str(files[0]), true.astype(np.int32), true.astype(float), true[..., None]]
    source = tv.open_source(files[2])
    for one in [*given, source]:
        assert tv.evaluate(result, one).confusion.equals(expected.confusion), one
    source.close()


def test_another_map_is_matched_by_the_names_of_its_classes(run: Run, tmp_path: Path) -> None:
    """Whatever their numbers are; also as it was saved, with its names beside it."""
    result, true = run(), wrong()
    turned = tv.model(stored, returns="classes", classes=["road", "tree", "water"])
    other = run(2 - true, turned)
    check(tv.evaluate(run(), other), true, NUMBERS)
    check(tv.evaluate(run(), other.raster), true, NUMBERS)
    pytest.importorskip("rasterio")
    path = run(2 - true, turned).save(tmp_path / "other.tif")
    check(tv.evaluate(run(), path), true, NUMBERS)
    del result


def test_what_is_not_known_is_left_out_and_counted(run: Run, tmp_path: Path) -> None:
    """255 on either side, no-data of a file, NaN; pixels outside the run's region on neither."""
    numbers, true = NUMBERS.copy(), wrong()
    numbers[:10], true[5:20] = NODATA, NODATA
    result = run(numbers)
    known = (numbers != NODATA) & (true != NODATA)
    score = tv.evaluate(result, true)
    check(score, true[known], numbers[known])
    assert (score.without_truth, score.without_answer) == (15 * WIDTH, 5 * WIDTH)
    assert f"({15 * WIDTH:,} without truth, {5 * WIDTH:,} without an answer)" in str(score)
    floats = np.where(true == NODATA, np.nan, true)
    assert tv.evaluate(result, floats).confusion.equals(score.confusion)
    region = tv.Box(20, 30, 100, 90)
    part = tv.evaluate(run(region=region), true)
    inside = np.s_[30:90, 20:100]
    check(part, true[inside], NUMBERS[inside])
    assert part.without_truth == part.without_answer == 0
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "nodata.tif"
    profile = {"driver": "GTiff", "width": WIDTH, "height": HEIGHT, "count": 1, "dtype": "int16"}
    with rasterio.open(path, "w", nodata=-7, **profile) as out:
        out.write(np.where(true == NODATA, -7, true.astype(np.int16)), 1)
    assert tv.evaluate(result, path).confusion.equals(score.confusion)


def test_values_of_the_truth_may_be_named(run: Run) -> None:
    """Two may be one class, None leaves out; what the map has no class for counts as missed."""
    result, true = run(), wrong()
    coded = np.array([10, 20, 30], np.uint16)[true]
    check(tv.evaluate(result, coded, classes={10: "water", 20: "tree", 30: "road"}), true, NUMBERS)
    known = true != 2
    part = tv.evaluate(result, coded, classes={10: "water", 20: "tree", 30: None})
    check(part, true[known], NUMBERS[known])
    assert part.without_truth == (~known).sum()
    strange = np.where(true == 2, 7, true)
    score = tv.evaluate(result, strange)
    assert list(score.confusion.index) == [*NAMES, "7"]
    check(score, np.where(true == 2, 3, true), NUMBERS, [*NAMES, "7"])


def test_pixels_of_no_class_are_missed(run: Run) -> None:
    """254, by thresholds: an answer that is none of the classes."""
    shares = tv.model(
        lambda pixels: np.stack([pixels[..., 0] / 4, 1 - pixels[..., 0] / 4]),
        fingerprint="shares",
        returns="probabilities",
        classes=NAMES[:2],
    )
    result = run(NUMBERS, shares).with_(thresholds={"water": 0.9, "tree": 0.7})
    assert set(np.unique(result.raster)) == {1, 254}
    score = tv.evaluate(result, np.ones_like(NUMBERS))
    # Where the number is 2, half against half: neither reaches its threshold.
    assert score.confusion.loc["tree", "(none)"] == (NUMBERS == 2).sum()
    assert score.per_class.set_index("label").loc["tree", "recall"] == (NUMBERS < 2).mean()
    assert score.mean_iou == pytest.approx((NUMBERS < 2).mean())


def test_values_are_measured_by_their_errors(run: Run) -> None:
    """MAE, RMSE, bias and R² as scikit-learn has them, of pixels known on both sides."""
    coded = RNG.integers(0, 200, (HEIGHT, WIDTH)).astype(np.uint8)
    coded[3, :40] = 200
    true = (coded / 4 + RNG.normal(0.5, 2, coded.shape)).astype(np.float32)
    true[:, 9] = np.nan
    score = tv.evaluate(run(coded, VALUES), true)
    known = ~np.isnan(true) & (coded != 200)
    pair = true[known], coded[known] / 4
    assert score.mae == pytest.approx(metrics.mean_absolute_error(*pair))
    assert score.rmse == pytest.approx(metrics.mean_squared_error(*pair) ** 0.5)
    assert score.r2 == pytest.approx(metrics.r2_score(*pair))
    assert score.bias == pytest.approx(float(np.mean(pair[1] - pair[0])))
    assert (score.without_truth, score.without_answer) == (HEIGHT, 39)
    assert score.to_frame()["n_pixels"].tolist() == [known.sum()]
    assert str(score).startswith("MAE ") and " m, RMSE" in repr(score)
    assert "<table" in score._repr_html_()


def test_truth_with_a_place_is_read_where_it_lies(run: Run, tmp_path: Path) -> None:
    """In the same reference system on any pixels; in another it is refused."""
    rasterio = pytest.importorskip("rasterio")
    place = rasterio.Affine(2.0, 0, 500_000.0, 0, -2.0, 4_000_000.0)

    def write(name: str, values: np.ndarray, transform: Any, crs: str = "EPSG:32633") -> Path:
        shape = {"width": values.shape[1], "height": values.shape[0], "dtype": values.dtype}
        bands = 1 if values.ndim == 2 else values.shape[2]
        path = tmp_path / name
        told = {"driver": "GTiff", "count": bands, "crs": crs, "transform": transform, **shape}
        with rasterio.open(path, "w", **told) as out:
            out.write(np.atleast_3d(values).transpose(2, 0, 1))
        return path

    image = write("scene.tif", np.stack([NUMBERS] * 3, -1), place)
    result = Inline(image, CLASSES, grid=tv.Grid.by_tile(64, 0.25)).conduct()
    true = wrong()
    check(tv.evaluate(result, write("same.tif", true, place)), true, NUMBERS)
    fine = write("fine.tif", np.kron(true, np.ones((4, 4), np.uint8)), place * place.scale(0.25))
    check(tv.evaluate(result, fine), true, NUMBERS)
    beside = write("part.tif", true[20:90, 30:], place * place.translation(30, 20))
    part = tv.evaluate(result, beside)
    check(part, true[20:90, 30:], NUMBERS[20:90, 30:])
    assert part.without_truth == NUMBERS.size - true[20:90, 30:].size
    away = write("away.tif", true, place * place.translation(1e5, 0))
    with pytest.raises(tv.SourceError, match="lies beside the map"):
        tv.evaluate(result, away)
    other = write("other.tif", true, rasterio.Affine(1e-5, 0, 15, 0, -1e-5, 36), "EPSG:4326")
    with pytest.raises(tv.SourceError, match=r"is in EPSG:4326, and the map in EPSG:32633; bring"):
        tv.evaluate(result, other)


def test_a_map_of_another_scale_takes_truth_of_the_image(run: Run) -> None:
    """Of each of its pixels what is true in its middle; or truth of its own size."""
    result = run(resolution=0.5)
    true = wrong()
    found = np.asarray(result.raster)
    score = tv.evaluate(result, true)
    check(score, true[1::2, 1::2], found)
    small = wrong(found)
    check(tv.evaluate(result, small), small, found)


@pytest.mark.parametrize(
    ("truth", "given", "said"),
    [
        (
            NUMBERS + 50,
            {},
            r"No class of the map \('water', 'tree', 'road'\) is in the truth, which",
        ),
        (
            NUMBERS[:50],
            {},
            r"has 170×50 px, and the map 170×120; give truth of the size of the map",
        ),
        (NUMBERS + 0.5, {}, "holds 0.5, which is no class number"),
        (np.stack([NUMBERS] * 3, -1), {}, "has 3 bands; that of a map of classes has one"),
        (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH), {}, "more than 1,000 different values"),
        (np.full_like(NUMBERS, NODATA), {}, "nothing to compare: of 20,400 pixels 20,400 are wi"),
        (np.full((HEIGHT, WIDTH), "tree"), {}, "The truth is no raster of numbers"),
        (np.zeros((HEIGHT, WIDTH), complex), {}, "The truth is no raster of numbers"),
        (tv.Findings(), {}, "The result is a map, which is compared with a raster; give a file"),
        ("nowhere.png", {}, "nowhere.png"),
        ("bad.npy", {}, "bad.npy cannot be read as truth"),
        (NUMBERS, {"classes": {"x": "tree"}}, "give {value of the truth: class of the map}"),
    ],
)
def test_truth_that_does_not_fit_is_one_line(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    truth: Any,
    given: dict[str, Any],
    said: str,
) -> None:
    """It says what came, what the map has, and what to give."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY no")
    with pytest.raises(tv.TilevisionError, match=said) as caught:
        tv.evaluate(run(), truth, **given)
    assert "\n" not in str(caught.value)


def test_a_score_is_shown_as_text_table_and_figure(run: Run) -> None:
    """In a shell, a notebook and a plot; a name is text and no markup."""
    spec = tv.model(stored, returns="classes", classes=["<b>", "tree", "road"])
    score = tv.evaluate(run(NUMBERS, spec), wrong())
    assert str(score).startswith("mean IoU 0.") and "All 12 tiles were analysed." in str(score)
    assert repr(score).count("\n") == 5 and "dice" in repr(score)
    assert "<table" in score._repr_html_() and "<b>" not in score._repr_html_()
    assert score.to_frame().label.tolist()[-1] == "mean"
    assert score.to_frame().iou.iloc[-1] == pytest.approx(score.mean_iou)
    figure = score.plot()
    assert {text.get_text() for text in figure.axes[0].get_xticklabels()} == {"<b>", "tree", "road"}
    own = Figure()
    ax = own.subplots()
    assert score.plot(ax=ax) is own
    assert ax.images and ax.get_xlabel() == "map"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(run: Run) -> None:
    """Both sides are read by blocks: the most that is held is of one of them."""
    import tracemalloc

    numbers = np.kron(NUMBERS, np.ones((20, 20), np.uint8))[:2048, :3072]
    result = run(numbers)
    tracemalloc.start()
    score = tv.evaluate(result, numbers)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert score.accuracy == 1 and most < 60e6
