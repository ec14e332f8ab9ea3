"""A vector for each tile: what may be returned, what is kept, and what a result gives back."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inline_tiles import Inline, inline_runs  # noqa: F401 - fixtures

import tilevision as tv
from tilevision.analysis import embeddings as embeddings_module
from tilevision.analysis.embeddings import Embeddings, embeddings_of, similar
from tilevision.batch.imagenames import targets
from tilevision.checkpoint import Checkpoint, MemoryCheckpoint
from tilevision.checkpoint.payloadstore import PayloadMemory
from tilevision.history.runrecord import Recording
from tilevision.history.storedresult import ReadRun, planned_result, stored_result
from tilevision.modelspec import build
from tilevision.payloads import StoredArray, arrays_of, bytes_of
from tilevision.status import TileStatus

Make = Callable[..., Inline]
TILE = np.full((32, 32, 3), 50, np.uint8)


def encoder(pixels: np.ndarray) -> np.ndarray:
    """Return five numbers that no other tile of the picture has."""
    return np.arange(5) / 3 + pixels[0, 0, 0]


EMBEDDING = tv.model(encoder, returns="embedding")


def expected(dtype: str = "float16") -> np.ndarray:
    """What `encoder` says of the six tiles of the picture, row by row."""
    return np.array([encoder(np.full((1, 1, 3), 10 * n)) for n in range(1, 7)]).astype(dtype)


def one(f: Any, **declared: Any) -> Any:
    """What a model says of one tile."""
    return build(tv.model(f, fingerprint="x", returns="embedding", **declared)).predict([TILE])[0]


# What may be returned -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        np.array([1.0, 2.5, -3.0]),
        np.array([[1, 2.5, -3]], np.float32),
        np.array([1, 2.5, -3], np.float16),
        [1, 2.5, -3],
        tv.Findings(embedding=[1, 2.5, -3]),
    ],
)
def test_a_vector_comes_in_any_form(answer: Any) -> None:
    """An array of one tile or of a batch of one, a list, findings: the same numbers."""
    assert one(lambda _: answer).embedding.tolist() == [1, 2.5, -3]


def test_tensors_are_vectors() -> None:
    """Also those that still know their gradients, and types that NumPy lacks."""
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([1.0, 2.5], requires_grad=True)
    assert one(lambda _: tensor).embedding.tolist() == [1, 2.5]
    assert one(lambda _: tensor.bfloat16()[None]).embedding.tolist() == [1, 2.5]


@pytest.mark.parametrize("pack", [np.array, list])
def test_a_batch_is_an_array_or_a_list(pack: Any) -> None:
    """A batched function returns ``(n, d)``, or n vectors; another number of rows is refused."""
    rows = [[1.0, 2.0], [3.0, 4.0]]
    spec = tv.model(lambda batch: pack(rows), fingerprint="b", batched=True, returns="embedding")
    found = build(spec).predict([TILE, TILE])
    assert [each.embedding.tolist() for each in found] == rows
    with pytest.raises(tv.ModelError, match=r"3 tiles and returned 2 vectors"):
        build(spec).predict([TILE] * 3)


def test_an_object_may_return_vectors() -> None:
    """An object with ``predict`` returns ``(n, d)`` for its batch."""

    class Encoder:
        fingerprint = "v1"

        def predict(self, batch: Any) -> Any:
            return np.array([[pixels.mean(), 2.0] for pixels in batch])

    found = build(tv.model(Encoder(), returns="embedding")).predict([TILE, TILE + 1])
    assert [each.embedding.tolist() for each in found] == [[50, 2], [51, 2]]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "shape"),
        (np.zeros((2, 5)), r"shape \(2, 5\)"),
        (np.zeros(0), "1 to 8,192 numbers"),
        (np.zeros(8193), "1 to 8,192 numbers"),
        (np.array(["a", "b"]), "1 to 8,192 numbers"),
        ([[1, 2], [3]], "1 to 8,192 numbers"),
        (np.array([1, np.nan]), "holds nan at place 1"),
        (np.array([np.inf, 1]), "holds inf at place 0"),
        (np.array([1, 1e300]), "holds 1e[+]300 at place 1"),
        (tv.Findings(), "returned findings without one"),
    ],
)
def test_what_is_no_vector_is_refused_by_name(answer: Any, said: str) -> None:
    """The tile fails with one line: which model, what came, what it should be."""
    with pytest.raises(tv.ModelError, match=said) as caught:
        one(lambda _: answer)
    assert "\n" not in str(caught.value) and "model" in str(caught.value).lower()


def test_declarations_are_checked_and_are_part_of_the_model() -> None:
    """Another precision is another model; a default that is written out is not."""
    plain = tv.model(encoder)
    marks = {
        plain.fingerprint,
        EMBEDDING.fingerprint,
        tv.model(encoder, returns="embedding", precision="float32").fingerprint,
    }
    assert len(marks) == 3
    spelled = tv.model(encoder, returns="embedding", precision="float16")
    assert spelled.fingerprint == EMBEDDING.fingerprint
    assert tv.model(encoder, returns="", precision="float16").fingerprint == plain.fingerprint
    with pytest.raises(
        tv.ModelError, match=r"returns of model encoder is 'vector'; give one of emb"
    ):
        tv.model(encoder, returns="vector")
    with pytest.raises(tv.ModelError, match="give 'float16' or 'float32'"):
        tv.model(encoder, precision="int8")


def test_findings_carry_their_vector() -> None:
    """What selects or moves detections leaves the tile's vector; it is read-only, and counts."""
    found = tv.Findings([[0, 0, 2, 2], [4, 4, 6, 6]], [0.2, 0.9], embedding=[1, 2])
    for other in (
        found.filter(0.5),
        found.take([0]),
        found.mapped((2, 2), (1, 1)),
        found.rounded(),
    ):
        assert other.embedding.tolist() == [1, 2]
    assert found != tv.Findings([[0, 0, 2, 2], [4, 4, 6, 6]], [0.2, 0.9])
    assert tv.Findings(embedding=[1, 2]) == tv.Findings(embedding=[1.0, 2.0])
    with pytest.raises(ValueError, match="read-only"):
        found.embedding[0] = 3


# What is kept, and given back ---------------------------------------------------------------


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return Checkpoint.open(tmp_path / "ck") if request.param == "folder" else None


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_a_result_has_a_row_for_each_tile(inline: Make, store: Any, precision: str) -> None:
    """In step with its tiles, as they were returned, after the checkpoint was closed."""
    run = inline(tv.model(encoder, returns="embedding", precision=precision), store=store)
    result = run.conduct()
    run.store.close()
    assert result.complete and result.embeddings.shape == (len(result.tiles), 5)
    assert result.embeddings.dtype == precision and result.embeddings.present.all()
    np.testing.assert_array_equal(np.asarray(result.embeddings), expected(precision))
    told = f"encoder gave a vector of 5 numbers ({precision}) for 6 tiles in an image"
    assert result.summary.startswith(told)
    np.testing.assert_array_equal(result.with_(min_score=0.5).embeddings[2], expected(precision)[2])


def test_a_result_travels_to_another_process(inline: Make, tmp_path: Path) -> None:
    """Pickled, it finds its vectors in the checkpoint's folder; without one it holds them."""
    with Checkpoint.open(tmp_path / "ck") as store:
        for result in (inline(EMBEDDING, store=store).conduct(), inline(EMBEDDING).conduct()):
            again = pickle.loads(pickle.dumps(result.embeddings))
            np.testing.assert_array_equal(np.asarray(again), expected())


def test_rows_are_taken_as_of_an_array(inline: Make) -> None:
    """By number, slice, list, mask and column: as NumPy does it on the whole."""
    embeddings = inline(EMBEDDING).conduct().embeddings
    whole = expected()
    mask = np.array([True, False, False, True, True, False])
    for key in (0, -1, slice(1, 4), slice(None, None, -2), [4, 1, 1], mask, [], (2, 3)):
        np.testing.assert_array_equal(embeddings[key], whole[key])
    np.testing.assert_array_equal(embeddings[:, 1:3], whole[:, 1:3])
    np.testing.assert_array_equal(list(embeddings), whole)
    assert np.asarray(embeddings, dtype=np.float64).dtype == np.float64
    assert len(embeddings) == 6 and embeddings.nbytes == whole.nbytes
    with pytest.raises(IndexError):
        embeddings[6]
    rows, vectors = zip(*embeddings.blocks(), strict=True)
    np.testing.assert_array_equal(np.concatenate(vectors), whole[np.concatenate(rows)])


def test_vectors_come_beside_detections(inline: Make) -> None:
    """A model may find objects and say a vector; the record of the objects is as without one."""

    def both(pixels: np.ndarray) -> tv.Findings:
        return tv.Findings([[8, 8, 20, 20]], [0.5], embedding=encoder(pixels))

    def boxes(pixels: np.ndarray) -> tv.Findings:
        return tv.Findings([[8, 8, 20, 20]], [0.5])

    run, bare = inline(both), inline(boxes)
    result = run.conduct()
    assert result.findings == bare.conduct().findings and len(result.findings) == 6
    np.testing.assert_array_equal(np.asarray(result.embeddings), expected())
    for one_pass, other in ((run, bare),):
        mine = [rows for _, rows in _records(one_pass)]
        theirs = [rows for _, rows in _records(other)]
        assert [rows[:-1] for rows in mine] == theirs
        assert all(arrays_of(rows)["embedding"].shape == (5,) for rows in mine)
    assert bare.control.result.embeddings is None


def _records(run: Inline) -> list[Any]:
    (one_pass,) = run.plan.passes
    return list(run.store.load(list(one_pass.keys.values())))


def test_an_interrupted_run_is_restored_as_it_was(inline: Make, tmp_path: Path) -> None:
    """Three tiles, then all: the records are those of a run in one go, and nothing runs twice."""
    calls = itertools.count()
    broken = [True]

    def moody(pixels: np.ndarray) -> np.ndarray:
        next(calls)
        if broken[0] and pixels[0, 0, 0] > 30:
            raise tv.PermanentError("not yet")
        return encoder(pixels)

    spec = tv.model(moody, fingerprint="m", returns="embedding", thread_safe=True)
    build(spec).function = moody
    with Checkpoint.open(tmp_path / "ck") as store:
        partial = inline(spec, store=store).conduct()
        assert partial.status == "partial" and partial.embeddings.shape == (6, 5)
        np.testing.assert_array_equal(partial.embeddings.present, [True] * 3 + [False] * 3)
        np.testing.assert_array_equal(partial.embeddings[:3], expected()[:3])
        assert np.isnan(partial.embeddings[3:]).all()
        assert "3 tiles without one" in repr(partial.embeddings)
    broken[0] = False
    with Checkpoint.open(tmp_path / "ck") as store:
        resumed = inline(spec, store=store)
        again = resumed.conduct()
        np.testing.assert_array_equal(np.asarray(again.embeddings), expected())
        assert list(again.tiles["status"]) == ["restored"] * 3 + ["done"] * 3
        assert next(calls) == 9
        clean = inline(spec)
        clean.conduct()
        assert _records(resumed) == _records(clean)


def test_a_damaged_vector_runs_its_tile_again_and_no_other(
    inline: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are restored, the user is told once, and the vector is right."""
    with Checkpoint.open(tmp_path / "ck") as store:
        inline(EMBEDDING, store=store).conduct()
    pack = next((tmp_path / "ck" / "payloads").iterdir())
    whole = pack.read_bytes()
    at = whole.index(expected()[4].tobytes())
    pack.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    with Checkpoint.open(tmp_path / "ck") as store:
        run = inline(EMBEDDING, store=store)
        mended = run.conduct()
    statuses = list(mended.tiles["status"])
    assert statuses.pop(4) == TileStatus.DONE and set(statuses) == {"restored"}
    np.testing.assert_array_equal(np.asarray(mended.embeddings), expected())
    assert len([line for line in caplog.messages if "damaged or missing" in line]) == 1


def test_what_is_stored_is_read_without_a_run(inline: Make, tmp_path: Path) -> None:
    """The result of a plan has the vectors of the tiles that are stored already."""
    with Checkpoint.open(tmp_path / "ck") as store:
        inline(EMBEDDING, store=store).conduct()
    with Checkpoint.open(tmp_path / "ck") as store:
        plan = inline(EMBEDDING, store=store).plan
    embeddings = planned_result(plan, tmp_path / "ck").embeddings
    np.testing.assert_array_equal(np.asarray(embeddings), expected())


def test_a_lost_folder_of_vectors_runs_all_tiles_again(inline: Make, tmp_path: Path) -> None:
    """Records whose vectors are gone are no results."""
    with Checkpoint.open(tmp_path / "ck") as store:
        inline(EMBEDDING, store=store).conduct()
    (tmp_path / "ck" / "payloads").rename(tmp_path / "away")
    with Checkpoint.open(tmp_path / "ck") as store:
        again = inline(EMBEDDING, store=store).conduct()
    assert set(again.tiles["status"]) == {"done"}
    np.testing.assert_array_equal(np.asarray(again.embeddings), expected())


def test_vectors_of_two_widths_are_refused(inline: Make) -> None:
    """One width a run: the tiles that differ fail, and say what the others have."""

    def uneven(pixels: np.ndarray) -> np.ndarray:
        return np.ones(5 if pixels[0, 0, 0] != 40 else 7)

    result = inline(tv.model(uneven, returns="embedding"), concurrency=1).conduct()
    assert list(result.tiles["status"]).count("failed") == 1
    assert "a vector of 7 numbers (float16), and other tiles of the run have a vector of 5" in (
        result.first_failure
    )
    assert result.embeddings.present.sum() == 5


def test_restored_vectors_of_two_widths_are_said(inline: Make) -> None:
    """Two encoders that ran apart and are then mixed: the summary says both, the array is none."""

    def wide(pixels: np.ndarray) -> np.ndarray:
        return np.ones(7) + pixels[0, 0, 0]

    other = tv.model(wide, returns="embedding")
    store = MemoryCheckpoint()
    inline(EMBEDDING, store=store).conduct()
    inline(other, store=store).conduct()
    mixed = tv.Route(EMBEDDING, [(lambda facts: facts.row > 0, other)])
    result = inline(mixed, store=store).conduct()
    assert "5 numbers (float16) for 3 tiles and a vector of 7 numbers (float16) for 3 tiles" in (
        result.summary
    )
    with pytest.raises(tv.RunError, match="which are no one array; run each encoder by itself"):
        np.asarray(result.embeddings)


def test_numbers_too_large_for_float16_fail_the_tile(inline: Make) -> None:
    """They would be infinite; the remedy stands in the line."""
    spec = tv.model(lambda _: np.array([1e5, 1]), fingerprint="big", returns="embedding")
    result = inline(spec).conduct()
    assert "declare tv.model(f, precision='float32')" in result.first_failure
    spec = tv.model(
        lambda _: np.array([1e5, 1]), fingerprint="big", returns="embedding", precision="float32"
    )
    assert inline(spec).conduct().embeddings[0].tolist() == [1e5, 1]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_runs_on_a_cluster_give_the_same_live_and_reopened(elsewhere: Path) -> None:
    """Through workers, resumed by id, and read from the journal: the same vectors."""
    import tifffile

    values = np.arange(10, 70, 10, dtype=np.uint8).reshape(2, 3)
    pixels = np.repeat(np.kron(values, np.ones((32, 32), np.uint8))[..., None], 3, axis=2)
    tifffile.imwrite("picture.tif", pixels, photometric="rgb", tile=(32, 32))
    grid = tv.Grid.by_tile(32, 0)
    first = tv.analyze("picture.tif", EMBEDDING, grid=grid, progress=False)
    resumed = tv.resume(first.run_id, model=EMBEDDING).result(200)
    past = ReadRun(Recording(first.run_id, ".tilevision", "picture.tif"))
    reopened = stored_result(past, ".tilevision", model=EMBEDDING)
    for result in (first, resumed, reopened):
        np.testing.assert_array_equal(np.asarray(result.embeddings), expected())


# Tiles that look alike ----------------------------------------------------------------------


def _many(vectors: np.ndarray) -> tuple[Embeddings, list[tv.Tile]]:
    """Embeddings of as many tiles in a row, in memory."""
    tiles = [tv.Tile(0, i, tv.Box(10 * i, 0, 10 * i + 10, 10)) for i in range(len(vectors))]
    memory, found = PayloadMemory(), []
    for tile, vector in zip(tiles, vectors, strict=True):
        ref, raw = bytes_of(vector)
        memory.add({ref.digest: raw})
        found.append(tv.TileFindings(tile, tv.Findings(), vector=StoredArray(ref, memory)))
    embeddings = embeddings_of(tiles, found)
    assert embeddings is not None
    return embeddings, tiles


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block", [1, 2000, 2**22])
def test_similar_tiles_are_those_of_brute_force(
    monkeypatch: pytest.MonkeyPatch, metric: str, block: int
) -> None:
    """In double precision over all of them, ties by the tiles' order; however it is cut up."""
    monkeypatch.setattr(embeddings_module, "_BLOCK", block)
    random = np.random.default_rng(3)
    vectors = random.normal(size=(200, 24)).astype(np.float16)
    vectors[50:60] = vectors[7]  # the same tile ten times
    vectors[100:140] = vectors[100] + random.normal(size=(40, 24)) * 1e-3  # nearly the same
    embeddings, tiles = _many(vectors)
    wide = vectors.astype(np.float64)
    for asked in (7, 55, 120, random.normal(size=24)):
        own = asked if isinstance(asked, int) else -1
        query = asked if own < 0 else wide[own]
        if metric == "cosine":
            value = wide @ query / np.linalg.norm(wide, axis=1) / np.linalg.norm(query)
            rank = -value
        else:
            value = rank = np.linalg.norm(wide - query, axis=1)
        # The vectors are few enough for exact ties to be those that were made.
        order = [i for i in np.lexsort((np.arange(200), np.round(rank, 9))) if i != own][:20]
        what = asked if own < 0 else tiles[own].id
        found = similar(embeddings, tiles, what, 20, metric)
        assert list(found["id"]) == [tiles[i].id for i in order]
        name = "similarity" if metric == "cosine" else "distance"
        np.testing.assert_allclose(found[name], value[order], atol=1e-7)
        np.testing.assert_array_equal(found["xmin"], [10.0 * i for i in order])


def test_similar_of_a_result(inline: Make) -> None:
    """By tile or by vector; tiles without a vector are no answer."""

    def moody(pixels: np.ndarray) -> np.ndarray:
        if pixels[0, 0, 0] == 20:
            raise tv.PermanentError("no")
        return encoder(pixels)

    result = inline(tv.model(moody, returns="embedding")).conduct()
    found = result.similar("r000c000", k=10, metric="euclidean")
    assert list(found["id"]) == ["r000c002", "r001c000", "r001c001", "r001c002"]
    assert list(result.similar(result.embeddings[3], k=1)["id"]) == ["r001c000"]
    for wrong, said in (
        ({"what": "r009c009"}, "There is no tile 'r009c009'"),
        ({"what": "r000c001"}, "has no vector"),
        ({"what": [1, 2]}, "a vector of 5 finite numbers"),
        ({"what": np.zeros(5)}, "zero, which has no direction"),
        ({"what": "r000c000", "metric": "taxi"}, "give cosine or euclidean"),
        ({"what": "r000c000", "k": 0}, "whole number of 1 or more"),
    ):
        with pytest.raises(tv.RunError, match=said):
            result.similar(**wrong)
    with pytest.raises(tv.RunError, match="No tile of this result has a vector"):
        inline().conduct().similar("r000c000")


def test_an_encoder_whose_tiles_all_failed_is_not_told_to_be_one(
    inline: Make, tmp_path: Path
) -> None:
    """What is wrong is that no tile was analysed, and with what error; files say the same."""

    def fails(pixels: np.ndarray) -> np.ndarray:
        raise ValueError("too dark")

    model = tv.model(fails, returns="embedding")
    result = inline(model, retry=tv.Retry(attempts=1)).conduct()
    for ask in (
        lambda: result.similar("r000c000"),
        lambda: result.cluster(2),
        lambda: result.save(tmp_path / "a.embeddings.npz"),
        lambda: result.save(tmp_path / "a.tif"),
        result.to_polygons,
    ):
        with pytest.raises(tv.RunError, match=r"No tile .* was analysed \(ValueError: too dark\)"):
            ask()


def test_a_zero_vector_is_near_nothing_by_cosine() -> None:
    """It has no direction; by distance it is a place like any other."""
    embeddings, tiles = _many(np.array([[1, 0], [0, 0], [0, 1]], np.float32))
    assert list(similar(embeddings, tiles, [1, 1], 5)["id"]) == [tiles[0].id, tiles[2].id]
    assert list(similar(embeddings, tiles, [0.1, 0], 1, "euclidean")["id"]) == [tiles[1].id]


@pytest.mark.parametrize("size", [1e-30, 1, 1e30])
def test_lengths_beyond_single_precision_change_nothing(size: float) -> None:
    """Directions count, and distances are exact, though squares would be zero or infinite."""
    vectors = (np.array([[1, 0], [3, 1], [0, 2], [1, 1]]) * size).astype(np.float32)
    embeddings, tiles = _many(vectors)
    found = similar(embeddings, tiles, [2, 1.9], 2)
    assert list(found["id"]) == [tiles[3].id, tiles[1].id]
    found = similar(embeddings, tiles, np.array([1, 0.9]) * size, 2, "euclidean")
    assert list(found["id"]) == [tiles[3].id, tiles[0].id]


# Encoders -----------------------------------------------------------------------------------


def _linear(path: Path, beside: bool = False) -> Path:
    """Save an encoder: the mean colour of a picture, times a matrix ``(3, 6)``."""
    from onnx import helper
    from tiny_onnx import FLOAT, write

    matrix = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["image_embeds"]),
    ]
    outputs = [helper.make_tensor_value_info("image_embeds", FLOAT, ("n", 6))]
    if beside:
        nodes.append(helper.make_node("Identity", ["flat"], ["hidden"]))
        outputs.insert(0, helper.make_tensor_value_info("hidden", FLOAT, ("n", 3)))
    inputs = [helper.make_tensor_value_info("images", FLOAT, ("n", 3, 32, 32))]
    return write(path, nodes, inputs, outputs, {"matrix": matrix})


@pytest.mark.parametrize("beside", [False, True])
def test_an_onnx_encoder_says_what_its_runtime_says(
    inline: Make, tmp_path: Path, beside: bool
) -> None:
    """The vectors of a run are those of onnxruntime on the same pictures; others are not read."""
    runtime = pytest.importorskip("onnxruntime")
    path = _linear(tmp_path / "encoder.onnx", beside)
    spec = tv.model(str(path), returns="embedding", precision="float32", normalize="0..1")
    result = inline(spec).conduct()
    grey = np.arange(10, 70, 10, dtype=np.float32)[:, None, None, None] / 255
    pictures = np.broadcast_to(grey, (6, 3, 32, 32)).astype(np.float32)
    told = runtime.InferenceSession(str(path)).run(["image_embeds"], {"images": pictures})[0]
    np.testing.assert_allclose(np.asarray(result.embeddings), told, rtol=1e-6)
    assert not len(result.findings) and not result.tiles["saturated"].any()


def test_an_onnx_encoder_is_declared(tmp_path: Path) -> None:
    """A classifier has the same shape: what is not declared is read as before."""
    path = str(_linear(tmp_path / "encoder.onnx"))
    spec = tv.model(path, returns="embedding")
    assert spec.params["family"] == "embedding" and "precision" not in spec.params
    assert tv.model(path).params["family"].startswith("classifier")
    marks = {spec.fingerprint, tv.model(path).fingerprint}
    marks.add(tv.model(path, returns="embedding", precision="float32").fingerprint)
    assert len(marks) == 3
    with pytest.raises(tv.ModelError, match="returns='embedding' or family='yolov8', not both"):
        tv.model(path, returns="embedding", family="yolov8")
    with pytest.raises(tv.ModelError, match="is 'masks'; give one of embedding"):
        tv.model(path, returns="masks")


# Files --------------------------------------------------------------------------------------


@pytest.fixture
def half(inline: Make) -> tv.Result:
    """A result of six tiles, of which the second has no vector."""

    def moody(pixels: np.ndarray) -> np.ndarray:
        if pixels[0, 0, 0] == 20:
            raise tv.PermanentError("no")
        return encoder(pixels)

    return inline(tv.model(moody, returns="embedding")).conduct()


LEFT = [[x, y] for y in (0, 32) for x in (0, 32, 64) if (x, y) != (32, 0)]
IDS = ["r000c000", "r000c002", "r001c000", "r001c001", "r001c002"]


def test_numpy_reads_the_archive(half: tv.Result, tmp_path: Path) -> None:
    """Only tiles with a vector, as they are stored, with ids and boxes; no time in the file."""
    path = half.save(tmp_path / "a.embeddings.npz")
    with np.load(path) as found:
        np.testing.assert_array_equal(found["embeddings"], np.delete(expected(), 1, axis=0))
        assert found["embeddings"].dtype == np.float16 and found["ids"].tolist() == IDS
        boxes = found["boxes"]
        assert "INCOMPLETE" in str(found["tilevision"])
    np.testing.assert_array_equal(boxes, np.hstack([LEFT, np.add(LEFT, 32)]))
    assert half.save(tmp_path / "b.embeddings.npz").read_bytes() == path.read_bytes()


def test_parquet_holds_lists_of_one_length(half: tv.Result, tmp_path: Path) -> None:
    """Pyarrow and pandas read the vectors beside the tiles, and what was not analysed."""
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(half.save(tmp_path / "a.embeddings.parquet"))
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[5]"
    frame = table.to_pandas()
    assert frame["id"].tolist() == IDS and frame[["xmin", "ymin"]].to_numpy().tolist() == LEFT
    np.testing.assert_array_equal(
        np.stack(frame["embedding"]), np.delete(expected(), 1, axis=0).astype(np.float32)
    )
    assert b"INCOMPLETE" in table.schema.metadata[b"tilevision"]


def test_slide_level_tools_read_the_hdf5(half: tv.Result, tmp_path: Path) -> None:
    """``features`` and ``coords`` row by row, with the attributes that TRIDENT writes."""
    h5py = pytest.importorskip("h5py")
    path = half.save(tmp_path / "a.embeddings.h5")
    assert half.save(tmp_path / "b.embeddings.h5").read_bytes() == path.read_bytes()
    with h5py.File(path) as file:
        assert "INCOMPLETE" in file.attrs["tilevision"]
        features, coords = file["features"], file["coords"]
        np.testing.assert_array_equal(
            features[:], np.delete(expected(), 1, axis=0).astype(np.float32)
        )
        assert coords[:].tolist() == LEFT and coords.dtype == np.int64
        said = dict(coords.attrs)
        assert features.attrs["encoder"] == "moody" and features.attrs["name"] == "picture"
    asked = {"patch_size": 32, "patch_size_level0": 32, "overlap": 0, "name": "picture"}
    asked |= {"level0_width": 96, "level0_height": 64, "savetodir": "", "patch_level": 0}
    assert said == asked


def test_the_overlap_is_that_of_the_grid(inline: Make, tmp_path: Path) -> None:
    """Not that of the last column, which is moved inwards to end with the image."""
    h5py = pytest.importorskip("h5py")
    made = inline(tv.model(encoder, returns="embedding"), grid=tv.Grid.by_tile(28, 0)).conduct()
    with h5py.File(made.save(tmp_path / "a.embeddings.h5")) as file:
        assert file["coords"][:, 0].max() == 68
        assert file["coords"].attrs["overlap"] == 0


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_vectors_of_several_chunks_are_read_as_they_are(
    half: tv.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Whole chunks and the last, which is not."""
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr("tilevision.exporting.vectorfiles._HDF5_ROWS", rows)
    with h5py.File(half.save(tmp_path / "a.embeddings.h5")) as file:
        told = np.delete(expected(), 1, axis=0).astype(np.float32)
        np.testing.assert_array_equal(file["features"][:], told)
        assert file["features"].chunks == (rows, 5)


class SlideBag:
    """What CLAM's dataset of patches asks of a file, as its ``Whole_Slide_Bag_FP`` does."""

    def __init__(self, path: Path, slide: Any) -> None:
        import h5py

        self.slide = slide
        with h5py.File(path) as file:
            self.coords = file["coords"][:]
            self.level = file["coords"].attrs["patch_level"]
            self.side = file["coords"].attrs["patch_size"]

    def __getitem__(self, row: int) -> np.ndarray:
        return self.slide.read_region(self.coords[row], self.level, (self.side, self.side))


def test_a_slide_level_tool_reads_the_pixels_that_a_row_is_of(
    half: tv.Result, tmp_path: Path
) -> None:
    """Place, level and size of a row give the tile that its vector was computed of."""
    h5py = pytest.importorskip("h5py")
    path = half.save(tmp_path / "a.embeddings.h5")

    class Slide:
        def read_region(self, place: Any, level: int, size: Any) -> np.ndarray:
            assert level == 0
            (x, y), (w, h) = map(int, place), map(int, size)
            return half.source.read(tv.Box(x, y, x + w, y + h))

    bag = SlideBag(path, Slide())
    with h5py.File(path) as file:
        for row, vector in enumerate(file["features"][:].astype(np.float16)):
            np.testing.assert_array_equal(encoder(bag[row]).astype(np.float16), vector)


@pytest.mark.parametrize("suffix", [".h5ad", ".anndata.zarr"])
def test_anndata_has_the_vectors_where_the_tiles_lie(
    half: tv.Result, tmp_path: Path, suffix: str
) -> None:
    """Read by its library: X, the centres as spatial coordinates, ids, and what is missing."""
    anndata = pytest.importorskip("anndata")
    path = half.save(half.save(tmp_path / f"a{suffix}"))  # twice: an earlier export is replaced
    table = anndata.read_h5ad(path) if suffix == ".h5ad" else anndata.read_zarr(path)
    told = np.delete(expected(), 1, axis=0).astype(np.float32)
    np.testing.assert_array_equal(table.X, told)
    assert table.X.dtype == np.float32 and table.obs_names.tolist() == IDS
    np.testing.assert_array_equal(table.obsm["spatial"], np.add(LEFT, 16))
    assert table.obs[["xmin", "ymin"]].to_numpy().tolist() == LEFT
    assert "INCOMPLETE" in table.uns["tilevision"]


def test_many_slides_give_files_with_their_names(tmp_path: Path) -> None:
    """As slide-level tools look for them: a folder of ``slide.h5``."""
    files = targets(tmp_path / "out", ["one.svs", "two.svs"], "embeddings-hdf5")
    assert [file.name for file in files.values()] == ["one.h5", "two.h5"]
    assert targets(tmp_path / "b", ["one.svs"], "csv")["one.svs"].name == "one.csv"


def test_without_vectors_there_is_nothing_to_write(inline: Make, tmp_path: Path) -> None:
    """One line, and no file."""
    with pytest.raises(tv.RunError, match="use an encoder"):
        inline().conduct().save(tmp_path / "a.embeddings.npz")
    assert not list(tmp_path.glob("a.*"))


@pytest.mark.parametrize("form", ["module", "script", "export"])
@pytest.mark.parametrize("normalize", ["0..1", "imagenet"])
def test_a_torch_encoder_says_what_torch_says(inline: Make, form: str, normalize: str) -> None:
    """Whole, scripted and exported: the vectors are those of the network on the same pictures."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    parts = torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    network = torch.nn.Sequential(*parts, torch.nn.Linear(4, 6)).eval()
    example = torch.zeros(1, 3, 32, 32)
    made = {
        "module": lambda: network,
        "script": lambda: torch.jit.script(network),
        "export": lambda: torch.export.export(network, (example,)),
    }[form]()
    spec = tv.model(made, returns="embedding", precision="float32", normalize=normalize)
    result = inline(spec).conduct()
    grey = torch.arange(10, 70, 10).float()[:, None, None, None] / 255
    pictures = grey.expand(6, 3, 32, 32)
    if normalize == "imagenet":
        mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        shape = (1, 3, 1, 1)
        pictures = (pictures - torch.tensor(mean).view(shape)) / torch.tensor(deviation).view(shape)
    with torch.inference_mode():
        told = network(pictures).numpy()
    np.testing.assert_allclose(np.asarray(result.embeddings), told, rtol=1e-4, atol=1e-5)


def test_a_torch_encoder_is_declared() -> None:
    """A network that is not is the model it was; imagenet is for encoders alone."""
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 6))
    plain, encoder_ = tv.model(network), tv.model(network, returns="embedding")
    assert plain.fingerprint != encoder_.fingerprint
    assert not {"returns", "precision"} & set(plain.params)
    assert "precision" not in encoder_.params
    with pytest.raises(tv.ModelError, match="normalize of model Sequential is 'imagenet'"):
        tv.model(network, normalize="imagenet")


# A vector for each detection ----------------------------------------------------------------


def seen_twice(pixels: np.ndarray) -> list[dict[str, Any]]:
    """Two detections with vectors that say which tile and which of the two they are."""
    tone = float(pixels[0, 0, 0])
    return [
        {"box": (2, 2, 9, 9), "score": 0.25, "label": "low", "embedding": [tone, 0, 1]},
        {"box": (12, 12, 20, 20), "score": 0.75, "label": "high", "embedding": [tone, 1, 0]},
    ]


@pytest.mark.parametrize("form", ["dicts", "columns", "findings"])
def test_each_detection_may_have_a_vector(form: str) -> None:
    """Row by row, as a column, or as findings; the row's order takes its vector along."""
    rows = seen_twice(TILE)
    boxes, scores = [r["box"] for r in rows], [r["score"] for r in rows]
    vectors = [r["embedding"] for r in rows]
    answer = {
        "dicts": rows,
        "columns": {"boxes": np.array(boxes), "scores": scores, "embeddings": vectors},
        "findings": tv.Findings(boxes, scores, embeddings=vectors),
    }[form]
    found = build(tv.model(lambda _: answer, fingerprint="x")).predict([TILE])[0]
    assert found.embeddings.tolist() == [[50, 1, 0], [50, 0, 1]]  # the better first
    assert found.filter(0.5).embeddings.tolist() == [[50, 1, 0]]
    assert found.mapped((2, 2), (1, 1)).embeddings.tolist() == found.embeddings.tolist()
    assert found.rounded() == found != tv.Findings(boxes, scores)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([[1.0, 2.0]], "has 1 rows, boxes has 2"),
        ([1.0, 2.0], r"give \(n, d\)"),
        ([[1.0], [2.0, 3.0]], r"give \(n, d\)"),
        ([[1.0], [np.nan]], "row 1 holds nan at place 0"),
        (np.zeros((2, 8193)), "1 to 8,192"),
    ],
)
def test_vectors_of_detections_are_checked(vectors: Any, said: str) -> None:
    """One for each, of one length, finite: or the tile fails with a line."""
    with pytest.raises(tv.ModelError, match=said):
        tv.Findings([[0, 0, 2, 2], [4, 4, 6, 6]], embeddings=vectors)


def test_detections_that_differ_in_nothing_but_their_vectors_have_one_order() -> None:
    """Whichever came first: the same findings, and the same bytes on disk."""
    boxes = [[0, 0, 2, 2]] * 2
    one, other = (
        tv.Findings(boxes, [0.5, 0.5], embeddings=order) for order in ([[1], [2]], [[2], [1]])
    )
    assert one == other and len(one) == 2


def test_a_tile_without_vectors_leaves_its_rows_empty() -> None:
    """Joined with tiles that have some, its rows are NaN; two widths are no column."""
    bare = tv.Findings([[0, 0, 2, 2]], [0.5])
    wide = tv.Findings([[4, 4, 6, 6]], [0.9], embeddings=np.array([[1, 2]], np.float16))
    joined = tv.Findings.concat([bare, wide])
    assert joined.embeddings.dtype == np.float16
    np.testing.assert_array_equal(joined.embeddings, [[1, 2], [np.nan, np.nan]])
    with pytest.raises(tv.ModelError, match=r"2 numbers .* and 3 numbers .*one column"):
        tv.Findings.concat([wide, tv.Findings([[0, 0, 1, 1]], embeddings=[[1, 2, 3]])])


def test_vectors_of_detections_are_kept_and_restored(inline: Make, store: Any) -> None:
    """A result has them beside its boxes; restored and filtered ones are the same."""
    spec = tv.model(seen_twice)
    run = inline(spec, store=store)
    result = run.conduct()
    found = result.findings
    assert len(found) == 12 and found.embeddings.dtype == np.float16
    tones = [10.0 * n for n in range(1, 7)]
    assert sorted(map(tuple, found.embeddings.tolist())) == sorted(
        [*((tone, 0, 1) for tone in tones), *((tone, 1, 0) for tone in tones)]
    )
    for box, label, (tone, *ones) in zip(
        found.boxes, found.labels, found.embeddings.tolist(), strict=True
    ):
        assert ones == ([1, 0] if label == "high" else [0, 1])
        tile = next(
            row.tile
            for row in result.rows
            if row.tile.box.x0 <= box[0] < row.tile.box.x1
            and row.tile.box.y0 <= box[1] < row.tile.box.y1
        )
        assert tone == 10 * (1 + [row.tile for row in result.rows].index(tile))
    assert result.with_(min_score=0.5).findings.embeddings[:, 1].tolist() == [1.0] * 6
    again = inline(spec, store=run.store).conduct()
    assert set(again.tiles["status"]) == {"restored"} and again.findings == found
    assert result.embeddings is None


def test_the_merge_keeps_the_vector_of_the_best_view() -> None:
    """Of an object that two tiles saw, the one whose box is kept."""
    left, right = tv.Grid(rows=1, cols=2, overlap=0.5).tiles((60, 30))
    shared = right.box.x0 + 2.0
    parts = [
        tv.TileFindings(
            tile,
            tv.Findings(
                [[shared - tile.box.x0, 5, shared + 12 - tile.box.x0, 15]],
                [score],
                embeddings=[[score * 8, 1.0]],
            ),
        )
        for tile, score in ((left, 0.5), (right, 0.75))
    ]
    for method in ("seam", "nms", "nmm", "wbf"):
        merged = tv.merge(parts, method)
        assert len(merged) == 1 and merged.embeddings.tolist() == [[6.0, 1.0]], method


def test_damaged_vectors_of_detections_run_their_tile_again(inline: Make, tmp_path: Path) -> None:
    """As a damaged vector of a tile does."""
    spec = tv.model(seen_twice)
    with Checkpoint.open(tmp_path / "ck") as store:
        whole = inline(spec, store=store).conduct().findings
    pack = next((tmp_path / "ck" / "payloads").iterdir())
    raw = np.array([[30, 1, 0], [30, 0, 1]], np.float16).tobytes()
    data = pack.read_bytes()
    at = data.index(raw)
    pack.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    with Checkpoint.open(tmp_path / "ck") as store:
        mended = inline(spec, store=store).conduct()
    assert sorted(mended.tiles["status"]) == ["done", *["restored"] * 5]
    assert mended.findings == whole


def test_detections_of_two_widths_are_refused(inline: Make) -> None:
    """The tiles that differ fail, and say what the others have."""

    def uneven(pixels: np.ndarray) -> tv.Findings:
        width = 2 if pixels[0, 0, 0] == 40 else 3
        return tv.Findings([[2, 2, 9, 9]], [0.5], embeddings=np.ones((1, width)))

    result = inline(tv.model(uneven), concurrency=1).conduct()
    assert list(result.tiles["status"]).count("failed") == 1
    assert "of 2 numbers (float16), and other tiles of the run have vectors of detections of 3" in (
        result.first_failure
    )


def test_exports_hold_the_vectors_of_detections_or_say_that_they_do_not(
    inline: Make, tmp_path: Path
) -> None:
    """Parquet and supervision have them, row by row; all other files say what is left out."""
    parquet = pytest.importorskip("pyarrow.parquet")
    result = inline(tv.model(seen_twice)).conduct()
    table = parquet.read_table(result.save(tmp_path / "a.parquet"))
    vectors = np.array(table["embedding"].to_pylist(), np.float16)
    np.testing.assert_array_equal(vectors, result.findings.embeddings)
    with pytest.warns(UserWarning, match=r"the vectors of detections.*\.parquet for vectors"):
        result.save(tmp_path / "a.json")
    with pytest.warns(UserWarning, match="the vectors of detections"):
        result.save(tmp_path / "a.coco.json")


@pytest.mark.parametrize("model", ["tile", "detections"])
def test_a_folder_with_vectors_is_refused_by_earlier_releases(
    inline: Make, tmp_path: Path, model: str
) -> None:
    """They would run its tiles again and write over them; its version says so before."""
    spec = EMBEDDING if model == "tile" else tv.model(seen_twice)
    with Checkpoint.open(tmp_path / "ck") as store:
        inline(tv.model(lambda _: None, fingerprint="none"), store=store).conduct()
        assert '"schema": 1' in (tmp_path / "ck" / "meta.json").read_text()  # they may read this
        inline(spec, store=store).conduct()
    assert '"schema": 3' in (tmp_path / "ck" / "meta.json").read_text()
    with Checkpoint.open(tmp_path / "ck") as store:
        assert set(inline(spec, store=store).conduct().tiles["status"]) == {"restored"}
