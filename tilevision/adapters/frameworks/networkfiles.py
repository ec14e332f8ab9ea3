"""Networks of PyTorch in files: opened, and what an exported program says of its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tilevision.adapters.frameworks.devices import library
from tilevision.errors import ModelError

__all__ = ["LARGEST", "Sizes", "called", "form_of", "opened_file", "rows_of", "sizes_of"]

LARGEST = 4096  # pixels a side; what a file allows beyond is no size that it was made for


class Sizes(NamedTuple):
    """Heights and widths of the pictures that a network takes.

    Parameters
    ----------
    least, most : tuple of int
        Height and width.
    steps : tuple of int
        Of what height and width are multiples.
    square : bool
        True if both must be the same.
    """

    least: tuple[int, int]
    most: tuple[int, int]
    steps: tuple[int, int] = (1, 1)
    square: bool = False

    def around(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the least height and width that a picture of `shape` can be filled up to."""
        high, wide = (
            -(-max(have, least) // step) * step
            for have, least, step in zip(shape, self.least, self.steps, strict=False)
        )
        return (max(high, wide),) * 2 if self.square else (high, wide)


def opened_file(kind: str, path: Path, name: str) -> Any:
    """Return what a file holds: a network, or an exported program.

    Raises
    ------
    ModelError
        If it cannot be opened, or holds something else.
    """
    torch = library("torch")
    try:
        if kind == "export":
            return torch.export.load(path)
        if kind == "torchscript":
            return torch.jit.load(str(path), map_location="cpu")
        network = torch.load(path, map_location="cpu", weights_only=False)
    except ModelError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise ModelError(
            f"Model {name}: torch {torch.__version__} cannot open {path} "
            f"({type(error).__name__}: {words}); check that it is whole, and that what its classes "
            "belong to is installed here."
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise ModelError(
            f"Model {name}: {path} holds a {type(network).__name__}, not a network; build the "
            "network, load the weights, and pass it."
        )
    return network


def called(network: Any, form: str) -> Any:
    """Return what calls a network with a list of pictures, as its form wants it."""
    if form == "list":
        return network
    if form == "picture":
        return lambda pictures: network(pictures[0])
    torch = library("torch")
    return lambda pictures: network(torch.stack(pictures))


def form_of(example: Any) -> str:
    """Return how a program takes pictures, by its example: as a list, one, or a batch."""
    if isinstance(example, (list, tuple)):
        return "list"
    return "picture" if example is not None and example.ndim == 3 else "batch"


def sizes_of(program: Any) -> Sizes | None:
    """Return the heights and widths of the pictures that a program takes.

    None where it takes any: both sides are free, as far as its file says.
    """
    inputs = set(program.graph_signature.user_inputs)
    shapes = [node.meta["val"].shape for node in program.graph.nodes if node.name in inputs]
    if not shapes or len(shapes[0]) < 2:
        return None
    sides = shapes[0][-2:]
    height, width = (_range(side, program) for side in sides)
    same = str(sides[0]) == str(sides[1]) and not isinstance(sides[0], int)
    if max(height[1], width[1]) > LARGEST and not same:
        return None
    return Sizes((height[0], width[0]), (height[1], width[1]), (height[2], width[2]), same)


def rows_of(program: Any) -> int | None:
    """Return how many boxes a program gives at most: the rows of its output of four columns.

    A number, or the least of a number and what there is: ``boxes[:100]`` is ``Min(100, u0)``.
    """
    made = set(program.graph_signature.user_outputs)
    shapes = [node.meta["val"].shape for node in program.graph.nodes if node.name in made]
    sides = [shape[0] for shape in shapes if len(shape) == 2 and shape[1] == 4]
    if not sides or isinstance(sides[0], int):
        return sides[0] if sides else None
    expression = sides[0].node.expr
    numbers = [int(part) for part in getattr(expression, "args", ()) if part.is_Integer]
    return min(numbers, default=None) if type(expression).__name__ == "Min" else None


def _range(side: Any, program: Any) -> tuple[int, int, int]:
    """Return the least, the most and the step of a side: a number, or a symbol in bounds."""
    if isinstance(side, int):
        return side, side, 1
    step, inner = side.node.expr.as_coeff_Mul()  # 32 times a symbol is a multiple of 32
    step = int(step) if step.is_Integer and step > 0 else 1
    known = program.range_constraints.get(side.node.expr)
    if known is None:
        known, times = program.range_constraints.get(inner), step
    else:
        times = 1
    try:
        return max(1, int(known.lower) * times), int(known.upper) * times, step
    except (AttributeError, OverflowError, TypeError, ValueError):  # unbounded, or worked out
        return 1, LARGEST + 1, step
