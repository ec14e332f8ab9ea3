"""Many images, one after the other: a bad one is reported and stops nothing."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilevision.errors import RunError, TilevisionError
from tilevision.pipeline.launch import launch
from tilevision.pipeline.planning import image_name, resolve_stages
from tilevision.pipeline.settings import Settings
from tilevision.result import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Batch", "analyze_many"]

SUFFIXES = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"),
    *(".btf", ".ndpi", ".scn", ".svs", ".tf8", ".tif", ".tiff"),
)


class Batch(Mapping[str, Result]):
    """The results of many images by name, and what went wrong with the others.

    Attributes
    ----------
    results : dict of str to Result
        Images that were analysed, fully or in part.
    errors : dict of str to TilevisionError
        Images that were not.
    """

    def __init__(self, results: dict[str, Result], errors: dict[str, TilevisionError]) -> None:
        self.results = results
        self.errors = errors

    def __getitem__(self, name: str) -> Result:
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    @property
    def complete(self) -> bool:
        """Whether every tile of every image was analysed."""
        return not self.errors and all(result.complete for result in self.results.values())

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per image: name, status, detections, tiles, failed, error."""
        import pandas as pd

        rows = [
            {
                "image": name,
                "status": result.status,
                "detections": len(result.findings),
                "tiles": len(result.rows),
                "failed": sum(row.status == "failed" for row in result.rows),
                "error": "",
            }
            for name, result in self.results.items()
        ]
        rows += [
            {"image": name, "status": "error", "detections": 0, "tiles": 0, "failed": 0}
            | {"error": str(error)}
            for name, error in self.errors.items()
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        found = sum(len(result.findings) for result in self.results.values())
        partial = sum(not result.complete for result in self.results.values())
        return (
            f"<Batch: {len(self.results)} images with {found:,} detections, {partial} of them "
            f"incomplete; {len(self.errors)} images could not be analysed>"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.to_dataframe().to_html(index=False, escape=True)}"


def analyze_many(
    images: Any,
    model: Any = None,
    *,
    out_dir: str | os.PathLike[str] | None = None,
    **arguments: Any,
) -> Batch:
    """Analyse many images with the same settings, over one cluster and one checkpoint.

    Parameters
    ----------
    images : folder, glob pattern, or iterable of what `tilevision.start` takes
    model
        As for `tilevision.start`, and so all other arguments.
    out_dir : path-like, optional
        Folder for one ``<name>.geojson`` an image, written as soon as it is done.

    Returns
    -------
    Batch
        An image that cannot be analysed is in ``errors`` and stops nothing.

    Raises
    ------
    RunError
        If there is no image, or two would have the same name.
    ModelError
        If the model is unknown: that would fail for every image.
    """
    settings = Settings(model=model, **arguments)
    if settings.report is not None:
        raise RunError("report is of one image's run; leave it out for many")
    resolve_stages(settings)
    named = _named(images)
    folder = None if out_dir is None else _folder(out_dir, named)
    results: dict[str, Result] = {}
    errors: dict[str, TilevisionError] = {}
    for name, image in named.items():
        try:
            run = launch(image, settings, waits=True)
            try:
                results[name] = run.result()
            except BaseException:
                run.cancel()
                raise
            if folder is not None:
                results[name].save(folder / f"{Path(name).stem}.geojson")
        except TilevisionError as error:
            errors[name] = error
    return Batch(results, errors)


def _named(images: Any) -> dict[str, Any]:
    """Return image by name, in the order given; a folder or pattern in sorted order."""
    named: dict[str, Any] = {}
    for position, image in enumerate(_listed(images)):
        is_path = isinstance(image, (str, os.PathLike))
        name = image_name(image) if is_path else f"{position:04d}-{image_name(image)}"
        if name in named:
            raise RunError(
                f"two images are named {name}: {named[name]} and {image}; rename one, or analyse "
                "them apart"
            )
        named[name] = image
    if not named:
        raise RunError(
            f"no image in {images!r}; give a folder, a pattern as 'scans/*.tif', or a list"
        )
    return named


def _listed(images: Any) -> Iterable[Any]:
    if isinstance(images, (str, os.PathLike)):
        text = os.fspath(images)
        if Path(text).is_dir():
            return sorted(path for path in Path(text).iterdir() if path.suffix.lower() in SUFFIXES)
        if glob.has_magic(text) and not Path(text).exists():
            return sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - takes absolute patterns
        return [text]
    return images  # type: ignore[no-any-return]  # whatever can be iterated


def _folder(path: str | os.PathLike[str], named: Iterable[str]) -> Path:
    """Make the folder for the outputs; refuse names that would be one file."""
    taken: dict[str, str] = {}
    for name in named:
        other = taken.setdefault(Path(name).stem, name)
        if other != name:
            raise RunError(
                f"{other} and {name} would both be written to {Path(name).stem}.geojson; rename "
                "one, or analyse them apart"
            )
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot write to {folder}: {error.strerror}; give another out_dir"
        ) from None
    return folder
