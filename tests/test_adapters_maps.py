"""Segmentation networks of torch, torchvision, transformers and Ultralytics: maps as theirs."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framework_models import enliven, needs, pipeline_folder
from PIL import Image

import tilevision as tv
from tilevision.catalogue import model
from tilevision.modelspec import build
from tilevision.pipeline import manifest
from tilevision.rasterspec import STEPS

pytestmark = pytest.mark.slow  # importing these libraries takes seconds

RNG = np.random.default_rng(5)
TILES = [RNG.integers(0, 256, (*side, 3), np.uint8) for side in ((64, 96), (64, 96), (50, 70))]
NAMES = ["water", "tree", "road", "roof"]
HALF = 0.5 / STEPS + 1e-5


@pytest.fixture(autouse=True)
def own_temp(tmp_path, monkeypatch):
    """Objects are saved under the test's own folder."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))


def maps(spec: Any, tiles: Any = TILES) -> list[np.ndarray]:
    """What a model says of tiles, each asked alone; the same when asked together."""
    built = build(spec)
    alone = [built.predict([tile])[0].raster for tile in tiles]
    together = [one.raster for one in build(spec).predict(list(tiles))]
    kept = json.loads(json.dumps(manifest._described(spec)))
    again = manifest._again(kept)  # as a run is resumed
    assert (again.fingerprint, again.raster) == (spec.fingerprint, spec.raster)
    for one, other in zip(alone, together, strict=True):
        assert one.spec == other.spec == spec.raster
        assert np.abs(one.kept.astype(int) - other.kept).max() <= 1
    return [one.kept for one in alone]


def scaled(tile: np.ndarray, imagenet: bool = False) -> Any:
    """A tile as a network takes it, by hand."""
    (torch,) = needs("torch")
    values = torch.from_numpy(tile.copy()).permute(2, 0, 1)[None] / 255
    if not imagenet:
        return values
    mean, deviation = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    shape = (1, 3, 1, 1)
    return (values - torch.tensor(mean).view(shape)) / torch.tensor(deviation).view(shape)


def shares(logits: Any, tile: np.ndarray) -> np.ndarray:
    """Logits at the size of a tile, and their softmax, as torch does it."""
    (torch,) = needs("torch")
    resized = torch.nn.functional.interpolate(
        logits, size=tile.shape[:2], mode="bilinear", align_corners=False
    )
    return resized.softmax(1)[0].numpy()


def strided(planes: int = 4) -> Any:
    """A network of stride 4 that pads, with random weights: logits of `planes` classes."""
    (torch,) = needs("torch")
    torch.manual_seed(3)
    nn = torch.nn
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()),
        nn.Conv2d(8, planes, 1),
    )
    enliven(network)
    return network.eval()


def torchvision_network(kind: str) -> Any:
    """A segmentation network of torchvision's with random weights, of four classes."""
    torch, torchvision = needs("torch", "torchvision")
    torch.manual_seed(0)
    segmentation = torchvision.models.segmentation
    if kind == "lraspp":
        weights = {"weights": None, "weights_backbone": None, "num_classes": 4}
        return segmentation.lraspp_mobilenet_v3_large(**weights).eval()
    inner = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 5, 4, 2), torch.nn.ReLU())
    backbone = torchvision.models._utils.IntermediateLayerGetter(inner, {"1": "out"})
    network = segmentation.fcn.FCN(backbone, segmentation.fcn.FCNHead(16, 4))
    enliven(network)
    return network.eval()


def forms(network: Any, folder: Path) -> list[str]:
    """A network as a pickle, as TorchScript and as an exported program."""
    (torch,) = needs("torch")
    torch.save(network, folder / "whole.pt")
    torch.jit.script(network).save(folder / "scripted.pt")
    sides = {n: torch.export.Dim(f"side{n}", min=32, max=256) for n in (2, 3)}
    shapes = ({0: torch.export.Dim("batch", min=1, max=8), **sides},)
    program = torch.export.export(network, (torch.rand(2, 3, 64, 96),), dynamic_shapes=shapes)
    torch.export.save(program, folder / "program.pt2")
    return [str(folder / file) for file in ("whole.pt", "scripted.pt", "program.pt2")]


@pytest.mark.parametrize("kind", ["fcn", "lraspp"])
def test_torchvisions_networks_are_known(tmp_path: Path, kind: str) -> None:
    """As an object, a pickle, TorchScript and an exported program: softmax of ``out``."""
    (torch,) = needs("torch")
    network = torchvision_network(kind)
    with torch.no_grad():
        expected = [shares(network(scaled(tile, True))["out"], tile) for tile in TILES]
    files = forms(network, tmp_path) if kind == "fcn" else []
    for given in [network, *files]:
        spec = model(given, classes=NAMES)
        assert spec.raster.kind == "probabilities" and spec.raster.classes == tuple(NAMES)
        assert "normalize='imagenet'" in spec.notes[0]
        for kept, wanted in zip(maps(spec), expected, strict=True):
            assert np.abs(kept / STEPS - wanted).max() <= HALF
    assert model(network).raster.classes == ("class_0", "class_1", "class_2", "class_3")
    with pytest.raises(tv.ModelError, match="gives 4 planes, and its class names are for 2"):
        model(network, classes=["a", "b"])


def test_a_network_that_is_declared_gives_the_map_that_it_computes() -> None:
    """Shares after the activation named, class numbers, and values, at the tile's size."""
    torch, network = *needs("torch"), strided()
    with torch.no_grad():
        logits = [network(scaled(tile)) for tile in TILES]
    declared = {"returns": "probabilities", "classes": NAMES, "activation": "softmax"}
    for kept, raw, tile in zip(maps(model(network, **declared)), logits, TILES, strict=True):
        assert np.abs(kept / STEPS - shares(raw, tile)).max() <= HALF
    classes = maps(model(network, returns="classes", classes=NAMES))
    values = maps(model(network, returns="values", unit="m", precision=0.001))
    for best, measures, raw, tile in zip(classes, values, logits, TILES, strict=True):
        resized = torch.nn.functional.interpolate(raw, size=tile.shape[:2], mode="bilinear")
        assert np.array_equal(best[0], resized.argmax(1)[0].numpy())
        assert np.abs(measures * 0.001 - resized[0].numpy()).max() <= 0.0005 + 1e-4


def test_of_a_networks_shares_class_numbers_alone_may_be_kept() -> None:
    """The classes that the shares have; with nothing asked, the model is who it was."""
    _, network = *needs("torch"), strided()
    declared = {"returns": "probabilities", "classes": NAMES, "activation": "softmax"}
    spec = model(network, keep="classes", **declared)
    assert spec.raster.kind == "classes"
    for whole, best in zip(maps(model(network, **declared)), maps(spec), strict=True):
        assert np.array_equal(best[0], whole.argmax(axis=0))
    same = {model(network, keep=one, **declared).fingerprint for one in (None, "")}
    assert same == {model(network, **declared).fingerprint} and spec.fingerprint not in same


def test_one_plane_is_a_class_and_its_background() -> None:
    """Its sigmoid is a share; as classes, more than half is the class."""
    torch, network = *needs("torch"), strided(1)
    tile = TILES[0]
    with torch.no_grad():
        resized = torch.nn.functional.interpolate(
            network(scaled(tile)), size=tile.shape[:2], mode="bilinear"
        )[0, 0]
    declared = {"returns": "probabilities", "classes": ["cell"], "activation": "sigmoid"}
    (kept,) = maps(model(network, **declared), [tile])
    assert np.abs(kept[0] / STEPS - resized.sigmoid().numpy()).max() <= HALF
    spec = model(network, **(declared | {"returns": "classes", "classes": ["glass", "cell"]}))
    assert np.array_equal(maps(spec, [tile])[0][0], (resized > 0).numpy())
    with pytest.raises(tv.ModelError, match="one plane, of which softmax makes 1 everywhere"):
        maps(model(network, **(declared | {"activation": "softmax"})), [tile])


def test_numbers_that_are_not_what_they_are_said_to_be_are_refused() -> None:
    """Logits that are told to be shares, shares that softmax would be applied to again."""
    (torch,) = needs("torch")
    declared = {"returns": "probabilities", "classes": NAMES}
    with pytest.raises(tv.ModelError, match=r"no probabilities; give activation='softmax' \(a pi"):
        maps(model(strided(), **declared), TILES[:1])
    already = torch.nn.Sequential(strided(), torch.nn.Softmax(1))
    with pytest.raises(tv.ModelError, match="add up to 1 in each pixel, so softmax has been"):
        maps(model(already, **declared, activation="softmax"), TILES[:1])
    assert len(maps(model(already, **declared), TILES)) == 3
    with pytest.raises(tv.ModelError, match=r"returned .*a map of the tile; declare what it is"):
        maps(model(torch.jit.trace(strided(), torch.rand(1, 3, 40, 40))), TILES[:1])
    broken = strided()
    broken[-1].bias.data[2] = float("nan")
    with pytest.raises(tv.ModelError, match="gives NaN, of which no class is the best"):
        maps(model(broken, returns="classes", classes=NAMES), TILES[:1])
    cut = torch.nn.Conv2d(3, 4, 9)
    with pytest.raises(tv.ModelError, match="no whole stride of it, so it may be cut off"):
        maps(model(cut, **declared, activation="softmax"), TILES[:1])
    for key, value, said in (
        ("activation", "relu", "give 'softmax' where a pixel has one class"),
        ("classes", None, "that nobody names; give classes="),
        ("returns", "map", "give 'embedding'|give one of"),
    ):
        with pytest.raises(tv.ModelError, match=said):
            model(strided(), **(declared | {key: value}))
    with pytest.raises(tv.ModelError, match=r"unit of model .* is for maps"):
        model(strided(), unit="m")


def test_tiles_of_odd_sizes_are_filled_up_where_a_network_needs_it() -> None:
    """One that only takes multiples of 32 sees what lies at the edge once more."""
    (torch,) = needs("torch")
    from red_finders import Halving

    network = Halving().eval()
    (kept,) = maps(model(network, returns="probabilities", classes=NAMES[:2]), [TILES[2]])
    filled = np.pad(TILES[2], ((0, 14), (0, 26), (0, 0)), mode="edge")
    with torch.no_grad():
        expected = network(scaled(filled))[0, :, :50, :70].numpy()
    assert kept.shape == (2, 50, 70)
    assert np.abs(kept / STEPS - expected).max() <= HALF
    with pytest.raises(RuntimeError, match="must match"):
        network(scaled(TILES[2]))


def segformer(folder: Path, labels: int = 4) -> Path:
    """A SegFormer with random weights that are sure of something."""
    torch, transformers = needs("torch", "transformers")
    torch.manual_seed(2)
    config = transformers.SegformerConfig(
        hidden_sizes=[8] * 4,
        depths=[1] * 4,
        num_attention_heads=[1] * 4,
        decoder_hidden_size=8,
        id2label=dict(enumerate(NAMES * (labels // 4))) if labels == 4 else None,
        **({} if labels == 4 else {"num_labels": labels}),
    )
    network = transformers.SegformerForSemanticSegmentation(config)
    torch.nn.init.normal_(network.decode_head.classifier.weight, std=2)
    network.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    transformers.SegformerImageProcessor(size=size).save_pretrained(folder)
    return folder


def upernet(folder: Path) -> Path:
    """An UPerNet on a small Swin."""
    torch, transformers = needs("torch", "transformers")
    torch.manual_seed(2)
    backbone = transformers.SwinConfig(
        embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, image_size=64, window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.UperNetConfig(
        backbone_config=backbone,
        hidden_size=8,
        num_labels=4,
        use_auxiliary_head=False,
        pool_scales=[1, 2],
    )
    network = transformers.UperNetForSemanticSegmentation(config)
    enliven(network)
    network.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    transformers.SegformerImageProcessor(size=size).save_pretrained(folder)
    return folder


def theirs(folder: Path, tile: np.ndarray) -> tuple[np.ndarray, Any]:
    """The semantic map of a picture as the library makes it, and what the network answered."""
    torch, transformers = needs("torch", "transformers")
    made = transformers.pipeline("image-segmentation", model=str(folder))
    inputs = made.image_processor(images=[Image.fromarray(tile)], return_tensors="pt")
    with torch.no_grad():
        answer = made.model(**inputs)
    after = made.image_processor.post_process_semantic_segmentation
    return after(answer, target_sizes=[tile.shape[:2]])[0].numpy(), answer


@pytest.mark.parametrize("make", [segformer, upernet])
def test_a_semantic_model_of_transformers_gives_the_librarys_map(tmp_path: Path, make: Any) -> None:
    """Shares are the softmax of what it compares; as class numbers, they are equal to its own."""
    folder = make(tmp_path / "map")
    spec = model(str(folder))
    assert spec.raster.kind == "probabilities" and len(spec.raster.classes) == 4
    numbers = maps(model(str(folder), returns="classes", classes=NAMES))
    for kept, best, tile in zip(maps(spec), numbers, TILES, strict=True):
        expected, answer = theirs(folder, tile)
        assert np.array_equal(best[0], expected) and len(np.unique(expected)) > 1
        wanted = shares(answer.logits, tile)
        assert np.abs(kept / STEPS - wanted).max() <= HALF
        first, second = np.sort(wanted, axis=0)[[-1, -2]]
        sure = first - second > 2 / STEPS
        assert np.array_equal(kept.argmax(0)[sure], expected[sure])


def test_many_classes_are_kept_as_numbers(tmp_path: Path) -> None:
    """Of 40 classes, shares would take forty times the space; they are kept where asked for."""
    folder = segformer(tmp_path / "many", 40)
    spec = model(str(folder))
    assert spec.raster.kind == "classes" and len(spec.raster.classes) == 40
    assert np.array_equal(maps(spec, TILES[:1])[0][0], theirs(folder, TILES[0])[0])
    assert model(str(folder), returns="probabilities").raster.kind == "probabilities"


def test_a_model_of_masks_gives_objects_or_where_it_is_asked_a_map(tmp_path: Path) -> None:
    """MaskFormer's instances stay what they were; its semantic map is the library's."""
    folder = pipeline_folder(tmp_path, "image-segmentation")
    objects = model(str(folder))
    assert objects.raster is None and "returns" not in objects.params
    declared = {"returns": "classes", "classes": ["a", "b"]}
    kept = maps(model(str(folder), **declared), TILES[:2])
    for best, tile in zip(kept, TILES, strict=False):
        assert np.array_equal(best[0], theirs(folder, tile)[0])
    (shared,) = maps(model(str(folder), returns="probabilities"), TILES[:1])
    assert np.abs(shared.astype(int).sum(axis=0) - STEPS).max() <= 1
    assert np.array_equal(
        shared.argmax(0)[shared[0] != shared[1]], kept[0][0][shared[0] != shared[1]]
    )
    with pytest.raises(tv.ModelError, match="gives a semantic map; give returns='probabilities'"):
        model(str(folder), returns="values")


def test_a_semantic_model_of_ultralytics_gives_its_map(tmp_path: Path) -> None:
    """Of class numbers, with the names in its file."""
    torch, ultralytics = needs("torch", "ultralytics")
    if "semantic" not in importlib.import_module("ultralytics.cfg").TASKS:
        pytest.skip("this release of ultralytics has no semantic models")
    torch.manual_seed(1)
    whole = ultralytics.YOLO("yolo26n-sem.yaml", verbose=False)
    enliven(whole.model)
    whole.save(tmp_path / "m.pt")
    spec = model(str(tmp_path / "m.pt"), input_size=(96, 96))
    assert spec.raster.kind == "classes" and spec.raster.classes == tuple(whole.names.values())
    kept = maps(spec, TILES[:2])
    for best, tile in zip(kept, TILES, strict=False):
        (result,) = ultralytics.YOLO(str(tmp_path / "m.pt")).predict(
            np.ascontiguousarray(tile[..., ::-1]), imgsz=[96, 96], verbose=False
        )
        assert np.array_equal(best[0], result.semantic_mask.data.numpy())
        assert len(np.unique(best)) > 1
    with pytest.raises(tv.ModelError, match="gives maps of class numbers"):
        model(str(tmp_path / "m.pt"), returns="probabilities")
