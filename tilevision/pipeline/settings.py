"""What the user asked for, checked before anything is opened.

The arguments come in three groups: the subject (what is analysed, and what the result depends
on), the execution (how that is done) and the delivery (what is kept, shown and raised). Each
group says which of its values a run's manifest holds as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tilevision import checks
from tilevision.errors import RunArgumentError
from tilevision.files import check_folder
from tilevision.modelspec.spec import DEVICES
from tilevision.result import MergeSettings
from tilevision.schedule import Quota, Retry
from tilevision.schedule.policy import check_failure_limit
from tilevision.seams import LIMITS

if TYPE_CHECKING:
    from tilevision.rasters import MapSettings

__all__ = ["DEFAULT_CHECKPOINT", "Delivery", "Execution", "Settings", "Subject"]

DEFAULT_CHECKPOINT = ".tilevision"
_OF_MAPS = ("blend", "margin", "thresholds", "unsure")


@dataclass(frozen=True)
class Subject:
    """What is analysed, and what the result depends on."""

    RECORDED: ClassVar[tuple[str, ...]] = (
        *("mpp", "min_score", "classes", "merge", "class_agnostic"),
        *("match_metric", "match_threshold", *LIMITS, *_OF_MAPS),
    )

    model: Any
    _: KW_ONLY
    grid: Any = None
    resolution: Any = None
    full_image: bool = False
    mpp: float | tuple[float, float] | None = None
    region: Any = None
    min_score: float | None = None
    max_score: float | None = None
    min_area: float | None = None
    max_area: float | None = None
    classes: Sequence[str] | None = None
    moderation: Any = None
    synthesis: Any = "summary"
    merge: str = "seam"
    class_agnostic: bool = False
    match_metric: str = "iou"
    match_threshold: float = 0.5
    blend: str | None = None
    margin: int | None = None
    thresholds: Mapping[str, float] | None = None
    unsure: float | None = None

    def _check_subject(self) -> None:
        checks.flag("full_image", self.full_image)
        checks.flag("class_agnostic", self.class_agnostic)
        if self.min_score is not None:
            checks.share("min_score", self.min_score)
        if self.classes is not None:
            found = checks.names("classes", self.classes)
            if not isinstance(self.classes, (str, Sequence)):  # an iterator has no second time
                object.__setattr__(self, "classes", found)
        self.merging()
        self.blending()
        if self.thresholds is not None:  # of any mapping, as the manifest holds it
            object.__setattr__(self, "thresholds", dict(self.thresholds))

    def merging(self) -> MergeSettings:
        """Return what decides the merge, and nothing a tile's record depends on."""
        return MergeSettings(
            method=self.merge,
            class_agnostic=self.class_agnostic,
            match_metric=self.match_metric,
            match_threshold=self.match_threshold,
            min_score=self.min_score,
            classes=None if self.classes is None else checks.names("classes", self.classes),
            max_score=self.max_score,
            min_area=self.min_area,
            max_area=self.max_area,
        )

    def blending(self) -> MapSettings | None:
        """Return how maps of tiles become one, which no tile's record depends on; None: as usual.

        Raises
        ------
        RunArgumentError
            If a name is unknown or a number out of range.
        """
        given = {name: getattr(self, name) for name in _OF_MAPS}
        asked = {name: value for name, value in given.items() if value is not None}
        if not asked:
            return None
        from tilevision.rasters import MapSettings

        return MapSettings(**asked)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How the work is done; the result does not depend on it."""

    RECORDED: ClassVar[tuple[str, ...]] = (
        *("workers", "concurrency", "batch_size", "device", "timeout", "max_failures", "budget"),
    )

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

    def _check_execution(self) -> None:
        checks.flag("reuse", self.reuse)
        for name in ("concurrency", "batch_size"):
            if (value := getattr(self, name)) is not None:
                checks.whole(name, value)
        if self.workers is not None:
            checks.worker_count(self.workers)
        if self.timeout is not None:
            checks.positive("timeout", self.timeout, what="seconds")
        if self.budget is not None:
            checks.positive("budget", self.budget)
        check_failure_limit(self.max_failures)
        if not isinstance(self.device, str) or not DEVICES.fullmatch(self.device):
            raise RunArgumentError(
                f"device is {self.device!r:.80}; give 'auto', 'cpu', 'cuda:0', 'mps', "
                "'openvino' or 'tensorrt:0'."
            )
        _check_instance("retry", self.retry, Retry)
        if self.quota is not None:
            _check_instance("quota", self.quota, Quota)
        if self.client is not None and self.workers is not None:
            raise RunArgumentError(
                "workers= sets the size of a local cluster; leave it out together with client=."
            )


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What is kept, shown and raised."""

    RECORDED: ClassVar[tuple[str, ...]] = ("strict",)

    checkpoint: str | os.PathLike[str] | None = DEFAULT_CHECKPOINT
    strict: bool = False
    progress: bool | None = None
    report: str | os.PathLike[str] | None = None

    @property
    def checkpoint_folder(self) -> str | None:
        """The absolute path of the checkpoint; None: nothing is kept."""
        folder = self.checkpoint
        return None if folder is None else str(Path(folder).expanduser().absolute())

    def _check_delivery(self) -> None:
        checks.flag("strict", self.strict)
        if self.progress is not None:
            checks.flag("progress", self.progress)
        for name in ("checkpoint", "report"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, (str, os.PathLike)):
                raise RunArgumentError(f"{name} is {value!r:.80}; give a path, or None.")
        if isinstance(self.checkpoint, str) and not self.checkpoint:
            raise RunArgumentError("checkpoint is empty; give a folder, or None to keep nothing.")
        if self.report is not None:
            _check_writable("report", checks.path("report", self.report))


@dataclass(frozen=True)
class Settings(Delivery, Execution, Subject):
    """The arguments of `tilevision.start`, checked; see there for their meaning.

    Raises
    ------
    RunError
        If a value makes no sense; the message names the argument and what it takes. It is a
        `ValueError` as well.
    """

    def __post_init__(self) -> None:
        self._check_subject()
        self._check_execution()
        self._check_delivery()

    def recorded(self, *groups: type[Subject | Execution | Delivery]) -> dict[str, Any]:
        """Return the plain values of `groups` that a manifest holds as they are; of all.

        Limits and ways of blending that are not set are left out: manifests of earlier versions
        have none.
        """
        chosen = groups or (Subject, Execution, Delivery)
        values = {name: getattr(self, name) for group in chosen for name in group.RECORDED}
        newer = (*LIMITS, *_OF_MAPS)
        return {k: value for k, value in values.items() if k not in newer or value is not None}


def _check_writable(name: str, path: Path) -> None:
    if path.is_dir():
        raise RunArgumentError(f"{name} is a folder: {path}; give a file in it.")
    check_folder(path.absolute().parent)


def _check_instance(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise RunArgumentError(f"{name} is {value!r:.80}; give tv.{kind.__name__}(…).")
