"""Between networks that say something of each pixel and maps of tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tilevision.adapters.foreignvalues import as_plain_array
from tilevision.adapters.frameworks.devices import library
from tilevision.adapters.mapanswers import Declared, check_numbers, check_planes, check_stride
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import ModelSpec

__all__ = ["MapOutputs", "resized_planes"]

# The map among several answers, as libraries name it; what torchvision calls so are logits.
_OUT = "out"
_NAMED = (_OUT, "logits", "masks_pred", "probabilities")


class MapOutputs:
    """Reads what a network answered for a batch.

    Parameters
    ----------
    spec : ModelSpec
        With the parameters ``returns`` and, of classes, ``activation``.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._declared = Declared(spec)
        self._name = spec.name
        self._returns = spec.params["returns"]
        self._activation = spec.params.get("activation")

    def read(
        self,
        answer: Any,
        count: int,
        fed: tuple[int, int],
        shown: tuple[int, int],
        size: tuple[int, int],
    ) -> list[Findings]:
        """Return the map of each of `count` tiles of one size.

        Parameters
        ----------
        answer : tensor (n, k, h, w) or (n, h, w), or a mapping, an object or a tuple with it
        count : int
        fed : tuple of int
            Height and width of what the network was given.
        shown : tuple of int
            Height and width of the tile in it, at its top left.
        size : tuple of int
            Height and width of the tile.

        Raises
        ------
        ModelError
            If it holds no such map, or not one for each tile.
        """
        values, named = self._chosen(answer)
        if not hasattr(values, "is_floating_point") or values.ndim not in (3, 4):
            shape = tuple(values.shape) if hasattr(values, "shape") else type(values).__name__
            raise ModelError(
                f"Model {self._name} returned {shape}; a network that returns "
                f"{self._returns} returns a tensor (n, k, h, w) or (n, h, w), or a dict that has "
                f"it as {_OUT!r}."
            )
        if len(values) != count:
            raise ModelError(f"Model {self._name} does not tell {count} tiles apart.")
        planes = values[:, None] if values.ndim == 3 else values
        check_stride(self._name, tuple(planes.shape[2:]), fed)
        if shown != fed:
            planes = resized_planes(planes, fed)[..., : shown[0], : shown[1]]
        planes = resized_planes(planes, size)
        if planes.is_floating_point() and self._returns in ("probabilities", "classes"):
            usual = "softmax" if named == _OUT else "none"
            return self.decided(planes, self._activation or usual)
        return self._each(planes)

    def decided(self, planes: Any, activation: str) -> list[Findings]:
        """Return the maps of tiles of their classes' numbers ``(n, k, h, w)``, at their size.

        Raises
        ------
        ModelError
            If they are not what they are declared to be.
        """
        torch = library("torch")
        count = planes.shape[1]
        if self._returns == "classes" and count > 1:
            check_numbers(self._name, float(planes.max()))
            return self._each(planes.argmax(dim=1, keepdim=True))
        planes = planes.float()
        low, high = planes.aminmax()
        total = (planes.sum(dim=1) - 1).abs().max()
        check_planes(self._name, activation, count, float(low), float(high), float(total))
        if activation == "softmax":
            planes = planes.softmax(dim=1)
        elif activation == "sigmoid":
            planes = planes.sigmoid()
        if self._returns == "classes":
            planes = (planes > 0.5).to(torch.uint8)
        return self._each(planes)

    def _each(self, planes: Any) -> list[Findings]:
        """Return the map of each tile."""
        if planes.is_floating_point():
            planes = planes.float()
        return [self._declared.one(as_plain_array(one)) for one in planes]

    def _chosen(self, answer: Any) -> tuple[Any, str]:
        """Return the map among what a network answered, and by what name."""
        for name in _NAMED:
            found = answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)
            if found is not None:
                return found, name
        if isinstance(answer, Mapping) and len(answer) == 1:
            return next(iter(answer.values())), ""
        first = answer[0] if isinstance(answer, (list, tuple)) and answer else answer
        return first, ""


def resized_planes(planes: Any, size: tuple[int, int]) -> Any:
    """Return planes ``(n, k, h, w)`` at another height and width.

    Between the four nearest pixels, as the libraries' own post-processing; whole numbers are those
    of the nearest pixel.
    """
    torch = library("torch")
    if tuple(planes.shape[2:]) == size:
        return planes
    resize = torch.nn.functional.interpolate
    if planes.is_floating_point():
        return resize(planes, size=size, mode="bilinear", align_corners=False)
    y, x = (
        ((torch.arange(wanted, device=planes.device) + 0.5) * have / wanted).long()
        for wanted, have in zip(size, planes.shape[2:], strict=True)
    )
    return planes[:, :, y][..., x]
