"""Networks that answer as torchvision's detectors do, and find what is red, not what is blue."""

import torch


class Red(torch.nn.Module):
    """Takes a list of pictures, returns a list of dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(0.4))

    def forward(self, pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Find the extent of what is red in each picture."""
        found: list[dict[str, torch.Tensor]] = []
        for picture in pictures:
            red = (picture[0] - picture[2]) > self.threshold
            rows = torch.nonzero(red.any(1)).flatten()
            columns = torch.nonzero(red.any(0)).flatten()
            boxes = torch.zeros((0, 4))
            if len(rows) > 0:
                edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                boxes = torch.stack(edges).float()[None]
            n = len(boxes)
            found.append(
                {
                    "boxes": boxes,
                    "labels": torch.ones(n, dtype=torch.int64),
                    "scores": torch.full((n,), 0.9),
                }
            )
        return found


class Masked(torch.nn.Module):
    """As `Red`, with masks."""

    def __init__(self) -> None:
        super().__init__()
        self.red = Red()

    def forward(self, pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Find it, and which of its pixels are red."""
        found = self.red(pictures)
        for columns, picture in zip(found, pictures):  # noqa: B905 - TorchScript has no strict
            red = ((picture[0] - picture[2]) > 0.4).float()[None, None]
            columns["masks"] = red[: len(columns["boxes"])]
        return found


class Batch(torch.nn.Module):
    """Gives what a graph without choices can: one box, of how much red there is."""

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return boxes, labels and scores."""
        red = (batch[0, 0] - batch[0, 2]) > 0.4
        rows, columns = red.any(1).float(), red.any(0).float()
        edges = [columns.argmax(), rows.argmax(), 0, 0]
        edges[2] = columns.shape[0] - columns.flip(0).argmax()
        edges[3] = rows.shape[0] - rows.flip(0).argmax()
        boxes = torch.stack([edge.float() for edge in edges])[None]
        return boxes, torch.ones(1, dtype=torch.int64), rows.max()[None] * 0.9


class Halving(torch.nn.Module):
    """Says of each pixel how red it is, by way of halves of halves: as U-Nets, at multiples of 32.

    It joins what it has halved five times and made large again with what it was given.
    """

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Return shares of two classes."""
        small = torch.nn.functional.avg_pool2d(batch, 32)
        large = small.repeat_interleave(32, 2).repeat_interleave(32, 3)
        joined = torch.cat([batch, large], 1)
        return joined[:, [0, 3, 2, 5]].reshape(-1, 2, 2, *batch.shape[2:]).sum(2).softmax(1)
