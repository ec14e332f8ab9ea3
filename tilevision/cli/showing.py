"""``tilevision demo``: the main job on three real pictures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilevision import checks
from tilevision.cli.analysis import wait
from tilevision.cli.failing import ExitCode
from tilevision.cli.options import checkpoint_option, workers_option
from tilevision.display import printable

if TYPE_CHECKING:
    from tilevision.result import Result

__all__ = ["demo"]

DOTS_PER_INCH = 120


@dataclass(frozen=True, slots=True)
class Scene:
    """A sample picture and how it is analysed.

    Parameters
    ----------
    name : str
        Of the function in `tilevision.samples`, and in the names of the files.
    model, grid : str
    """

    name: str
    model: str
    grid: str


SCENES = (
    Scene("sky", "blobs", "4x4"),
    Scene("tissue", "nuclei", "3x3"),
    Scene("page", "textlines", "1x3"),
)


@click.command()
@click.option(
    "--out-dir", default=".", help="Folder for the pictures. [default: the current folder]"
)
@checkpoint_option
@workers_option
@click.pass_context
def demo(ctx: click.Context, out_dir: str, checkpoint: str, workers: int | None) -> None:
    """Analyse a deep-field sky, a tissue section and a document page.

    Writes each picture, an overlay of the detections and a GeoJSON into the folder.
    """
    from tilevision.cluster import shared_cluster

    folder = _folder(out_dir)
    began = time.perf_counter()
    with shared_cluster(workers) as cluster:
        ready = time.perf_counter() - began
        click.echo(f"Local cluster started in {ready:.1f} s; dashboard: {cluster.dashboard_link}")
        results = [
            _analyse(ctx, scene, folder, checkpoint=checkpoint, workers=workers) for scene in SCENES
        ]
    _print_table(results)
    for result in results:
        click.echo(f"\n{printable(f'{result.name}: {result.summary}')}")
    click.echo(
        f"\nThe pictures are in {folder.resolve()}; {time.perf_counter() - began:.1f} s in all."
    )
    whole = all(result.complete for result in results)
    ctx.exit(ExitCode.COMPLETE if whole else ExitCode.MISSING)


def _analyse(ctx: click.Context, scene: Scene, folder: Path, **arguments: Any) -> Result:
    import tilevision as tv
    from tilevision.files import refusing

    picture = folder / f"demo-{scene.name}.png"
    with refusing(picture):
        _save_picture(scene, picture)
    run = tv.start(picture, scene.model, grid=scene.grid, progress=False, **arguments)
    result = wait(ctx, run, keeps=True)
    result.save(picture.with_suffix(".geojson"))
    overlay = picture.with_name(f"{picture.stem}-overlay.png")
    with refusing(overlay):
        result.plot().savefig(overlay, dpi=DOTS_PER_INCH)
    click.echo(f"{scene.name}: wrote {overlay.name} and {picture.stem}.geojson")
    return result


def _save_picture(scene: Scene, path: Path) -> None:
    from PIL import Image

    import tilevision.samples as samples

    Image.fromarray(getattr(samples, scene.name)()).save(path)


def _print_table(results: list[Result]) -> None:
    import pandas as pd

    table = pd.DataFrame(
        {
            "image": [result.name for result in results],
            "model": [result.facts.model for result in results],
            "tiles": [len(result.rows) for result in results],
            "restored": [result.facts.restored for result in results],
            "detections": [len(result.findings) for result in results],
            "seconds": [round(result.facts.seconds, 2) for result in results],
        }
    )
    click.echo(f"\n{table.to_string(index=False)}")


def _folder(out_dir: str) -> Path:
    from tilevision.files import check_folder, refusing

    folder = checks.path("--out-dir", out_dir)
    with refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_folder(folder)
    return folder
