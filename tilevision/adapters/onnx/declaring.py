"""From a path and what the user declares to a spec: everything is decided here, once."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tilevision.adapters.classnames import class_names, count
from tilevision.adapters.mapanswers import OF_MAPS, check_returns
from tilevision.adapters.modelfiles import content_of, find, read_json
from tilevision.adapters.onnx.families import FAMILIES, Layout
from tilevision.adapters.onnx.families.encoders import ENCODER
from tilevision.adapters.onnx.families.finished import roles_of
from tilevision.adapters.onnx.families.pixelmaps import MAP
from tilevision.adapters.onnx.families.transformers import MASKS
from tilevision.adapters.onnx.graph import mixes_pictures, nodes_of, pooled_by
from tilevision.adapters.onnx.mapdeclaring import decide_map, declares_map
from tilevision.adapters.onnx.mostrows import kept_of, suppressed_to
from tilevision.adapters.onnx.ports import DTYPES, Facts, listed, read_facts, trial
from tilevision.adapters.onnx.preparation import FITS, scaling
from tilevision.adapters.onnx.recognition import known_family, recognise
from tilevision.adapters.packing import pack
from tilevision.checks import share, whole
from tilevision.errors import ModelArgumentError, ModelError
from tilevision.fingerprint import fingerprint_function, fingerprint_value
from tilevision.modelspec import ModelSpec
from tilevision.modelspec.spec import CUT, DECLARABLE, MIDDLE, split

__all__ = ["PARAMS", "VERSION", "declare"]

VERSION = 1  # of preparation and decoding; a change in what they make of a file changes it
PARAMS = (
    *("names", "channels", "normalize", "letterbox", "decode", "family", "score_floor", "threads"),
    *("overlap", "path", "returns", "precision", *OF_MAPS),
)
OVERLAPS = ("family", "shape")
CHANNELS = ("rgb", "bgr", "grey", "bands")
SCORE_FLOOR = 0.05  # below it lie a detector's guesses, many times as many as its detections
MIN_SCORE = 0.25
NMS = 0.5
NMS_ULTRALYTICS = 0.7  # the default of its predict(), and so of its .pt files here
MOST = 1000
BATCH = 8
ALL_CLASSES = 100  # classifiers with more keep only what they think likely
TRIAL = (640, 640)


def declare(path: str, fingerprint: str | None, given: Mapping[str, Any]) -> ModelSpec:
    """Return the spec of the model in an ONNX file.

    Parameters
    ----------
    path : str
    fingerprint : str, optional
        Identity of the `decode` function, where tilevision cannot read it. The weights count by
        their content in any case.
    given : mapping
        Fields of `ModelSpec`, and of these what the file does not say or says wrongly:

        names : list or dict
            Class names: one for each class, or some by class number, in place of the file's.
            Default: from the file, else ``class_0``, ….
        channels : str
            ``"rgb"``, ``"bgr"``, ``"grey"``, or ``"bands"``: as `bands` reads them.
        normalize : str or dict
            ``"0..1"``, ``"0..255"`` (as read), ``"-1..1"``, ``"imagenet"``, or ``{"mean": […],
            "std": […]}`` on the scale 0 to 1 in the order of the model's channels.
        letterbox : bool or str
            True: the tile keeps its proportions, in the middle of the input; ``"corner"``: at
            its top left; ``"middle"``: its middle fills the input, as classifiers are trained (and
            the default for them); False: it is stretched.
        family : str
            How the outputs are laid out, where their shapes do not tell.
        decode : callable
            ``f(outputs, info)``, instead of a family: `outputs` are arrays by name for a batch
            of one tile, `info` has ``input_size``, ``tile_size``, ``names``, ``score_floor``;
            returns what a model function may, in pixels of the model's input.
        score_floor : float
            Detections scored lower are not recorded. Default 0.05; for classifiers of up to 100
            classes 0, of more 0.01.
        overlap : str
            How `nms` measures whether two detections are one. ``"family"``, the default: as the
            family's own tool does, so that as many are found as there (YOLO-OBB compares rotated
            boxes as Gaussians, YOLO with masks compares boxes). ``"shape"``: the area that outlines
            or rotated boxes share, as in merges and for all other models.
        returns : str
            ``"embedding"``: the file is an encoder, whose output ``(n, d)`` is a vector of the
            tile. ``"probabilities"``, ``"classes"`` or ``"values"``: its output ``(n, k, h, w)`` or
            ``(n, h, w)`` is a map, of the input's size or a whole stride of it;
            ``"instances"``: a mask of numbered objects. Default: as the file tells: detections,
            classes of the tile, or a map (of more than 32 classes the class numbers alone).
        activation : str
            What makes shares of a map's numbers: ``"softmax"`` where a pixel has one class,
            ``"sigmoid"`` where it may have several, ``"none"``. Default: as the graph ends.
        classes, unit : sequence or mapping, str
            Of maps: class names by number (else those of the file), and the unit of values.
        keep : str
            Of maps of probabilities: ``"classes"`` keeps the number of each pixel's class alone.
        precision : str or float
            ``"float16"`` (the default) or ``"float32"``, of the vectors that are stored; of values
            the step in which they are kept.
        threads : int
            Processors for one prediction. Default 1, since there is a worker for each.
        path : str
            Where the file is, if `path` is only its name.

    Returns
    -------
    ModelSpec
        Its `params` hold all that was decided.

    Raises
    ------
    ModelError
        If the file is no model that is understood, or a declaration makes no sense.
    """
    wanted = dict(given)
    for known in (
        "content",
        "reading",
        "output",
        "multiple",
    ):  # of a run that is resumed: found anew, then compared
        wanted.pop(known, None)
    decode = wanted.pop("decode", None)
    file = find(str(wanted.pop("path", None) or path), file=True)
    declared, params = split(file.name, wanted)
    _check_names(file.name, params)
    if declares_map(file.name, params, decodes=decode is not None, family=MAP):
        params["family"] = MAP
    else:
        beside = {key: params.pop(key) for key in OF_MAPS if key in params}
        check_returns(file.name, params)
        params |= beside
    if params.get("returns") == "embedding":
        del params["returns"]
        _check_encoder(file.name, params, decode)
        params["family"] = ENCODER
    facts = read_facts(file, file.name)
    model = _Undecided(file, facts, declared, params)
    if decode is not None and not callable(decode):
        raise ModelError(f"decode of model {file.name} is {decode!r:.80}; give a function.")
    if decode is not None and "family" in params:
        raise ModelError(f"Model {file.name}: give decode= or family=, not both.")
    family = "decode" if decode is not None else model.family()
    decided = model.decide(family)
    if family == MAP:
        del decided["score_floor"]  # nothing of a map is left out
        decided = {**decided, **model.map(), "score_floor": 0.0}
    else:
        _check_no_map(file.name, params)
    fields = {**model.fields(family), "notes": model.unnamed(family), **declared}
    model.warn_of_unread(family)
    turned = family in _TURNED
    identity = _identity(decided, model.counted(family), fields, decode, fingerprint, turned)
    return ModelSpec(
        name=file.name,
        factory="tilevision.adapters.onnx:load",
        fingerprint=identity,
        params=decided,
        payload=b"" if decode is None else pack(decode, file.name),
        **fields,
    )


_TURNED = ("yolo-obb", "yolo-obb-end2end")  # families that give rotated boxes


def _identity(
    params: Mapping[str, Any],
    most: int | None,
    fields: Mapping[str, Any],
    decode: Any,
    stated: str | None,
    turned: bool,
) -> str:
    counted = {k: v for k, v in params.items() if k not in ("path", "threads")}
    if counted["letterbox"] == "middle":  # of squares it is the same; see `ModelSpec.shrinks`
        counted["letterbox"] = False
    decoder: Any = None
    if decode is not None:
        decoder = ("stated", stated) if stated else fingerprint_function(decode)
    nms = fields["nms"]
    # Upright boxes were compared before, so what is stored may lack objects that cross others.
    further = ("overlap of Gaussians",) if turned and nms is not None else ()
    identity = ("onnx", VERSION, sorted(counted.items()), most, nms, decoder, *further)
    return fingerprint_value(identity)


def _of_the_whole(family: str) -> bool:
    """Return True if such models say something of the tile as a whole, and find no objects."""
    return family in (ENCODER, MAP) or family.startswith("classifier")


def _check_encoder(name: str, params: Mapping[str, Any], decode: Any) -> None:
    if decode is not None or params.get("family", ENCODER) != ENCODER:
        other = "decode=" if decode is not None else f"family={params['family']!r}"
        raise ModelArgumentError(
            f"Model {name}: give returns='embedding' or {other}, not both; a decoder may return "
            "tv.Findings(embedding=vector)."
        )


def _check_no_map(name: str, params: Mapping[str, Any]) -> None:
    for key in OF_MAPS:
        if params.get(key):
            raise ModelArgumentError(
                f"{key} of model {name} is for maps, and it gives none; leave it out, or give "
                "returns='probabilities', 'classes' or 'values' (names= has the classes of "
                "detections)."
            )


def _check_names(name: str, params: Mapping[str, Any]) -> None:
    for key in params:
        if key not in PARAMS:
            close = difflib.get_close_matches(key, [*PARAMS, *DECLARABLE], 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"It has {', '.join(PARAMS)}."
            raise ModelError(f"Model {name} has no parameter {key!r}. {hint}")


@dataclass(frozen=True)
class _Undecided:
    """A model with what was declared of it, on the way to its parameters."""

    path: Path
    facts: Facts
    declared: Mapping[str, Any]
    params: Mapping[str, Any]

    def family(self) -> str:
        """Return the family that was declared, or is recognised."""
        if "family" in self.params:
            return known_family(self.params["family"])
        return recognise(self.path.name, self.layout)

    @cached_property
    def layout(self) -> Layout:
        """What recognition goes by; a trial is run once, where it is needed."""
        size = self.size() or TRIAL
        return Layout(
            self.facts,
            size,
            count(self.names()),
            lambda: trial(self.path, self.path.name, size),
            nodes_of(self.path),
        )

    def map(self) -> dict[str, Any]:
        """Return the parameters of a model that says something of each pixel."""

        def runs(size: tuple[int, int]) -> None:
            trial(self.path, self.path.name, size)

        return decide_map(self.path, self.layout, self.params, self.names(), runs)

    def decide(self, family: str) -> dict[str, Any]:
        """Return every parameter, as plain JSON types."""
        return {
            "path": str(self.path),
            "content": content_of(self.path),
            "family": family,
            "names": self.names(),
            "channels": self.channels(family),
            "normalize": self.normalize(family),
            "letterbox": self.letterbox(family),
            "input_size": None if self.size() is None else list(self.size() or ()),
            "score_floor": self.score_floor(family),
            "threads": self.threads(),
        } | {
            key: value
            for key, value in (
                ("reading", self.reading(family)),
                ("overlap", self.overlap()),
                ("precision", self.params.get("precision")),
            )
            if value  # identities of all others stay what they are
        }

    def reading(self, family: str) -> list[str]:
        """Return what was read otherwise by earlier versions, so that what they stored is not used.

        Only for models that have what was read wrongly: all others keep their identity.
        """
        ports = {port.name: port.shape for port in self.facts.outputs}
        found = []
        masks = [name for name in MASKS if len(ports.get(name, ())) == 4]
        if masks and family in ("detr", "rtdetr", "rfdetr", "mmdet"):
            found.append("masks")  # they were left out
        points = "keypoints" in ports or any(name.startswith("kps_") for name in ports)
        if points and family in ("torchvision", "yunet"):
            found.append("keypoints")  # they were left out
        n, logits = count(self.names()), ports.get("labels", ())
        if family == "rfdetr" and n is not None and logits[-1:] == (n + 1,):
            found.append("nothing")  # its column was taken for a class
        columns = ports.get("logits", ports.get("pred_logits", logits))[2:]
        if family in ("rtdetr", "rfdetr") and columns and columns != (1,):
            found.append("pairs")  # one class was kept of each query, the library keeps more
        if family == "nanodet":
            found.append("cut")  # duplicates were compared as far as they reach beyond the tile
        if self._mixes() and self.declared.get("batch_size") != 1 and self.facts.batch is None:
            found.append("alone")  # tiles were run in batches
        return found

    def counted(self, family: str) -> int | None:
        """Return what counts as the number of detections in the identity: what was declared.

        What the file has room for changes no detection, only whether a tile is saturated.
        """
        usual = None if _of_the_whole(family) else MOST
        declared: int | None = self.declared.get("max_detections", usual)
        return declared

    def warn_of_unread(self, family: str) -> None:
        """Name the outputs of a recognised model that are not read."""
        known = FAMILIES[family].reads if family in FAMILIES else ()
        if family == "torchvision" and (roles := roles_of(self.facts.outputs)):
            known = tuple(roles.values())  # whatever their names are
        names = [port.name for port in self.facts.outputs]
        unread = [name for name in names if name not in known]
        if known and set(names) & set(known) and unread:
            warnings.warn(
                f"Model {self.path.name}: output{'s' if len(unread) > 1 else ''} "
                f"{', '.join(unread)} of family {family} will not be read; pass decode= to use "
                "them.",
                stacklevel=4,
            )

    def _mixes(self) -> bool:
        return mixes_pictures(nodes_of(self.path))

    def _most(self, family: str) -> int | None:
        """Return how many detections a tile can have: by the rows of the output, if they end."""
        if _of_the_whole(family):
            return None
        known = FAMILIES.get(family)
        read = known.reads if known is not None else ()
        ports = self.facts.outputs
        named = [port.name for port in ports if port.name in read or family == "torchvision"]
        told = [kept_of(self.path, name) for name in named]
        told.append(suppressed_to(self.path, [port.name for port in ports])[0])
        kept = [most for most in told if most is not None]
        if known is None or not known.finite:
            return min([MOST, *kept])
        # Queries are as many on every picture, so that a trial counts them where no shape does.
        ports = self.layout.outputs if known.queries else ports
        rows = [
            port.shape[1] for port in ports if len(port.shape) == 3 and port.shape[1] is not None
        ]
        return min([MOST, *rows, *kept])  # neither may be known

    def fields(self, family: str) -> dict[str, Any]:
        """Return the fields of the spec that are not the user's to say first."""
        known = FAMILIES.get(family)
        batch = self.facts.batch
        return {
            "input_size": self.size(),
            "batch_size": (1 if self._mixes() else BATCH) if batch is None else batch,
            "nms": self._nms() if known is not None and known.suppresses else None,
            "max_detections": self._most(family),
            "min_score": MIN_SCORE,
            "shrinks": self._fitted(family),
            "pools": pooled_by(nodes_of(self.path)) if family == MAP else None,
        }

    def _fitted(self, family: str) -> str:
        """Return how tiles are fitted that earlier versions fitted otherwise."""
        known, size = FAMILIES.get(family), self.size()
        if family == MAP:
            return ""
        if self.letterbox(family) == "middle" and size is not None and size[0] == size[1]:
            return MIDDLE
        if known is None:
            return ""
        if self.size() is None:
            return "" if known.multiple > 1 else "not filled up"
        return "" if known.antialias else "linear" if known.rounds else CUT

    def _nms(self) -> float:
        """Return the overlap above which two detections are one, as its own tool has it."""
        said = (str(self.facts.notes.get(key, "")) for key in ("author", "description"))
        return NMS_ULTRALYTICS if any("Ultralytics" in text for text in said) else NMS

    def names(self) -> Any:
        """Return the class names; None where nobody names any."""
        asked, noted = self.params.get("names"), self.facts.notes.get("names")
        named = class_names(self.path.name, asked, noted)
        return self._names_beside() if named is None else named

    def unnamed(self, family: str) -> tuple[str, ...]:
        """Return the line that says how classes without a name are called."""
        if family in ("decode", ENCODER, MAP) or self.names() is not None:
            return ()
        return (f"{self.path.name} names no classes: they are class_0, class_1, …; give names=[…]",)

    def _names_beside(self) -> Any:
        """Return the names in the ``config.json`` that transformers or Optimum wrote with a file.

        Only of the families that are told apart by the number of classes, where the user has not:
        all others have been read without, and keep their identity.
        """
        shapes = {port.name: port.shape for port in self.facts.outputs}
        pair = "pred_boxes" in shapes and ("logits" in shapes or "pred_logits" in shapes)
        if not pair or "family" in self.params or shapes.get("logits", (None,))[-1] == 1:
            return None
        folders = [self.path.parent, self.path.parent.parent]  # or above, beside onnx/
        beside = folders[: 2 if self.path.parent.name == "onnx" else 1]
        for folder in beside:
            with suppress(ModelError):  # something else's file of that name
                if noted := read_json(folder / "config.json").get("id2label"):
                    return class_names(self.path.name, None, noted)
        return None

    def size(self) -> tuple[int, int] | None:
        """Return width and height of the input; None: as the tiles are."""
        fixed, asked = self.facts.size, self.declared.get("input_size")
        if fixed is not None and asked not in (None, fixed):
            raise ModelError(
                f"Model {self.path.name} takes {fixed[0]}×{fixed[1]} px and nothing else, but "
                f"input_size is {asked}; leave it out, or export the model with dynamic sizes."
            )
        noted = self.facts.notes.get("imgsz")
        if fixed or asked:
            return fixed or asked
        if isinstance(noted, list) and len(noted) == 2:
            return int(noted[1]), int(noted[0])  # Ultralytics writes height before width
        return None

    def channels(self, family: str) -> str:
        """Return the order of channels."""
        count, bands = self.facts.channels, self.declared.get("bands")
        chosen = self.params.get("channels")
        if chosen is None:
            usual = FAMILIES[family].channels if family in FAMILIES else "rgb"
            chosen = "bands" if bands is not None else "grey" if count == 1 else usual
        if chosen not in CHANNELS:
            raise ModelError(
                f"channels of model {self.path.name} is {chosen!r:.80}; give one of "
                f"{', '.join(CHANNELS)}."
            )
        given = {"grey": 1, "bands": len(bands or ())}.get(chosen, 3)
        if count is not None and count != given:
            raise ModelError(
                f"Model {self.path.name} reads {count} channels, and {chosen} are {given} "
                f"({listed(self.facts)}); declare bands=(…), one for each channel."
            )
        return str(chosen)

    def normalize(self, family: str) -> Any:
        """Return how values are scaled."""
        whole = DTYPES[self.facts.picture.dtype].kind == "u"
        asked = self.params.get("normalize")
        if whole and asked not in (None, "0..255"):
            raise ModelError(
                f"Model {self.path.name} reads whole numbers (uint8), so normalize has no effect; "
                "leave it out."
            )
        dtype = self.declared.get("dtype", "uint8")
        if whole and dtype != "uint8":
            raise ModelError(
                f"Model {self.path.name} reads whole numbers up to 255 (uint8), so dtype={dtype!r} "
                "does not fit; leave it out, and it gets pictures as displayed."
            )
        as_read = whole or dtype != "uint8"
        usual = FAMILIES[family].normalize if family in FAMILIES else "0..1"
        if self.facts.notes.get("task") in ("classify", "semantic"):
            usual = "0..1"  # of Ultralytics
        chosen = asked if asked is not None else "0..255" if as_read else usual
        channels = {"grey": 1, "bands": len(self.declared.get("bands") or ())}.get(
            self.channels(family), 3
        )
        if any(part.size not in (1, channels) for part in scaling(chosen, self.channels(family))):
            raise ModelError(
                f"normalize of model {self.path.name} is {chosen!r:.80}; give mean and std with "
                f"one number, or {channels}: one for each channel."
            )
        return chosen

    def letterbox(self, family: str) -> bool | str:
        """Return how a tile is laid into the input."""
        asked = self.params.get("letterbox")
        if asked is None:
            ultralytics = self.facts.notes.get("task") == "semantic"
            return FAMILIES[family].letterbox if family in FAMILIES and not ultralytics else True
        if not isinstance(asked, (bool, str)) or asked not in FITS:
            raise ModelError(
                f"letterbox of model {self.path.name} is {asked!r:.80}; give True, False, 'corner' "
                "or 'middle'."
            )
        if asked == "middle" and (family == MAP or not _of_the_whole(family)):
            what = "says something of each pixel" if family == MAP else "finds objects"
            raise ModelError(
                f"Model {self.path.name} {what}, and letterbox='middle' would show it a "
                "part of each tile; give True, False or 'corner'."
            )
        return asked

    def score_floor(self, family: str) -> float:
        """Return the score below which nothing is recorded."""
        floor = self.params.get("score_floor")
        if floor is None:
            if not _of_the_whole(family):
                return SCORE_FLOOR
            if family in (ENCODER, MAP):
                return 0.0
            classes = self.facts.outputs[0].shape[1]
            return 0.0 if classes is not None and classes <= ALL_CLASSES else 0.01
        return float(share(f"score_floor of model {self.path.name}", floor, ModelArgumentError))

    def overlap(self) -> str:
        """Return ``"shape"`` where duplicates are not measured as the family's own tool does."""
        asked = self.params.get("overlap", OVERLAPS[0])
        if asked not in OVERLAPS:
            raise ModelError(
                f"overlap of model {self.path.name} is {asked!r:.80}; give 'family' or 'shape'."
            )
        return "" if asked == OVERLAPS[0] else str(asked)

    def threads(self) -> int:
        """Return how many processors a prediction may use."""
        threads = self.params.get("threads", 1)
        return whole(f"threads of model {self.path.name}", threads, ModelArgumentError)
