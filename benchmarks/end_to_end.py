"""One job, whole processes, beside the tools that people use for it.

    python benchmarks/end_to_end.py PICTURE MODEL [--rounds 5] [--side 8192]

PICTURE is tiled to a JPEG of SIDE x SIDE pixels; MODEL is a FastestDet ONNX file. Everybody cuts
the same 512 px tiles with a fifth of overlap and runs the same network on two cores:

- ``pool``: bare code in a process pool (spawn, 2), without a merge: what the work itself costs
- ``supervision``: its slicer with two threads
- ``SAHI``: its sliced prediction, as it comes: one process
- ``tilevision``: a script from its start to its end, each tile checkpointed
- ``tilevision, cluster up``: the same call in a process whose cluster is there already

Tools that are not installed are left out. The contestants take turns; printed are medians, and
the least and the most. CPU is that of all processes that a contestant started.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np

TILE, OVERLAP, INPUT, FLOOR, NMS = 512, 0.2, 352, 0.5, 0.45


# What everybody does with a tile ------------------------------------------------------------


class Network:
    """FastestDet as its authors run it: boxes, scores and classes of a tile of RGB pixels."""

    def __init__(self, path: str) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from PIL import Image

        shrunk = np.asarray(Image.fromarray(pixels).resize((INPUT, INPUT), Image.BILINEAR))
        tensor = shrunk[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255
        (out,) = self._session.run(None, {self._input: tensor})[0]
        scores = out[0] ** 0.6 * out[5:].max(axis=0) ** 0.4
        y, x = np.nonzero(scores >= FLOOR)
        rows, columns = scores.shape
        found = out[:, y, x]
        cx, cy = (np.tanh(found[1]) + x) / columns, (np.tanh(found[2]) + y) / rows
        w, h = 1 / (1 + np.exp(-found[3])), 1 / (1 + np.exp(-found[4]))
        height, width = pixels.shape[:2]
        boxes = np.column_stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        boxes = np.clip(boxes, 0, 1) * [width, height, width, height]
        kept = _suppressed(boxes, scores[y, x], found[5:].argmax(axis=0))
        return boxes[kept], scores[y, x][kept], found[5:].argmax(axis=0)[kept]


def _suppressed(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> list[int]:
    shifted = boxes + classes[:, None] * 1e5
    area = np.prod(shifted[:, 2:] - shifted[:, :2], axis=1)
    order, kept = np.argsort(-scores), []
    while len(order):
        first, rest = order[0], order[1:]
        kept.append(int(first))
        low = np.maximum(shifted[first, :2], shifted[rest, :2])
        high = np.minimum(shifted[first, 2:], shifted[rest, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        order = rest[shared / (area[first] + area[rest] - shared) <= NMS]
    return kept


def _corners(side: int) -> list[int]:
    step = round(TILE * (1 - OVERLAP))
    return [min(at, side - TILE) for at in range(0, side - TILE + step, step)]


# Contestants: each runs in a process of its own and returns how many objects it found ----------


def _pool(picture: str, model: str) -> int:
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("RGB"))
    across = _corners(pixels.shape[1])
    tiles = (pixels[y : y + TILE, x : x + TILE] for y in _corners(len(pixels)) for x in across)
    with multiprocessing.get_context("spawn").Pool(2, _load, (model,)) as pool:
        return sum(pool.imap_unordered(_count, tiles, chunksize=4))


def _load(model: str) -> None:
    global _network  # noqa: PLW0603 a pool's processes keep what they need so
    _network = Network(model)


def _count(pixels: np.ndarray) -> int:
    return len(_network(pixels)[0])


def _supervision(picture: str, model: str) -> int:
    import supervision as sv
    from PIL import Image

    network = Network(model)

    def look(tile: np.ndarray) -> sv.Detections:
        boxes, scores, classes = network(np.ascontiguousarray(tile))
        return sv.Detections(xyxy=boxes, confidence=scores, class_id=classes)

    slicer = sv.InferenceSlicer(
        look,
        slice_wh=(TILE, TILE),
        overlap_wh=(round(TILE * OVERLAP),) * 2,
        iou_threshold=NMS,
        thread_workers=2,
    )
    return len(slicer(np.asarray(Image.open(picture).convert("RGB"))))


def _sahi(picture: str, model: str) -> int:
    from sahi.models.base import DetectionModel
    from sahi.predict import get_sliced_prediction
    from sahi.prediction import ObjectPrediction

    class Fast(DetectionModel):
        def load_model(self) -> None:
            self.model = Network(model)
            self.category_mapping = {str(n): str(n) for n in range(80)}

        def set_device(self, device: Any = None) -> None:  # noqa: ARG002 SAHI's name
            self.device = "cpu"

        def perform_inference(self, image: np.ndarray) -> None:
            self._original_predictions = [self.model(np.ascontiguousarray(image))]

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = None, full_shape_list: Any = None
        ) -> None:
            shift, full = (shift_amount_list or [[0, 0]]), full_shape_list
            if not isinstance(shift[0], list):
                shift, full = [shift], None if full is None else [full]
            self._object_prediction_list_per_image = [
                [
                    ObjectPrediction(
                        bbox=box.tolist(),
                        category_id=int(kind),
                        category_name=str(kind),
                        score=float(score),
                        shift_amount=shift[0],
                        full_shape=None if full is None else full[0],
                    )
                    for box, score, kind in zip(*found, strict=True)
                ]
                for found in self._original_predictions
            ]

    found = get_sliced_prediction(
        picture,
        Fast(model_path=model, confidence_threshold=FLOOR),
        slice_height=TILE,
        slice_width=TILE,
        overlap_height_ratio=OVERLAP,
        overlap_width_ratio=OVERLAP,
        perform_standard_pred=False,
        verbose=0,
    )
    return len(found.object_prediction_list)


def _tilevision(picture: str, model: str) -> int:
    return _analysed(picture, model)[0]


def _cluster_up(picture: str, model: str) -> int:
    import tilevision as tv

    tv.analyze(np.zeros((1024, 1024, 3), np.uint8), model, checkpoint=None, progress=False)
    found, seconds = _analysed(picture, model)
    print(json.dumps({"seconds": seconds}))
    return found


def _analysed(picture: str, model: str) -> tuple[int, float]:
    import tilevision as tv

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = tv.analyze(
            picture,
            tv.model(model, score_floor=FLOOR),
            grid=tv.Grid.by_tile(TILE, overlap=OVERLAP),
            checkpoint=folder,
            workers=2,
            progress=False,
        )
        return len(result.findings), time.perf_counter() - began


CONTESTANTS: dict[str, tuple[Callable[[str, str], int], str]] = {
    "pool": (_pool, "onnxruntime"),
    "supervision": (_supervision, "supervision"),
    "SAHI": (_sahi, "sahi"),
    "tilevision": (_tilevision, "tilevision"),
    "tilevision, cluster up": (_cluster_up, "tilevision"),
}


# Measuring ----------------------------------------------------------------------------------


class _Processor(threading.Thread):
    """Adds up the processor time of a process and of all that descend from it."""

    def __init__(self, pid: int) -> None:
        import psutil

        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._seen: dict[Any, float] = {}
        self._over = threading.Event()

    def run(self) -> None:
        import psutil

        while not self._over.wait(0.03):
            try:
                family = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                return
            for member in family:
                try:
                    spent = member.cpu_times()
                except psutil.Error:
                    continue
                self._seen[member] = spent.user + spent.system

    def seconds(self) -> float:
        self._over.set()
        self.join()
        return sum(self._seen.values())


def _measured(name: str, picture: str, model: str) -> dict[str, float]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, picture, model, "--as", name]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    processor = _Processor(process.pid)
    processor.start()
    said, _ = process.communicate()
    wall, cpu = time.perf_counter() - began, processor.seconds()
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}.")
    told: dict[str, float] = {}
    for line in said.splitlines():
        if line.startswith("{"):
            told |= json.loads(line)
    return {"seconds": told.get("seconds", wall), "cpu": cpu, "found": told["found"]}


def _compiled() -> None:
    """Compile the package, as installing it does: a checkout may be run without ever being."""
    import compileall

    [package] = find_spec("tilevision").submodule_search_locations  # type: ignore[union-attr, misc]
    compileall.compile_dir(package, quiet=1)


def _picture(path: str, side: int, folder: str) -> str:
    from PIL import Image

    small = np.asarray(Image.open(path).convert("RGB"))
    times = [-(-side // edge) for edge in small.shape[:2]]
    large = Image.fromarray(np.tile(small, (*times, 1))[:side, :side])
    large.save(f"{folder}/large.jpg", quality=90)
    return f"{folder}/large.jpg"


def main() -> None:
    """Have everybody do the job in turn, and print the table."""
    options = argparse.ArgumentParser()
    options.add_argument("picture")
    options.add_argument("model")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--side", type=int, default=8192)
    options.add_argument("--as", dest="name")
    given = options.parse_args()
    if given.name:
        print(json.dumps({"found": CONTESTANTS[given.name][0](given.picture, given.model)}))
        return
    names = [name for name, (_, package) in CONTESTANTS.items() if find_spec(package)]
    _compiled()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        large = _picture(given.picture, given.side, folder)
        for turn in range(given.rounds):
            for name in names if turn % 2 else reversed(names):
                runs[name].append(_measured(name, large, given.model))
    print("| | seconds, median | least to most | CPU, all processes | objects |")
    print("|---|---|---|---|---|")
    for name, figures in runs.items():
        seconds = [one["seconds"] for one in figures]
        cpu = "" if name.endswith("up") else f"{median(one['cpu'] for one in figures):.1f}"
        print(
            f"| {name} | {median(seconds):.2f} | {min(seconds):.2f} to {max(seconds):.2f} "
            f"| {cpu} | {figures[0]['found']:.0f} |"
        )


if __name__ == "__main__":
    main()
