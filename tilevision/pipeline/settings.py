"""What the user asked for, checked before anything is opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilevision.errors import RunError
from tilevision.files import check_folder
from tilevision.modelspec.declarations import DEVICES
from tilevision.result import MergeSettings
from tilevision.schedule import Quota, Retry

__all__ = ["DEFAULT_CHECKPOINT", "Settings"]

DEFAULT_CHECKPOINT = ".tilevision"


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of `tilevision.start`, checked; see there for their meaning.

    Raises
    ------
    RunError
        If a value makes no sense; the message names the argument and what it takes.
    """

    model: Any
    grid: Any = None
    resolution: Any = None
    full_image: bool = False
    mpp: float | tuple[float, float] | None = None
    region: Any = None
    min_score: float | None = None
    classes: Sequence[str] | None = None
    moderation: Any = None
    synthesis: Any = "summary"
    merge: str = "seam"
    checkpoint: str | os.PathLike[str] | None = DEFAULT_CHECKPOINT
    client: Any = None
    workers: int | None = None
    concurrency: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    retry: Retry = field(default_factory=Retry)
    quota: Quota | None = None
    timeout: float | None = None
    max_failures: float | None = None
    budget: float | None = None
    reuse: bool = True
    strict: bool = False
    progress: bool | None = None
    report: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "concurrency", "batch_size"):
            _whole(name, getattr(self, name))
        for name in ("timeout", "max_failures", "budget"):
            _positive(name, getattr(self, name))
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise RunError(f"min_score is {self.min_score}; give a number from 0 to 1")
        if not isinstance(self.device, str) or not DEVICES.fullmatch(self.device):
            raise RunError(
                f"device {self.device!r} is not known; give 'auto', 'cpu', 'cuda:0', 'mps', "
                "'openvino' or 'tensorrt:0'"
            )
        _instance("retry", self.retry, Retry)
        if self.quota is not None:
            _instance("quota", self.quota, Quota)
        if self.client is not None and self.workers is not None:
            raise RunError(
                "workers counts the workers of a local cluster; leave it out with client="
            )
        if isinstance(self.checkpoint, str) and not self.checkpoint:
            raise RunError("checkpoint is empty; give a folder, or None to keep nothing")
        if self.report is not None:
            _writable("report", Path(self.report))
        self.merging()

    def merging(self) -> MergeSettings:
        """Return what decides the merge, and nothing a tile's record depends on."""
        classes = (self.classes,) if isinstance(self.classes, str) else self.classes
        return MergeSettings(
            method=self.merge,
            min_score=self.min_score,
            classes=tuple(classes) if classes is not None else None,
        )


def _whole(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RunError(f"{name} is {value!r}; give a whole number of 1 or more")


def _positive(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise RunError(f"{name} is {value!r}; give a number above 0")


def _writable(name: str, path: Path) -> None:
    if path.is_dir():
        raise RunError(f"{name} is a folder: {path}; give a file in it")
    check_folder(path.absolute().parent)


def _instance(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise RunError(f"{name} is {value!r}; give tv.{kind.__name__}(…)")
