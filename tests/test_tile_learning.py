"""Clusters, maps and probes of tiles by their vectors: right on what is known, honest on little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inline_tiles import Inline, inline_runs  # noqa: F401 - fixtures

import tilevision as tv
from tilevision.analysis import clustering, probing
from tilevision.analysis.embeddings import embeddings_of
from tilevision.batch.batch import Batch
from tilevision.checkpoint.payloadstore import PayloadMemory
from tilevision.payloads import StoredArray, bytes_of

Make = Callable[..., Inline]
pytest.importorskip("sklearn")


def many(vectors: np.ndarray, missing: tuple[int, ...] = ()) -> tuple[Any, list[tv.Tile]]:
    """Embeddings of as many tiles, in a row; those `missing` have none."""
    tiles = tv.Grid(rows=1, cols=len(vectors), overlap=0.0).tiles((len(vectors) * 10, 10))
    store, found = PayloadMemory(), []
    for row, (tile, vector) in enumerate(zip(tiles, vectors, strict=True)):
        if row not in missing:
            ref, raw = bytes_of(vector)
            store.add({ref.digest: raw})
            found.append(tv.TileFindings(tile, tv.Findings(), vector=StoredArray(ref, store)))
    return embeddings_of(tiles, found), list(tiles)


def groups(counts: tuple[int, ...], width: int = 24, noise: float = 0.1) -> tuple[Any, Any]:
    """Vectors around one direction for each group, of very different lengths; and the groups."""
    rng = np.random.default_rng(5)
    centres = np.eye(width)[: len(counts)]
    kinds = np.repeat(np.arange(len(counts)), counts)
    vectors = centres[kinds] + noise * rng.standard_normal((len(kinds), width))
    order = rng.permutation(len(kinds))
    lengths = rng.uniform(0.5, 50, (len(kinds), 1))
    return (vectors * lengths)[order].astype(np.float32), kinds[order]


# Clusters -----------------------------------------------------------------------------------


def test_clusters_are_the_groups_by_size_whatever_the_lengths() -> None:
    """The largest is 0; tiles without a vector are in none."""
    vectors, kinds = groups((20, 30, 10))
    embeddings, tiles = many(vectors, missing=(3,))
    found = clustering.clusters(embeddings, tiles, 3)
    assert len(found) == 59 and tiles[3].id not in set(found["id"])
    expected = np.delete(np.array([1, 0, 2])[kinds], 3)
    np.testing.assert_array_equal(found["cluster"], expected)
    assert found.loc[0, ["xmin", "xmax"]].tolist() == [0, 10]
    again = clustering.clusters(embeddings, tiles, 3)
    assert again.equals(found)


def test_zero_vectors_and_equal_ones_are_no_obstacle() -> None:
    """They have no direction, and fall in with something."""
    vectors = np.zeros((6, 4), np.float32)
    vectors[:3, 0] = 1
    found = clustering.clusters(*many(vectors), 2)
    assert found["cluster"].nunique() == 2
    assert found["cluster"][:3].nunique() == found["cluster"][3:].nunique() == 1


@pytest.mark.parametrize("k", [0, 1, 13, 2.5, "three"])
def test_a_number_of_clusters_that_makes_no_sense_is_refused(k: Any) -> None:
    """One line, whatever was given."""
    with pytest.raises(tv.RunError, match="k"):
        clustering.clusters(*many(groups((6, 6))[0]), k)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_map_keeps_what_looks_alike_together(method: str) -> None:
    """Tiles of a group lie nearer to their own middle than to the other's."""
    vectors, kinds = groups((15, 15))
    found = clustering.flat_map(*many(vectors), method)
    places = found[["x", "y"]].to_numpy()
    middles = np.array([places[kinds == kind].mean(axis=0) for kind in (0, 1)])
    nearest = np.square(places[:, None] - middles).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, kinds)


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("width", [1, 8])
def test_a_map_of_two_kinds_of_tiles_is_two_places(
    method: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie on a line; t-SNE, which is for more than that, is not asked."""
    monkeypatch.setattr("sklearn.manifold.TSNE", None)
    signs = np.repeat(np.array([[-1.0], [1.0]], np.float32), 10, axis=0)
    apart = clustering.flat_map(*many(np.tile(signs, (1, width))), method)
    places = apart[["x", "y"]].to_numpy()
    np.testing.assert_allclose(places[:10], np.broadcast_to(places[0], (10, 2)), atol=1e-5)
    np.testing.assert_allclose(places[10:], np.broadcast_to(places[10], (10, 2)), atol=1e-5)
    assert abs(places[0, 0] - places[10, 0]) > 1


def test_fewer_kinds_of_tiles_than_clusters_are_said() -> None:
    """The table has as many clusters as there are, and a line says so."""
    vectors = np.zeros((6, 4), np.float32)
    vectors[:3, 0] = 1
    with pytest.warns(UserWarning, match="2 of the 4 clusters that were asked for"):
        found = clustering.clusters(*many(vectors), 4)
    assert found["cluster"].nunique() == 2


def test_a_map_of_too_many_tiles_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """t-SNE would take hours."""
    monkeypatch.setattr(clustering, "_MOST_TSNE", 10)
    embeddings, tiles = many(groups((6, 6))[0])
    with pytest.raises(tv.RunError, match="give method='pca'"):
        clustering.flat_map(embeddings, tiles, "tsne")
    with pytest.raises(tv.RunError, match="give pca or tsne"):
        clustering.flat_map(embeddings, tiles, "umap")


# Probes -------------------------------------------------------------------------------------


def fitted(vectors: np.ndarray, classes: np.ndarray, chosen: list[int]) -> Any:
    embeddings, tiles = many(vectors)
    given: dict[str, list[str]] = {}
    for row in chosen:
        given.setdefault(f"class {classes[row]}", []).append(tiles[row].id)
    return probing.fit_probe(embeddings, tiles, probing.labelled(embeddings, tiles, given))


@pytest.mark.parametrize("counts", [(40, 40), (30, 30, 30)])
def test_a_probe_tells_apart_what_it_has_not_seen(counts: tuple[int, ...]) -> None:
    """From five tiles of each class all others are told, and leaving one out says so."""
    vectors, kinds = groups(counts)
    chosen = [row for kind in range(len(counts)) for row in np.flatnonzero(kinds == kind)[:5]]
    shares, tested = fitted(vectors, kinds, chosen)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_array_equal(shares.argmax(axis=1), kinds)
    assert tested["right"] == tested["tested"] == tested["parts"] == 5 * len(counts)


def test_a_probe_is_the_regression_of_its_library_on_the_whole_vectors() -> None:
    """Worked out in the space of the labelled tiles, the answer is that in the full space."""
    from sklearn.linear_model import LogisticRegression

    vectors, kinds = groups((20, 20), width=60, noise=0.4)
    chosen = [*np.flatnonzero(kinds == 0)[:6], *np.flatnonzero(kinds == 1)[:4]]
    shares, _ = fitted(vectors, kinds, chosen)
    whole = vectors.astype(np.float64)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    whole -= whole.mean(axis=0)
    whole /= np.sqrt(np.square(whole).sum(axis=1).mean())
    theirs = LogisticRegression(C=10.0, max_iter=1000, tol=1e-8).fit(whole[chosen], kinds[chosen])
    np.testing.assert_allclose(shares, theirs.predict_proba(whole), atol=2e-3)


def test_labels_without_any_pattern_are_not_told_apart() -> None:
    """Leaving one out says so: about half are right, and the interval holds a half."""
    rng = np.random.default_rng(8)
    vectors = rng.standard_normal((200, 50)).astype(np.float32)
    classes = np.arange(200) % 2
    _, tested = fitted(vectors, classes, list(range(60)))
    probe = probing.Probe((), {"a": 30, "b": 30}, None, result=None, **tested)
    low, high = probe.interval
    assert low < 0.5 < high and 0.2 < probe.accuracy < 0.8
    assert "always saying the most frequent class gives 50%" in probe.summary


def test_many_labels_are_left_out_in_ten_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one would take long, and the summary says how it was done."""
    monkeypatch.setattr(probing, "_ONE_BY_ONE", 20)
    vectors, kinds = groups((40, 40))
    _, tested = fitted(vectors, kinds, list(range(60)))
    probe = probing.Probe((), {"a": 30, "b": 30}, None, result=None, **tested)
    assert (tested["tested"], tested["parts"]) == (60, 10) and "in 10 parts" in probe.summary


@pytest.mark.parametrize(
    ("right", "tested", "low", "high"),
    [(10, 10, 0.7225, 1.0), (9, 12, 0.4677, 0.9111), (0, 5, 0.0, 0.4345)],
)
def test_the_interval_is_wilsons(right: int, tested: int, low: float, high: float) -> None:
    """As tables give it: ten of ten are no certainty."""
    probe = probing.Probe((), {"a": 1}, None, right, tested, tested, 0, None)
    assert probe.interval == pytest.approx((low, high), abs=5e-4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"a": ["r000c000"]}, "give two or more"),
        ({"a": ["r000c000"], "b": []}, "Class 'b' has no tile"),
        ({"a": ["r000c000"], "b": ["r009c000"]}, "no tile 'r009c000'"),
        ({"a": ["r000c000"], "b": ["r000c002"]}, "Tile r000c002 has no vector"),
        ({"a": ["r000c000"], "b": ["r000c000"]}, "labelled 'a' and 'b'"),
        (["r000c000"], "give two or more"),
        ({"a": [3], "b": ["r000c001"]}, "no tile 3"),
    ],
)
def test_labels_that_make_no_sense_are_refused(given: Any, said: str) -> None:
    """By name, in one line."""
    embeddings, tiles = many(groups((6, 6))[0], missing=(2,))
    with pytest.raises(tv.RunError, match=said):
        probing.labelled(embeddings, tiles, given)


# Of a result --------------------------------------------------------------------------------


def tone(pixels: np.ndarray) -> np.ndarray:
    """Dark and bright tiles point in two directions."""
    value = float(pixels[0, 0, 0])
    return np.array([value, 70 - value, 5.0])


def test_a_probe_paints_the_image_as_any_classifier(inline: Make, tmp_path: Path) -> None:
    """Its result has the probabilities as those of its tiles: heat map, files, the account."""
    result = inline(tv.model(tone, returns="embedding")).conduct()
    ids = list(result.tiles["id"])
    probe = result.probe({"dark": ids[:2], "bright": ids[4:]})
    assert probe.labels == ("bright", "dark") and probe.counts == {"bright": 2, "dark": 2}
    assert list(probe.probabilities.columns) == ["id", "bright", "dark"]
    bright = probe.probabilities["bright"].to_numpy()
    assert (np.diff(bright) > 0).all() and bright[0] < 0.5 < bright[-1]
    heat = probe.result.heatmap(cell=32.0)
    np.testing.assert_allclose(heat.of("bright").ravel(), bright, atol=1e-6)
    assert probe.result.save(tmp_path / "a.heatmap.png").stat().st_size
    assert len(probe.result.similar(ids[0], k=3)) == 3
    assert "fewer than 10 tiles of a class" in repr(probe) and probe.touching == 4
    assert "adjoin another of their class" in repr(probe)
    assert not result.tile_findings[0].findings.tile_scores  # the result itself is as it was


def test_one_tile_of_a_class_cannot_be_tested(inline: Make) -> None:
    """It is told so, and no accuracy is made up."""
    result = inline(tv.model(tone, returns="embedding")).conduct()
    ids = list(result.tiles["id"])
    probe = result.probe({"dark": ids[:1], "bright": ids[4:]})
    assert np.isnan(probe.accuracy) and probe.interval == (0.0, 1.0)
    assert "cannot be tested: label more" in probe.summary


def test_a_result_clusters_and_maps_its_tiles(inline: Make) -> None:
    """By the same functions; without vectors it says what is missing."""
    result = inline(tv.model(tone, returns="embedding")).conduct()
    found = result.cluster(2)
    assert found["cluster"].tolist() in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])
    assert len(result.embedding_map()) == 6
    with pytest.raises(tv.RunError, match="use an encoder"):
        inline().conduct().cluster(2)


def test_without_the_library_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, before anything is read."""
    monkeypatch.setattr(clustering, "find_spec", lambda _: None)
    with pytest.raises(tv.RunError, match=r"need scikit-learn.*tilevision\[embeddings\]"):
        clustering.clusters(*many(groups((6, 6))[0]), 2)


# Of many images -----------------------------------------------------------------------------


def test_similar_tiles_are_found_in_all_images(inline: Make) -> None:
    """Named by image and tile; the one asked about is not among them, its like in others are."""
    same = inline(tv.model(tone, returns="embedding")).conduct()
    bare = inline().conduct()
    batch = Batch([], {"a.tif": lambda: same, "b.tif": lambda: same, "c.tif": lambda: bare}, {})
    found = batch.similar(("b.tif", "r000c001"), k=4)
    assert list(found.columns[:2]) == ["image", "id"] and len(found) == 4
    assert (found["image"][0], found["id"][0]) == ("a.tif", "r000c001")
    assert found["similarity"][0] == pytest.approx(1)
    assert (np.diff(found["similarity"]) <= 0).all()
    near = batch.similar(tone(np.full((1, 1, 3), 60)), k=2, metric="euclidean")
    assert near["id"].tolist() == ["r001c002", "r001c002"] and near["distance"].tolist() == [0, 0]
    with pytest.raises(tv.RunError, match=r"no result of an image 'd\.tif'; there are a\.tif"):
        batch.similar(("d.tif", "r000c000"))
    with pytest.raises(tv.RunError, match=r"No tile of c\.tif has a vector"):
        batch.similar(("c.tif", "r000c000"))
    with pytest.raises(tv.RunError, match="No image of this run has vectors"):
        Batch([], {"c.tif": lambda: bare}, {}).similar([1.0])
