"""A real picture, networks that find a lot on it, and whether two answers are alike.

The networks have random weights, settled so that they find dozens of things on the picture: what
they find is nonsense, but the same nonsense whoever reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from framework_models import needs
from PIL import Image

from tilevision.findings import Findings
from tilevision.geometry import iou

# As large as an input of 320 px, smaller, and larger: the last is shrunk.
TILES = {"square": (320, 320), "low": (240, 320), "tall": (320, 200), "whole": (580, 1068)}


def road(folder: Path) -> np.ndarray:
    """Return the aerial photo of a road, 1068×580 px."""
    return np.asarray(Image.open(folder / "small-vehicles.jpeg").convert("RGB"))


def tiles(picture: np.ndarray) -> dict[str, np.ndarray]:
    """Return the picture in four shapes."""
    return {
        name: np.ascontiguousarray(
            picture if name == "whole" else picture[100 : 100 + high, 200 : 200 + wide]
        )
        for name, (high, wide) in TILES.items()
    }


def batch_of(picture: np.ndarray) -> Any:
    """Return the square tile as a network takes it: one picture, from 0 to 1."""
    (torch,) = needs("torch")
    return torch.from_numpy(tiles(picture)["square"]).permute(2, 0, 1)[None].float() / 255


def scattered(network: Any) -> Any:
    """Give all weights random values that let something of the picture arrive at the end."""
    (torch,) = needs("torch")
    dice = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                spread = 1.4 / np.sqrt(np.prod(weight.shape[1:]))
                weight.copy_(torch.randn(weight.shape, generator=dice) * spread)
    return network.eval()


def settled(network: Any, shown: Any, layers: Iterable[tuple[Any, float, float]]) -> Any:
    """Scale last layers so that what they give for `shown` has a mean and a deviation."""
    (torch,) = needs("torch")
    wanted = list(layers)
    seen: dict[int, Any] = {}
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out, at=at: seen.__setitem__(at, out))
        for at, (layer, _, _) in enumerate(wanted)
    ]
    network.eval()
    with torch.no_grad():
        network(shown)
        for at, (layer, mean, deviation) in enumerate(wanted):
            if at not in seen:  # a head that is not used outside of training
                continue
            factor = deviation / seen[at].std()
            layer.weight *= factor
            layer.bias.copy_(layer.bias * factor + mean - seen[at].mean() * factor)
    for hook in hooks:
        hook.remove()
    return network


def to_onnx(network: Any, shown: Any, path: Path, names: Iterable[str], **more: Any) -> str:
    """Write a network as ONNX by tracing."""
    import warnings

    (torch,) = needs("torch", "onnx")[:1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, and that there is a newer way
        torch.onnx.export(
            network.eval(), (shown,), str(path), dynamo=False, opset_version=17,
            input_names=["image"], output_names=list(names), **more,
        )  # fmt: skip
    return str(path)


def check_alike(
    mine: Findings,
    tile: np.ndarray,
    boxes: Any,
    scores: Any,
    classes: Any,
    *,
    exact: bool,
    least: int = 10,
) -> None:
    """Raise AssertionError unless each detection of one has its like in the other, cut to the tile.

    Where both run the same code on the same pixels (`exact`), numbers are equal as far as single
    precision goes, and so are the counts. Where the runtime or the resizing is another one, pixels
    differ by a rounding: then 95 in 100 have their like (overlap 0.9, score within 0.02), and the
    counts differ by 3 in 100 at most.
    """
    cut, there = in_picture(mine.boxes, tile)
    got, sure, kinds = cut[there], mine.scores[there], mine.class_ids[there]
    boxes, there = in_picture(boxes, tile)
    boxes, scores, classes = boxes[there], np.asarray(scores)[there], np.asarray(classes)[there]
    count = len(boxes)
    assert count >= least
    assert abs(len(got) - count) <= (0 if exact else max(1, 0.03 * count)), (len(got), count)
    alike = iou(got[:, None], boxes[None]) > (0.999 if exact else 0.9)
    alike &= np.abs(sure[:, None] - scores[None]) < (1e-4 if exact else 0.02)
    alike &= kinds[:, None] == classes[None]
    share = 1.0 if exact else 0.95
    assert alike.any(axis=1).mean() >= share and alike.any(axis=0).mean() >= share


def in_picture(boxes: Any, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes cut to a picture, and which of them have any area there."""
    height, width = picture.shape[:2]
    cut = np.asarray(boxes, float).reshape(-1, 4).clip(0, [width, height] * 2)
    return cut, (cut[:, 2:] > cut[:, :2]).all(axis=1)
