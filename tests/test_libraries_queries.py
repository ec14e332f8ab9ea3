"""Networks of transformers on a real picture, and their ONNX files: what the library finds.

The oracle is the image processor of the network: its preparation, and its post-processing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from framework_models import needs
from likeness import batch_of, check_alike, road, scattered, settled, tiles, to_onnx
from PIL import Image

from tilevision.catalogue import model
from tilevision.findings import Findings
from tilevision.geometry import iou
from tilevision.modelspec import build
from tilevision.overlaps import geometries

pytestmark = pytest.mark.slow  # makes, exports and runs networks

NAMES = ["a", "b", "c", "d", "e"]
FLOOR = 0.05
SIDE = {"height": 320, "width": 320}
_SMALL = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
}  # fmt: skip
_STAGES = {
    "embedding_size": 16, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}  # fmt: skip


def rtdetr(shown: Any) -> tuple[Any, Any]:
    """An RT-DETR of 100 queries and its processor."""
    torch, transformers = needs("torch", "transformers")
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        **_STAGES, out_features=["stage2", "stage3", "stage4"]
    )
    config = transformers.RTDetrConfig(
        **_SMALL, backbone_config=backbone, encoder_hidden_dim=32, num_queries=100,
        encoder_in_channels=[24, 32, 48], decoder_in_channels=[32, 32, 32], num_denoising=0,
        num_labels=len(NAMES), anchor_image_size=None,
    )  # fmt: skip
    network = scattered(transformers.RTDetrForObjectDetection(config))
    decoder = network.model.decoder
    ends = [(layers.layers[-1], 0.0, 1.0) for layers in decoder.bbox_embed]
    settled(network, shown, [(decoder.class_embed[-1], -2.5, 1.2), *ends])
    return network, transformers.RTDetrImageProcessor(size=SIDE)


def detr(shown: Any) -> tuple[Any, Any]:
    """A DETR of 60 queries and its processor."""
    torch, transformers = needs("torch", "transformers")
    torch.manual_seed(0)
    config = transformers.DetrConfig(
        **_SMALL, backbone_config=transformers.ResNetConfig(**_STAGES, out_features=["stage4"]),
        use_timm_backbone=False, num_queries=60, num_labels=len(NAMES),
    )  # fmt: skip
    network = scattered(transformers.DetrForObjectDetection(config))
    ends = [(network.class_labels_classifier, 0.0, 1.5), (network.bbox_predictor.layers[-1], 0, 1)]
    settled(network, shown, ends)
    return network, transformers.DetrImageProcessor(size=SIDE)


def maskformer(shown: Any) -> tuple[Any, Any]:
    """A MaskFormer of 20 queries and its processor."""
    torch, transformers = needs("torch", "transformers")
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], image_size=64, window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    decoder = transformers.DetrConfig(
        **_SMALL, num_queries=20, use_timm_backbone=False, backbone_config=backbone
    )
    config = transformers.MaskFormerConfig(
        backbone_config=backbone, fpn_feature_size=32, mask_feature_size=32,
        decoder_config=decoder, num_labels=3,
    )  # fmt: skip
    network = scattered(transformers.MaskFormerForInstanceSegmentation(config))
    settled(network, shown, [(network.class_predictor, 0.0, 1.5)])
    return network, transformers.MaskFormerImageProcessor(size={"height": 128, "width": 128})


def answered(network: Any, processor: Any, tile: np.ndarray) -> tuple[Any, Any, Any]:
    """Return boxes, scores and class numbers as the library gives them."""
    (torch,) = needs("torch")
    with torch.no_grad():
        out = network(**processor(images=Image.fromarray(tile), return_tensors="pt"))
    found = processor.post_process_object_detection(out, FLOOR, target_sizes=[tile.shape[:2]])[0]
    return found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy()


def saved(network: Any, processor: Any, folder: Path) -> str:
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("make", [rtdetr, detr])
def test_a_detector_of_transformers(make: Any, shared_data: Path, tmp_path: Path) -> None:
    """Exactly what the image processor's own post-processing gives (transformers 5.24)."""
    picture = road(shared_data)
    network, processor = make(batch_of(picture))
    spec = model(saved(network, processor, tmp_path / "net"))
    assert spec.max_detections == network.config.num_queries
    detector = build(spec)
    for tile in tiles(picture).values():
        right = answered(network, processor, tile)
        check_alike(detector.predict([tile])[0], tile, *right, exact=True)


@pytest.mark.parametrize("make", [rtdetr, detr])
def test_its_onnx_file(make: Any, shared_data: Path, tmp_path: Path) -> None:
    """As the library: RT-DETR keeps the best pairs of query and class, DETR a class a query.

    The queries are the limit though the file does not state how many rows there are.
    """
    (torch,) = needs("torch", "onnx")[:1]
    picture = road(shared_data)
    network, processor = make(batch_of(picture))

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Any) -> tuple[Any, Any]:
            out = self.network(image)
            return out.logits, out.pred_boxes

    free = {name: {0: "batch", 1: "rows"} for name in ("logits", "pred_boxes")}
    file = to_onnx(
        Outputs(), torch.zeros(1, 3, 320, 320), tmp_path / "net.onnx", free, dynamic_axes=free
    )
    spec = model(file, names=NAMES)
    assert spec.params["family"] == make.__name__
    assert spec.max_detections == network.config.num_queries
    detector = build(spec)
    for tile in tiles(picture).values():
        right = answered(network, processor, tile)
        check_alike(detector.predict([tile])[0], tile, *right, exact=False)


def test_instances_of_transformers(shared_data: Path, tmp_path: Path) -> None:
    """Each instance that has a pixel, with its score, class and pixels (within 1 % of its area).

    The oracle lists instances that others cover whole as well: they have no pixel of their own.
    """
    (torch,) = needs("torch")
    picture = road(shared_data)
    network, processor = maskformer(batch_of(picture))
    spec = model(saved(network, processor, tmp_path / "net"))
    assert spec.max_detections == network.config.decoder_config.num_queries
    detector = build(spec)
    for tile in tiles(picture).values():
        with torch.no_grad():
            out = network(**processor(images=Image.fromarray(tile), return_tensors="pt"))
        right = processor.post_process_instance_segmentation(
            out, threshold=FLOOR, target_sizes=[tile.shape[:2]]
        )[0]
        raster = right["segmentation"].numpy()
        areas = {row["id"]: int((raster == row["id"]).sum()) for row in right["segments_info"]}
        wanted = sorted(
            (row["label_id"], round(row["score"], 5), areas[row["id"]])
            for row in right["segments_info"]
            if areas[row["id"]]
        )
        found = detector.predict([tile])[0]
        assert len(found) == len(wanted) > 3
        got = sorted(
            (int(number), round(float(score), 5), _area(shape))
            for number, score, shape in zip(
                found.class_ids, found.scores, found.polygons, strict=True
            )
        )
        for (number, score, area), (right_number, right_score, pixels) in zip(
            got, wanted, strict=True
        ):
            assert number == right_number and score == pytest.approx(right_score, abs=2e-5)
            assert area == pytest.approx(pixels, rel=0.01, abs=2)


def _area(shape: Any) -> float:
    return sum(shapely.Polygon(part[0], part[1:]).area for part in shape or [])


def rfdetr_of(kind: str, picture: np.ndarray) -> Any:
    """A network of RF-DETR that finds a lot; all queries are alike, so that no order matters."""
    torch, rfdetr = needs("torch", "rfdetr")
    torch.manual_seed(0)
    made = getattr(rfdetr, kind)(pretrain_weights=None, num_classes=len(NAMES), device="cpu")
    network, side = made.model.model, made.model.resolution
    shown = torch.nn.functional.interpolate(batch_of(picture), (side, side))
    with torch.no_grad():
        for queries in (network.query_feat, network.refpoint_embed):
            queries.weight[:] = queries.weight[:1].clone()
    boxes = network.bbox_embed.layers[-1]
    torch.nn.init.normal_(boxes.weight, std=0.1)
    settled(network, shown, [(network.class_embed, -2.5, 1.2), (boxes, 0.0, 0.3)])
    with torch.no_grad():
        network.class_embed.bias[-1] = -20  # "nothing", which predict() counts among the classes
    return made


@pytest.mark.parametrize("kind", ["RFDETRNano", "RFDETRSegNano"])
def test_rfdetr(kind: str, shared_data: Path, tmp_path: Path) -> None:
    """Its own export and its own predict() (rfdetr 1.11): boxes, scores, classes, masks."""
    needs("rfdetr", "onnx")
    picture = road(shared_data)
    made = rfdetr_of(kind, picture)
    made.export(output_dir=str(tmp_path), verbose=False)
    (file,) = tmp_path.glob("*.onnx")
    spec = model(str(file), names=NAMES, score_floor=0.1)
    assert spec.params["family"] == "rfdetr"
    detector = build(spec)
    for tile in tiles(picture).values():
        theirs = made.predict(tile, threshold=0.1, include_source_image=False)
        mine = detector.predict([tile])[0]
        right = theirs.xyxy, theirs.confidence, theirs.class_id
        check_alike(mine, tile, *right, exact=False)
        if theirs.mask is not None:
            same = iou(mine.boxes[:, None], theirs.xyxy[None]).argmax(axis=1)
            check_masks(mine, theirs.mask[same])


def check_masks(mine: Findings, masks: np.ndarray) -> None:
    """Compare outlines, which end with the pixels of their boxes, with masks ``(n, h, w)``."""
    y, x = np.mgrid[: masks.shape[1], : masks.shape[2]] + 0.5
    low, high = np.floor(mine.boxes[:, :2]), np.ceil(mine.boxes[:, 2:])
    inside = shapely.contains_xy(shapely.box(*low.T, *high.T)[:, None, None], x, y)
    outlines = geometries(len(mine), None, mine.polygons)
    drawn, right = shapely.contains_xy(outlines[:, None, None], x, y), masks & inside
    shared, whole = (one.sum(axis=(1, 2)) for one in (drawn & right, drawn | right))
    large = right.sum(axis=(1, 2)) > 100
    assert large.sum() > 10 and np.mean(shared[large] / whole[large]) > 0.95
