"""Batches on a processor: each adapter called once for a batch, beside once for each tile.

    python benchmarks/batches.py [--rounds 5] [--batch 8] [--side 320] [--onnx YUNET] [--only NAME]

Takes a minute on one core that has nothing else to do. Networks with random weights of PyTorch,
torchvision, timm, transformers and Ultralytics (also through SAHI), and the ONNX file of a detector
that takes any number of pictures, look at tiles of SIDE pixels of a photograph; one thread, one
process. What is not installed is left out.

- ``looped``: ``predict`` for one tile after the other
- ``one call``: ``predict`` for the batch, made to call the library once
- ``as it comes``: ``predict`` for the batch. On its first two tiles an adapter finds out which way
  is quicker here, where both give the same

They take turns. Printed are CPU seconds for a batch (medians), how many times as many tiles a
second that is as looped, and to what the answers of one call are those of single ones: pixels of
corners, and scores (of vectors: in proportion to their length).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ONNX = "../shared/data/yunet-dynamic.onnx"
EXACT = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)  # of what adapters take for the same


def _torchvision(folder: Path) -> Any:  # noqa: ARG001 - as the others
    import torchvision

    import tilevision as tv

    network = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5
    )
    return tv.model(network.eval(), score_floor=0.0)


def _torch_encoder(folder: Path) -> Any:  # noqa: ARG001 - as the others
    import torch
    import torchvision

    import tilevision as tv

    network = torchvision.models.resnet18(weights=None)
    network.fc = torch.nn.Identity()
    return tv.model(network.eval(), returns="embedding")


def _timm(folder: Path) -> Any:  # noqa: ARG001 - as the others
    import timm

    import tilevision as tv

    return tv.model(timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0))


def _transformers(folder: Path) -> Any:
    import transformers

    import tilevision as tv

    config = transformers.YolosConfig(
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=[256, 256],
        num_detection_tokens=50,
    )
    transformers.YolosForObjectDetection(config).save_pretrained(folder / "yolos")
    size = {"shortest_edge": 256, "longest_edge": 256}
    transformers.YolosImageProcessor(size=size).save_pretrained(folder / "yolos")
    return tv.model(folder / "yolos", score_floor=0.0)


def _features(folder: Path) -> Any:
    import transformers

    import tilevision as tv

    sizes = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3}
    config = transformers.ViTConfig(**sizes, intermediate_size=768)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder / "vit")
    transformers.ViTImageProcessor().save_pretrained(folder / "vit")
    return tv.model(folder / "vit", returns="embedding", pooling="cls")


def _yolo(folder: Path) -> Path:
    import torch
    import ultralytics

    model = ultralytics.YOLO("yolov8n.yaml", verbose=False)
    for layer in model.model.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.weight.requires_grad:
            torch.nn.init.kaiming_normal_(layer.weight)
    model.save(folder / "yolo.pt")
    return folder / "yolo.pt"


def _ultralytics(folder: Path) -> Any:
    import tilevision as tv

    return tv.model(_yolo(folder), input_size=320, score_floor=1e-5)


def _sahi(folder: Path) -> Any:
    import sahi

    import tilevision as tv

    return tv.model(
        sahi.AutoDetectionModel.from_pretrained(
            "ultralytics",
            model_path=str(_yolo(folder)),
            confidence_threshold=1e-5,
            image_size=320,
            device="cpu",
        )
    )


NEEDS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "torchvision, SSDlite": (_torchvision, ("torchvision",)),
    "torch, encoder ResNet-18": (_torch_encoder, ("torchvision",)),
    "timm, ViT tiny": (_timm, ("timm",)),
    "transformers, YOLOS": (_transformers, ("transformers",)),
    "transformers, ViT tiny": (_features, ("transformers",)),
    "Ultralytics, YOLOv8n": (_ultralytics, ("ultralytics",)),
    "SAHI, YOLOv8n": (_sahi, ("sahi", "ultralytics")),
}


def _tiles(side: int, count: int) -> list[np.ndarray]:
    from skimage.data import astronaut

    picture = np.tile(astronaut(), (2, 2, 1))
    shifts = np.random.default_rng(1).integers(0, 512, (count, 2)).tolist()
    return [np.ascontiguousarray(picture[y : y + side, x : x + side]) for x, y in shifts]


def _exactness(alone: Sequence[Any], together: Sequence[Any]) -> str:
    """Return to what the answers are the same, in words."""
    from tilevision.adapters.frameworks.together import PIXELS, SCORES, alike

    if not any(len(one) or one.tile_scores or one.embedding is not None for one in alone):
        return "nothing found: not compared"
    if all(alike(*pair, 1e-300) for pair in zip(alone, together, strict=True)):
        return "the last bit"
    for slack in EXACT:
        if all(alike(*pair, slack) for pair in zip(alone, together, strict=True)):
            return f"{PIXELS * slack:.0e} px, {SCORES * slack:.0e}"
    return "not the same"


def _built(spec: Any, *, measure: bool = True) -> Any:
    """Return a model; if nothing is measured, it calls its library once where answers allow."""
    from tilevision.adapters.frameworks.together import Together
    from tilevision.modelspec.build import attribute

    of = Together.of
    if not measure:
        Together.of = lambda spec, _, *rest: of(spec, True, *rest)
    try:
        return attribute(spec.factory)(spec)
    finally:
        Together.of = of


def _measured(spec: Any, tiles: list[np.ndarray], rounds: int) -> tuple[list[float], str, str]:
    """Return the CPU seconds of each way, which one is taken as it comes, and how exact it is."""
    usual, forced = _built(spec), _built(spec, measure=False)
    alone = [forced.predict([tile])[0] for tile in tiles]
    for _ in range(5):  # it makes its choice once it has found something
        usual.predict(tiles)
        exact = _exactness(alone, forced.predict(tiles))
    ways: list[Callable[[], Any]] = [
        lambda: [usual.predict([tile]) for tile in tiles],
        lambda: forced.predict(tiles),
        lambda: usual.predict(tiles),
    ]
    seconds: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds):
        for number in range(len(ways)) if turn % 2 else reversed(range(len(ways))):
            began = time.process_time()
            ways[number]()
            seconds[number].append(time.process_time() - began)
    chosen, refused = (_chosen(one) for one in (usual, forced))
    if refused == "one by one":
        exact = "not the same: never batched"
    return [median(each) for each in seconds], chosen, exact


def _chosen(built: Any) -> str:
    asks = vars(built).get("_ask")  # ONNX files have no choice
    return "one call" if asks is None or vars(asks)["_many"] is not None else "one by one"


def main() -> None:
    """Have each adapter asked in all ways, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--onnx", default=ONNX if Path(ONNX).exists() else "")
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    import tilevision as tv

    tiles = _tiles(given.side, given.batch)
    print(f"{given.batch} tiles of {given.side} px, CPU seconds, one thread\n")
    print("| | looped | one call | times as fast | as it comes | times as fast | exact to |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        made = {
            name: (lambda make=make: make(Path(folder)))
            for name, (make, libraries) in NEEDS.items()
            if all(map(find_spec, libraries))
        }
        if given.onnx:
            made["ONNX, YuNet"] = lambda: tv.model(given.onnx, batch_size=given.batch)
        for name, make in made.items():
            if given.only not in name:
                continue
            if find_spec("torch"):
                import torch

                torch.manual_seed(1)
                torch.set_num_threads(1)
            (looped, once, usual), chosen, exact = _measured(make(), tiles, given.rounds)
            faster = f"{once:.3f} | {looped / once:.2f} | {chosen}, {usual:.3f}"
            print(
                f"| {name} | {looped:.3f} | {faster} | {looped / usual:.2f} | {exact} |", flush=True
            )


if __name__ == "__main__":
    main()
