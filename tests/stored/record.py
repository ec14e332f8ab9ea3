"""Record the stored work that `tests/test_identities.py` holds: run once, with version 0.1.0.

    python tests/stored/record.py OUT

writes a small image, a checkpoint with four runs (complete, with a failed tile, of two images,
cut off in the middle), their results, and the identities of models, files and tiles. It was run
with the code as it was before files were moved; running it again would record whatever the code
does then, and hold nothing. Fingerprints hold one minor version of Python (3.11).
"""

import json
import shutil
import sys
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tifffile

import tilevision as tv

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import stored_models  # noqa: E402 - beside this file
import tiny_onnx  # noqa: E402 - beside this folder

PLACE = "@HERE@"  # in place of the folder that the runs were recorded in
SIDE = 96


def picture(seed):
    """Return a dark (96, 128, 3) picture with bright squares."""
    rng = np.random.default_rng(seed)
    pixels = np.full((SIDE, 128, 3), 20, np.uint8)
    for _ in range(14):
        y, x = rng.integers(4, SIDE - 12), rng.integers(4, 116)
        pixels[y : y + 7, x : x + 7] = 230
    return pixels


def write_images(folder):
    """Write two TIFF files, one tiled."""
    tifffile.imwrite(folder / "scene.tif", picture(1), tile=(32, 32), compression="deflate")
    tifffile.imwrite(folder / "other.tif", picture(2), compression="deflate")


def main(out):
    """Record everything into the folder `out`."""
    out.mkdir(parents=True)
    write_images(out)
    scene, other, store = out / "scene.tif", out / "other.tif", out / "checkpoint"
    common = {"grid": tv.Grid.by_tile(48, overlap=0.25), "checkpoint": store, "progress": False}
    results = {}
    tiny_onnx.means(out / "means.onnx")
    complete = tv.analyze(scene, "blobs", workers=1, **common)
    results["complete"] = complete.run_id
    stubborn = tv.model(stored_models.fails_on_the_right, fingerprint="v1", name="stubborn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        partial = tv.analyze(scene, stubborn, workers=1, retry=tv.Retry(attempts=1), **common)
    results["partial"] = partial.run_id
    many = tv.analyze_many([scene, other], model="blobs", min_score=0.1, workers=1, **common)
    results["many"] = many.run_id
    squares = tv.analyze(other, tv.model(stored_models.squares), workers=1, **common)
    results["cut off"] = squares.run_id
    cut_off(store, squares.run_id)
    for file in (store / "runs").glob("*.jsonl"):
        file.write_text(file.read_text().replace(str(out), PLACE))
    for lock in store.rglob("*.lock"):
        lock.unlink()
    complete.save(out / "complete.json")
    squares.save(out / "squares.json")
    (out / "identities.json").write_text(
        json.dumps({"runs": results, **identities(scene)}, indent=1, sort_keys=True) + "\n"
    )
    shutil.rmtree(out / "__pycache__", ignore_errors=True)


def cut_off(store, run_id):
    """Leave of a journal the manifest and its first tiles, as a kill does; drop a tile's record."""
    path = store / "runs" / f"{run_id}.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    done = [n for n, line in enumerate(lines) if '"status":"done"' in line[:80]]
    path.write_text("".join(lines[: done[2] + 1]) + lines[done[3]][:40])


def identities(scene):
    """Return the fingerprints and keys of everything whose identity a move could change."""
    from tilevision.catalogue import resolve
    from tilevision.pipeline import plan

    hosted = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "prompt": "ships"}
    models = {
        "blobs": tv.model("blobs"),
        "blobs with a parameter": tv.model("blobs", contrast=0.2),
        "nuclei": tv.model("nuclei"),
        "nuclei with nms": tv.model("nuclei", nms=0.5),
        "textlines": tv.model("textlines"),
        "limits": resolve("limits", "moderation"),
        "summary": resolve("summary", "synthesis"),
        "hosted": tv.model("openai", labels=["ship"], **hosted),
        "function": tv.model(stored_models.squares),
        "function that names tv.Findings": tv.model(stored_models.names_findings),
        "function that names tv.Box and a module": tv.model(stored_models.names_deep_path),
        "function with a stated fingerprint": tv.model(stored_models.squares, fingerprint="v1"),
        "object": tv.model(stored_models.Detector(3)),
        "object that holds a tv.Grid": tv.model(stored_models.Detector(tv.Grid(2, 2))),
    }
    models["ONNX file"] = tv.model(str(scene.with_name("means.onnx")), names=["r", "g", "b"])
    tv.register_model("registered", stored_models.make)
    models["registered"] = tv.model("registered", size=4)
    tv.register_model("registered by text", "stored_models:load")
    models["registered by text"] = tv.model("registered by text")
    planned = plan(scene, "blobs", grid=48, checkpoint=None)
    deep = plan(scene, tv.model(stored_models.squares, bands=(1,), dtype="raw"), checkpoint=None)
    return {
        "versions": {name: version(name) for name in ("numpy", "scikit-image", "onnxruntime")},
        "models": {name: spec.fingerprint for name, spec in models.items()},
        "scene": planned.source.fingerprint,
        "tiles": {tile.id: key for tile, key in planned.passes[0].keys.items()},
        "raw tiles": {tile.id: key for tile, key in deep.passes[0].keys.items()},
        "options": asdict(planned.passes[0].options),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
