"""What every file states besides the detections, and the methods paragraph for a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tilevision.status import TileStatus

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["methods", "missing_tiles", "statement"]

HASH_CHARACTERS = 12

_ARTICLES = {"score": "a score", "area": "an area"}
_METRICS = {"iou": "IoU", "ios": "IoS"}
_MERGES = {
    "seam": (
        "Detections of overlapping tiles were matched one to one by what both tiles saw, and "
        "joined across the seams"
    ),
    "nms": "Detections of all tiles went through non-maximum suppression",
    "nmm": "Detections of all tiles were merged where they overlap (non-maximum merging)",
    "wbf": "Detections of all tiles were averaged where they overlap (weighted boxes fusion)",
    "none": "Detections of overlapping tiles were not merged",
}


def methods(result: ResultData) -> str:
    """Return a paragraph on how `result` came about, without a time or a run id.

    Versions, image, resolution, grid, models with the beginning of their fingerprints
    (SHA-256 over code, weights and parameters), thresholds, merge, coverage and, where there
    is something to say of them, the seams.
    """
    sentences = [
        f"The image {result.name} ({_image(result)}) was analysed with tilevision "
        f"{version('tilevision')}, {_tiling(result)}.",
        f"{_models(result)}.",
        f"{'. '.join(_joined(result))}.",
        result.coverage,
    ]
    if len(result.tile_findings) > 1 and len(result.findings):
        sentences += [
            f"{_capital(str(check))}." for check in (result.seam_bias, result.overlap_check)
        ]
    facts = result.digest
    if facts.region is None and facts.density:
        area = _plainly(*facts.ground)
        sentences.append(f"Densities are per {facts.density[1]} of the analysed area ({area}).")
    elif facts.density:
        area = _plainly(*facts.ground)
        sentences.append(
            f"Densities are per {facts.density[1]} of the analysed part of the region "
            f"({area}); detections count where their box has its centre in it."
        )
    sentences.append("Scores are the model's own and were not calibrated.")
    return " ".join(sentences)


def _plainly(area: float, unit: str) -> str:
    """Return an area to six digits at least, and in no powers of ten."""
    return f"{area:,.0f} {unit}" if area >= 1e5 else f"{area:,.6g} {unit}"


def _image(result: ResultData) -> str:
    width, height = result.source.size
    metadata = result.source.metadata
    parts = [f"{width:,} × {height:,} pixels"]
    if metadata.mpp is not None:
        parts.append(f"{metadata.mpp[0]:.4g} × {metadata.mpp[1]:.4g} µm per pixel")
    elif metadata.crs is not None:
        parts.append(metadata.crs[:60])
    parts.append(_identity(result))
    return ", ".join(parts)


def _identity(result: ResultData) -> str:
    """Return what identifies the image; a SHA-256 is what `sha256sum` prints of its file."""
    mark = result.source.fingerprint
    reference = getattr(result.source, "reference", None)  # what cannot be read may have none
    options = {} if reference is None else reference.options
    if {"content", "described"} & set(options):  # read by ranges: nobody has the content
        return f"{_short(mark)} by address, size and the server's tag"
    if "stamp" in options:  # of a page or frame, the file's
        return f"SHA-256 {_short(options.get('fingerprint') or mark)}"
    return f"content fingerprint {_short(mark)}"


def _tiling(result: ResultData) -> str:
    analysed = [row.tile for row in result.rows if row.status != TileStatus.SKIPPED]
    scales = result.facts.scales
    seen = "at its stored resolution"
    if scales != (1.0,):
        told = ", ".join(_scale(scale, result.mpp) for scale in scales)
        seen = f"at {told}"
    tiles = "one tile" if len(analysed) == 1 else f"{len(analysed):,} tiles"
    return f"cut into {tiles} ({result.facts.grid}) {seen}"


def _scale(scale: float, mpp: tuple[float, float] | None) -> str:
    if mpp is None:
        return f"{scale:.4g} of its stored resolution"
    return f"{(mpp[0] + mpp[1]) / 2 / scale:.4g} µm per pixel"


def _models(result: ResultData) -> str:
    facts, settings = result.facts, result.settings
    used = facts.models or ((facts.model, facts.model_fingerprint),)
    commits = _commits(facts.recipe)
    revisions = {name: f"revision {_short(commit)}, " for name, commit in commits.items()}
    told = " and ".join(
        f"{name} ({revisions.get(name, '')}fingerprint {_short(mark)})" for name, mark in used
    )
    text = f"Each tile was given to {told}"
    if len(used) > 1:
        text = f"Tiles were given to {told} ({_rule(facts.recipe.get('routing')) or facts.model})"
    if settings.min_score is not None:
        text += f"; detections with a score below {settings.min_score:g} were dropped"
    if settings.classes is not None:
        text += f"; classes other than {', '.join(settings.classes[:20])} were dropped"
    for name, value in settings.limits.items():
        kind, unit = name.split("_")[1], f" {result.units.area}" * name.endswith("area")
        side = "above" if name.startswith("max") else "below"
        text += f"; merged objects of {_ARTICLES[kind]} {side} {value:g}{unit} were dropped"
    return text


def _commits(recipe: Any) -> dict[str, str]:
    """Return the commit of each model that came from a hub, by the model's name."""
    found: dict[str, str] = {}
    if isinstance(recipe, Mapping):
        # At the top of a recipe its keys begin with "model", in routes and cascades they do not.
        for name, params in (("model", "model_params"), ("name", "params")):
            given = recipe.get(params)
            if isinstance(given, Mapping) and "repository" in given:
                found[str(recipe[name])] = str(given["repository"]["commit"])
        recipe = [value for key, value in recipe.items() if key != "region"]
    for part in recipe if isinstance(recipe, (list, tuple)) else ():
        found |= _commits(part)
    return found


def _rule(routing: Mapping[str, Any] | None) -> str:
    """Return which tiles a cascade or a route gives to which model; empty where neither is told."""
    if routing is None:
        return ""
    if "first" in routing:
        first, second, when = (routing[name] for name in ("first", "second", "when"))
        asked = "a function of its findings says so"
        if when is not None:
            asked = f"any of its scores lies from {when[0]:g} to {when[1]:g}"
        return f"{first['name']}, then {second['name']} where {asked}"
    told = [f"{_target(to)} where {_predicate(rule)}" for rule, to in routing["rules"]]
    return ", else ".join([*told, _target(routing["default"])])


def _target(told: Mapping[str, Any]) -> str:
    return f"[{_rule(told)}]" if "first" in told else str(told["name"])


def _predicate(rule: Sequence[Any] | None) -> str:
    match rule:
        case ["detailed", least]:
            return f"edges are {least:g} or more of the tile"
        case ["within", *box]:
            return f"the tile touches ({', '.join(f'{side:g}' for side in box)}) px"
    return "a function of the tile says so"


_BLENDS = {
    "smooth": "with weights that fall towards the inner edges of a tile as a Hann window does",
    "linear": "with weights that fall linearly within the overlap",
    "core": "by taking each pixel from the tile whose edge is farthest from it",
    "mean": "with equal weights",
}


def _joined(result: ResultData) -> list[str]:
    """Return how the answers of overlapping tiles became those of the image, a sentence a kind."""
    seen = [found.findings for found in result.tile_findings]
    told = []
    if any(one.tile_scores for one in seen):
        told = ["Tiles were classified as a whole, and probabilities averaged where they overlap"]
    if (mapped := result.raster) is not None:
        how = mapped.settings
        text = f"The maps of overlapping tiles were blended {_BLENDS[how.blend]}"
        if how.margin:
            text += f", leaving out the outermost {how.margin:,} pixels where another tile had any"
        told.append(text)
    if any(map(len, seen)) or not told:
        told.append(_merge(result))
    return told


def _merge(result: ResultData) -> str:
    how = result.settings
    text = _MERGES[how.method]
    if how.method == "none":
        return text
    kinds = "regardless of class" if how.class_agnostic else "within each class"
    if how.method == "seam":  # which has no threshold of the user's
        return f"{text}, {kinds}"
    return f"{text}, {kinds}, from {_METRICS[how.match_metric]} {how.match_threshold:g} on"


def _short(fingerprint: str) -> str:
    return fingerprint[:HASH_CHARACTERS] or "unknown"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def statement(result: ResultData) -> dict[str, Any]:
    """Return what was looked at, how, and what was not analysed: no times, no run id."""
    width, height = result.source.size
    facts, transform = result.digest, result.source.metadata.transform
    return {
        "image": {
            "name": result.name,
            "width": width,
            "height": height,
            "mpp": list(result.mpp) if result.mpp else None,
            "crs": result.source.metadata.crs,
            "transform": list(transform) if transform else None,
            "fingerprint": result.source.fingerprint,
        },
        "model": {"name": result.facts.model, "fingerprint": result.facts.model_fingerprint},
        "models": [
            {"name": name, "fingerprint": mark, "tiles": result.models.get(name, 0)}
            for name, mark in result.facts.models
        ],
        "grid": result.facts.grid,
        "scales": list(result.facts.scales),
        "region": None if result.facts.region is None else result.facts.region.to_dict(),
        "merge": result.settings.to_dict(),
        "complete": result.complete,
        "coverage": result.coverage,
        **_corrections(result),
        "analysed": {
            "tiles": facts.n_tiles,
            "analysed": facts.n_analysed,
            "failed": facts.n_failed,
            "skipped": facts.n_skipped,
            "saturated": facts.n_saturated,
            "area_px2": facts.analysed_area,
            "area_share": round(facts.analysed_share, 6),
            "area": {"value": facts.ground[0], "unit": facts.ground[1]},
        },
        "not_analysed": missing_tiles(result),
        "summary": result.description,
        "methods": methods(result),
    }


def _corrections(result: ResultData) -> dict[str, Any]:
    counts = result.correction_counts
    return {} if counts is None else {"corrections": counts.to_dict()}


def missing_tiles(result: ResultData) -> list[dict[str, Any]]:
    """Return id and box (full-resolution pixels) of each tile that should have been analysed."""
    if result.complete:
        return []
    return [
        {"tile": row.tile.id, "box": list(row.tile.box.as_tuple())}
        for row in result.rows
        if not TileStatus(row.status).finished
    ]
