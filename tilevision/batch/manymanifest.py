"""What the journal of many images begins with, and how that leads to the same work again."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tilevision.errors import RunError
from tilevision.grid import Grid
from tilevision.pipeline.history import remember_work, work_again
from tilevision.pipeline.planning import Stages
from tilevision.pipeline.settings import Settings
from tilevision.sources.addresses import check_kept, lasting

__all__ = ["describe_many", "recall_many"]

_KEPT = ("resolution", "full_image", "reuse")


def describe_many(
    run_id: str,
    label: str,
    images: Mapping[str, Any],
    settings: Settings,
    stages: Stages,
    out: tuple[str | os.PathLike[str] | None, str],
) -> dict[str, Any]:
    """Return what another process needs to list, follow or go on with a run of many images.

    Parameters
    ----------
    run_id : str
    label : str
        What people call all of them.
    images : mapping of str to image
        By name, in order.
    settings : Settings
    stages : Stages
    out : (path-like or None, str)
        The folder of the files, and their format.
    """
    region = _region(settings.region)
    return {
        "id": run_id,
        "started": time.time(),
        "image": label,
        "images": list(images),
        "paths": [lasting(image) for image in images.values()],
        "model": stages.asked.name,
        "out_dir": None if out[0] is None else str(Path(out[0]).expanduser().absolute()),
        "out_format": out[1],
        "grid": None if settings.grid is None else Grid.parse(settings.grid).to_dict(),
        "region": region,
        "region_lost": settings.region is not None and region is None,
        "asked": {name: getattr(settings, name) for name in _KEPT},
        "versions": {"tilevision": version("tilevision"), "python": platform.python_version()},
        **remember_work(stages, settings),
    }


def recall_many(
    manifest: Mapping[str, Any], model: Any, overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the images by name, and the arguments they were begun with.

    Raises
    ------
    RunError
        If something has to be given again, or cannot be.
    SourceError
        If an image's address lacks its secrets, which are not stored.
    """
    who = f"run {manifest['id']}"
    images = dict(zip(manifest["images"], manifest["paths"], strict=True))
    in_memory = [name for name, path in images.items() if path is None]
    if in_memory:
        raise RunError(
            f"{who} analysed images that were in memory ({in_memory[0]}); give "
            "tv.analyze_many the same images again, which goes on from what is stored"
        )
    for path in images.values():
        check_kept(path, who)
    if manifest["region_lost"] and "region" not in overrides:
        raise RunError(f"{who} had a region that is not stored; pass region=")
    arguments = work_again(manifest, who, model, overrides) | manifest["asked"]
    grid = manifest["grid"]
    arguments["grid"] = None if grid is None else Grid.from_dict(grid)
    arguments["region"] = manifest["region"]
    return images, arguments


def _region(region: Any) -> Any:
    """Return a region as plain JSON types, a file by its full path; None where it is neither."""
    if isinstance(region, (str, os.PathLike)) and Path(region).expanduser().exists():
        return str(Path(region).expanduser().absolute())
    try:
        json.dumps(region)
    except (TypeError, ValueError):
        return None
    return region
