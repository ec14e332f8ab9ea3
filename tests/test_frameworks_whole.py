"""Models of PyTorch, transformers and SAHI: nothing cut off, limits known, devices kept."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from framework_models import needs

from tilevision.adapters.frameworks.sahi_models import SahiDetector
from tilevision.adapters.frameworks.torch_modules import TorchDetector
from tilevision.catalogue import model
from tilevision.errors import ModelError
from tilevision.modelspec import ModelSpec, build


@pytest.fixture(autouse=True)
def saved_here(tmp_path, monkeypatch):
    """Objects are saved under the test's own folder."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temp"))
    monkeypatch.setattr("tempfile.tempdir", None)


def exported(path: Path, network, example, **more) -> str:
    """Save a network as torch.export writes it."""
    (torch,) = needs("torch")
    torch.export.save(torch.export.export(network.eval(), (example,), **more), str(path))
    return str(path)


def area(parts):
    return sum(shapely.Polygon(part[0], part[1:]).area for part in parts)


@pytest.mark.slow
def test_masks_of_shrunk_tiles_are_scaled_back(tmp_path):
    """A .pt2 of 160 px gives the same square on tiles of 160 and of 320 px, outline and all."""
    (torch,) = needs("torch")

    class Square(torch.nn.Module):
        def forward(self, x):
            zero = x.mean() * 0
            mask = torch.zeros(1, 1, 160, 160)
            mask[:, :, 20:60, 20:60] = 1
            boxes = torch.tensor([[20.0, 20.0, 60.0, 60.0]]) + zero
            found = {"boxes": boxes, "scores": torch.tensor([0.9]) + zero}
            return found | {"labels": torch.tensor([1]), "masks": mask + zero}

    path = exported(tmp_path / "m.pt2", Square(), torch.zeros(1, 3, 160, 160))
    spec = model(path)
    detector = build(spec)
    for times in (1, 2):
        tile = np.zeros((160 * times, 160 * times, 3), np.uint8)
        found = detector.predict([tile])[0]
        assert found.boxes[0].tolist() == [20 * times, 20 * times, 60 * times, 60 * times]
        assert area(found.polygons[0]) == pytest.approx((40 * times) ** 2, rel=0.03)
    assert spec.fingerprint_for((160, 160)) == spec.fingerprint != spec.fingerprint_for((320, 320))


def test_a_shrunk_tile_keeps_its_mean(tmp_path):
    """Resizing rounds: the mean brightness that the network sees is the tile's."""
    (torch,) = needs("torch")

    class Mean(torch.nn.Module):
        def forward(self, x):
            mean = x.mean()
            boxes = torch.tensor([[10.0, 10.0, 60.0, 60.0]]) + mean * 0
            return {"boxes": boxes, "scores": mean[None], "labels": torch.tensor([1])}

    detector = build(model(exported(tmp_path / "m.pt2", Mean(), torch.zeros(1, 3, 80, 80))))
    pixels = np.random.default_rng(0).integers(60, 200, (320, 320, 3)).astype(np.uint8)
    seen = detector.predict([pixels])[0].scores[0] * 255
    assert seen == pytest.approx(pixels.mean(), abs=0.15)


def test_a_range_of_sizes_is_kept_to(tmp_path):
    """A .pt2 that takes 64 to 320 px plans tiles of 320; larger and smaller ones are fitted.

    torch.export writes the range with the file (Dim(min=…, max=…)).
    """
    (torch,) = needs("torch")

    class Frame(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)

        def forward(self, x):
            y = self.layer(x).amax(dim=(2, 3)) * 0
            high, wide = x.shape[-2], x.shape[-1]
            sides = (y[0, 0] + 2, y[0, 1] + 2, y[0, 2] + wide - 2, y[0, 3] + high - 2)
            return torch.stack(sides)[None], torch.sigmoid(y[0, :1] + 2), torch.zeros(1).long()

    dim = torch.export.Dim
    sides = {"x": {2: dim("h", min=64, max=320), 3: dim("w", min=64, max=320)}}
    example = torch.zeros(1, 3, 128, 128)
    spec = model(exported(tmp_path / "m.pt2", Frame(), example, dynamic_shapes=sides))
    assert spec.input_size == (320, 320)
    detector = build(spec)
    for side, right in ((320, 318), (500, 496.9), (40, 40)):
        found = detector.predict([np.zeros((side, side, 3), np.uint8)])[0]
        assert found.boxes[0, 2] == pytest.approx(right, abs=0.1)


def test_multiples_and_squares_are_kept_to(tmp_path):
    """A .pt2 exported with ``32 * Dim`` or one Dim for both sides gets tiles filled up to that."""
    (torch,) = needs("torch")

    class Frame(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)

        def forward(self, x):
            y = self.layer(x).amax(dim=(2, 3))[0] * 0
            return (y + torch.tensor([2.0, 2, 20, 20]))[None], y[:1] + 0.9, torch.zeros(1).long()

    dim, example = torch.export.Dim, torch.zeros(1, 3, 128, 128)
    by_32 = {2: 32 * dim("h", min=2, max=10), 3: 32 * dim("w", min=2, max=10)}
    square = dict.fromkeys((2, 3), dim("side", min=64, max=320))
    for name, sides in (("steps.pt2", by_32), ("square.pt2", square)):
        spec = model(exported(tmp_path / name, Frame(), example, dynamic_shapes={"x": sides}))
        assert spec.input_size == (320, 320)
        found = build(spec).predict([np.zeros((100, 70, 3), np.uint8)])[0]
        assert found.boxes[0].tolist() == [2, 2, 20, 20]


@pytest.mark.slow
def test_boxes_of_transformers_keep_their_fractions(tmp_path):
    """The pipeline cuts boxes to whole pixels; they arrive as the image processor gives them.

    Oracle: post_process_object_detection of the same processor.
    """
    torch, transformers = needs("torch", "transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"intermediate_size": 16, "image_size": [64, 64], "patch_size": 16}
    config = transformers.YolosConfig(num_detection_tokens=3, num_labels=2, **small)
    network = transformers.YolosForObjectDetection(config).eval()
    with torch.no_grad():
        wanted = torch.tensor([0.2055, 0.3065, 0.199, 0.205])
        for layer, bias in (
            (network.bbox_predictor.layers[-1], torch.log(wanted / (1 - wanted))),
            (network.class_labels_classifier.layers[-1], torch.tensor([5.0, 0.0, 0.0])),
        ):
            layer.weight.zero_()
            layer.bias.copy_(bias)
    network.save_pretrained(tmp_path / "yolos")
    size = {"height": 64, "width": 64}
    processor = transformers.YolosImageProcessor(size=size)
    processor.save_pretrained(tmp_path / "yolos")
    spec = model(str(tmp_path / "yolos"), task="object-detection")
    found = build(spec).predict([np.full((100, 100, 3), 90, np.uint8)])[0]
    with torch.no_grad():
        out = network(torch.zeros(1, 3, 64, 64))
    right = processor.post_process_object_detection(out, 0.05, target_sizes=[(100, 100)])[0]
    assert found.boxes[0] == pytest.approx(right["boxes"][0].tolist(), abs=1e-3)
    assert found.boxes[0, 0] % 1 > 0.05
    assert spec.max_detections == 3  # one for each of its detection tokens


def test_a_hole_in_a_mask_of_sahi_is_cut_out(tmp_path):
    """SAHI lists the rings of a mask without a word which are holes; the mask itself tells."""
    needs("torch", "sahi")
    from sahi.prediction import ObjectPrediction
    from sahi.utils.cv import get_coco_segmentation_from_bool_mask

    from tilevision.adapters.frameworks.sahi_models import _polygon

    mask = np.zeros((100, 100), bool)
    mask[20:60, 20:60] = True
    mask[30:50, 30:50] = False
    found = ObjectPrediction(
        segmentation=get_coco_segmentation_from_bool_mask(mask),
        category_id=0,
        category_name="ring",
        score=0.9,
        full_shape=[100, 100],
        shift_amount=[0, 0],
    )
    parts = _polygon(found, np.zeros((100, 100, 3)))
    assert [len(part) for part in parts] == [2]
    assert area(parts) == pytest.approx(1200, rel=0.03)


def test_what_torchvision_keeps_of_a_picture_is_the_limit():
    """detections_per_img is a network's own limit, and no part of its identity."""
    torch, torchvision = needs("torch", "torchvision")
    torch.manual_seed(0)
    network = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, detections_per_img=30
    )
    assert model(network).max_detections == 30
    assert model(network, max_detections=50).max_detections == 50
    declared = model(network, max_detections=1000)
    assert declared.fingerprint == model(network).fingerprint


@pytest.mark.parametrize("value", ["blobs", "openai:m"])
def test_a_device_is_kept_or_refused(value, monkeypatch):
    """`tv.model(f, device=…)` refuses a device where the model cannot choose one."""
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    assert model(value, device="cpu").device == "cpu"
    for device in ("cuda:0", "mps"):
        with pytest.raises(ModelError, match="has no choice of device"):
            model(value, device=device)


@pytest.mark.parametrize("scripted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_limit_is_read_from_a_file_of_torchvision(tmp_path, scripted):
    """detections_per_img stands in a saved network, whole or scripted, as in the object."""
    torch, torchvision = needs("torch", "torchvision")
    torch.manual_seed(0)
    network = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, detections_per_img=30
    ).eval()
    path = tmp_path / "m.pt"
    if scripted:
        torch.jit.save(torch.jit.script(network), str(path))
    else:
        torch.save(network, path)
    assert model(str(path)).max_detections == 30


@pytest.mark.parametrize(
    ("config", "processor", "limit"),
    [
        ({"model_type": "detr", "num_queries": 100}, "DetrImageProcessor", 100),
        ({"model_type": "lw_detr", "num_queries": 300}, "DeformableDetrImageProcessor", 100),
        ({"model_type": "dab-detr", "num_queries": 300}, "ConditionalDetrImageProcessor", 100),
        ({"model_type": "deformable_detr", "num_queries": 300}, "", 100),
        ({"model_type": "rf_detr", "num_queries": 300}, "RfDetrImageProcessor", 300),
        ({"model_type": "maskformer", "decoder_config": {"num_queries": 50}}, "", 50),
        ({"model_type": "yolos", "num_detection_tokens": 100}, "YolosImageProcessor", 100),
        (
            {"model_type": "owlvit", "vision_config": {"image_size": 768, "patch_size": 32}},
            "OwlViTImageProcessor",
            576,
        ),
        ({"model_type": "vit"}, "ViTImageProcessor", None),
    ],
)
def test_the_limit_of_a_network_of_transformers(config, processor, limit):
    """One object a query, token or patch; some image processors keep the best 100 (top_k)."""
    from tilevision.adapters.frameworks.transformers_pipelines import object_limit

    assert object_limit(config, processor) == limit


def answering(**further):
    """Return a network that finds one object in any picture, and answers more than is read."""
    (torch,) = needs("torch")

    class Answering(torch.nn.Module):
        def forward(self, pictures):
            found = {"boxes": torch.tensor([[2.0, 2.0, 20.0, 20.0]]), "labels": torch.tensor([1])}
            return [found | {"scores": torch.tensor([0.9])} | further for _ in pictures]

    return Answering()


def detector_of(network, **params):
    """Return a detector of a network that no file could hold."""
    spec = ModelSpec("net", "none:at", "f", {**TORCH, **params}, max_detections=100)
    return TorchDetector(lambda picture: network([picture]), spec)


TORCH = {"names": None, "score_floor": 0.05, "channels": "rgb", "normalize": "0..1"}
TILE = np.zeros((64, 64, 3), np.uint8)


def test_what_a_network_answers_beside_is_named_once():
    """As other second outputs: by name, where it shows for the first time, once a batch."""
    (torch,) = needs("torch")
    detector = detector_of(answering(depth=torch.zeros(1), features=torch.zeros(1, 8)))
    answers = detector.predict([TILE, TILE])
    assert [len(found) for found in answers] == [1, 1]
    assert answers.remarks == (
        "Model net also gives depth, features, which will not be read; pass a function that "
        "returns what you need of them as attributes.",
    )
    assert detector_of(answering()).predict([TILE]).remarks == ()


def test_columns_of_a_network_may_be_missing_or_arrays():
    """None is a column that is not there; key points without a confidence have confidence 1."""
    points = np.array([[[3.0, 4.0], [5.0, 6.0]]])
    found = detector_of(answering(masks=None, keypoints=points)).predict([TILE])[0]
    assert found.polygons is None
    assert found.keypoints.tolist() == [[[3, 4, 1], [5, 6, 1]]]


def test_scores_that_are_none_are_refused():
    """A logit of 3.7 is no score of 1; a hair above 1 is."""
    (torch,) = needs("torch")
    network = answering(scores=torch.tensor([1.0004]))
    assert detector_of(network).predict([TILE])[0].scores.tolist() == [1]
    with pytest.raises(ModelError, match=r"Score 3\.7 lies outside 0 to 1"):
        detector_of(answering(scores=torch.tensor([3.7]))).predict([TILE])


def test_class_numbers_beyond_the_names_are_told():
    """80 names for a network that numbers as COCO does, to 90, would name its classes wrongly."""
    (torch,) = needs("torch")
    network = answering(labels=torch.tensor([90]))
    names = [f"kind{number}" for number in range(80)]
    answers = detector_of(network, names=names).predict([TILE])
    assert answers[0].labels.tolist() == ["class_90"]
    assert "gave class number 90, and names are 80, for 0 to 79" in answers.remarks[0]
    assert detector_of(network, names={"90": "toothbrush"}).predict([TILE]).remarks == ()


@pytest.mark.parametrize("form", ["best", "first"])
def test_an_exported_program_states_how_many_boxes_it_gives(tmp_path, form):
    """``topk(…, 7)`` makes seven rows, ``[:7]`` the least of 7 and what there is: its limit."""
    (torch,) = needs("torch")

    class Chosen(torch.nn.Module):
        def forward(self, x):
            scores = x.mean(dim=1).flatten()
            if form == "best":
                at = torch.topk(scores, 7)[1]
            else:
                at = torch.nonzero(scores >= 0)[:, 0][:7]
            boxes = torch.stack([at * 0, at * 0, at + 1, at + 1], dim=1).float()
            return {"boxes": boxes, "scores": scores[at].sigmoid(), "labels": torch.ones_like(at)}

    spec = model(exported(tmp_path / "m.pt2", Chosen(), torch.zeros(1, 3, 64, 64)))
    assert spec.max_detections == 7
    assert len(build(spec).predict([TILE])[0]) == 7


class Hands:
    """A detection model as SAHI's are, with what it has found."""

    def __init__(self, task, found=()):
        self.task, self.model, self.is_obb = task, self, task == "obb"
        self.object_prediction_list = found

    def perform_inference(self, image):
        """Find what was given."""

    def convert_original_predictions(self, **shifts):
        """Leave it as it is."""


def test_rotated_boxes_pass_through_sahi():
    """SAHI keeps the corners of Ultralytics' rotated boxes as an outline: they are corners.

    ``UltralyticsDetectionModel.is_obb``, sahi 0.12; its masks are their pixels.
    """
    needs("sahi")
    from sahi.prediction import ObjectPrediction

    corners = [10.0, 20.0, 20.0, 10.0, 40.0, 30.0, 30.0, 40.0]
    one = ObjectPrediction(
        bbox=[10, 10, 40, 40], category_id=0, category_name="ship", score=0.9,
        segmentation=[corners], full_shape=[64, 64],
    )  # fmt: skip
    detector = SahiDetector(Hands("obb", [one]), ModelSpec("hands", "none:at", "f"))
    found = detector.predict([TILE])[0]
    assert found.polygons is None
    assert found.oriented[0].ravel().tolist() == corners


def test_key_points_that_sahi_leaves_out_are_told():
    """SAHI hands on boxes of a pose model, and not its points."""
    pytest.importorskip("torch")
    detector = SahiDetector(Hands("pose"), ModelSpec("hands", "none:at", "f"))
    remarks = detector.predict([TILE]).remarks
    assert len(remarks) == 1
    assert "also gives key points" in remarks[0] and "ultralytics.YOLO" in remarks[0]
