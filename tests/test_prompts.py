"""Models that are asked in words: the library's own answer, with the prompt as its class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framework_models import needs, pipeline_folder
from hub_server import cached, point_at
from PIL import Image
from prompted_models import saved

import tilevision as tv
from tilevision.modelspec import build

pytestmark = pytest.mark.slow  # importing these libraries takes seconds

RANDOM = np.random.default_rng(7)
PICTURE = RANDOM.integers(0, 255, (80, 96, 3), dtype=np.uint8)
OTHER = RANDOM.integers(0, 255, (80, 96, 3), dtype=np.uint8)
SHOWN = Image.fromarray(PICTURE)
PROMPTS = ["ship", "oil tank"]


@pytest.fixture(autouse=True)
def own_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are saved under the test's own folder."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))


def asked(model: Any, **declared: Any) -> Any:
    spec = tv.model(model, **{"prompts": PROMPTS, "score_floor": 0.0, **declared})
    return build(spec).predict([PICTURE])[0]


def test_one_by_one_is_the_pipeline(tmp_path: Path) -> None:
    """OWL-ViT: `prompts` are the pipeline's `candidate_labels`, by object and by folder."""
    _, transformers = needs("torch", "transformers")
    folder = pipeline_folder(tmp_path, "zero-shot-object-detection")
    task = "zero-shot-object-detection"
    pipeline = transformers.pipeline(task, model=str(folder), device="cpu")
    theirs = pipeline(SHOWN, candidate_labels=PROMPTS, threshold=0.0)
    for found in (asked(str(folder)), asked(pipeline)):
        assert set(found.labels) <= set(PROMPTS)
        assert len(found) > 0
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            alike = [
                row
                for row in theirs
                if row["label"] == label
                and abs(row["score"] - score) < 1e-5
                and abs(max(row["box"]["xmin"], 0) - box[0]) <= 1
            ]
            assert alike, "but for whole pixels, and the picture's edge"
    spec = tv.model(str(folder), prompts=PROMPTS)
    assert spec.names == tuple(PROMPTS)
    assert spec.fingerprint == tv.model(str(folder), candidate_labels=PROMPTS).fingerprint


def test_grounding_dino_reads_all_prompts_at_once(tmp_path: Path) -> None:
    """Boxes and scores are the processor's; the class is the prompt with the best word."""
    torch, _ = needs("torch", "transformers")
    network, processor, folder = saved("grounding", tmp_path)
    inputs = processor(images=SHOWN, text=[PROMPTS], return_tensors="pt")
    with torch.inference_mode():
        outputs = network(**inputs)
    (theirs,) = processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=0.0, target_sizes=[(80, 96)]
    )
    found = asked(str(folder))
    scores = theirs["scores"].numpy()
    order = np.argsort(-scores)  # as findings are
    boxes = theirs["boxes"].numpy()[order].clip(0, [96, 80, 96, 80])
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, scores[order], atol=1e-5)
    # [CLS] ship . oil tank . [SEP]
    by_token = outputs.logits[0].sigmoid().numpy()
    best = np.stack([by_token[:, 1], by_token[:, 3:5].max(axis=1)], axis=1).argmax(axis=1)
    assert list(found.labels) == [PROMPTS[number] for number in best[order]]
    with pytest.raises(tv.ModelError, match="holds a full stop or a question mark"):
        tv.model(str(folder), prompts=["a ship. a dock"])
    many = tv.model(str(folder), prompts=[" ".join(["ship"] * n) for n in range(1, 9)])
    with pytest.raises(tv.ModelError, match=r"take \d+ tokens, and it reads 32; give fewer"):
        build(many).predict([PICTURE])


def test_sam3_finds_the_instances_of_each_prompt(tmp_path: Path) -> None:
    """Scores, boxes and masks are the processor's, for each prompt alone."""
    torch, _ = needs("torch", "transformers")
    network, processor, folder = saved("concepts", tmp_path)
    theirs: list[tuple[float, str, np.ndarray, int]] = []
    for prompt in PROMPTS:
        inputs = processor(images=SHOWN, text=prompt, return_tensors="pt")
        with torch.inference_mode():
            outputs = network(**inputs)
        (one,) = processor.post_process_instance_segmentation(
            outputs, threshold=0.0, target_sizes=[(80, 96)]
        )
        for score, box, mask in zip(one["scores"], one["boxes"], one["masks"], strict=True):
            if mask.any():
                theirs.append((float(score), prompt, box.numpy(), int(mask.sum())))
    theirs.sort(key=lambda row: -row[0])
    found = asked(str(folder))
    assert len(found) == len(theirs) > 0
    np.testing.assert_allclose(found.scores, [row[0] for row in theirs], atol=1e-5)
    assert list(found.labels) == [row[1] for row in theirs]
    boxes = np.array([row[2] for row in theirs]).clip(0, [96, 80, 96, 80])
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-3)
    shapely = pytest.importorskip("shapely")
    areas = [
        sum(shapely.Polygon(part[0], part[1:]).area for part in shape) for shape in found.polygons
    ]
    np.testing.assert_allclose(areas, [row[3] for row in theirs], rtol=0.15, atol=8)


def test_clipseg_makes_a_map_of_each_prompt(tmp_path: Path) -> None:
    """The sigmoid of the network's logits, at the tile's size."""
    torch, _ = needs("torch", "transformers")
    network, processor, folder = saved("textmaps", tmp_path)
    inputs = processor(images=[SHOWN] * 2, text=PROMPTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = network(**inputs).logits[None]
    theirs = torch.nn.functional.interpolate(
        logits, size=(80, 96), mode="bilinear", align_corners=False
    )
    found = asked(str(folder))
    assert found.raster.spec.classes == tuple(PROMPTS)
    np.testing.assert_allclose(
        found.raster.kept, np.rint(theirs[0].sigmoid().numpy() * 253), atol=1
    )
    one = asked(str(folder), prompts=["ship"])
    np.testing.assert_allclose(one.raster.kept[0], found.raster.kept[0], atol=3)
    result = tv.analyze(
        np.tile(PICTURE, (2, 2, 1)), tv.model(str(folder), prompts=PROMPTS), grid="2x2",
        workers=1, checkpoint=None, progress=False,
    )  # fmt: skip
    assert result.raster.probabilities[:].shape == (160, 192, 2)


def test_clip_says_which_prompt_a_tile_shows(tmp_path: Path) -> None:
    """The scores of the pipeline; a single prompt is refused, for its share is always 1."""
    _, transformers = needs("torch", "transformers")
    _, _, folder = saved("pairs", tmp_path)
    pipeline = transformers.pipeline(
        "zero-shot-image-classification", model=str(folder), device="cpu"
    )
    theirs = {row["label"]: row["score"] for row in pipeline(SHOWN, candidate_labels=PROMPTS)}
    scores = asked(str(folder)).tile_scores
    assert set(scores) == set(PROMPTS)
    for prompt in PROMPTS:
        assert scores[prompt] == pytest.approx(theirs[prompt], abs=1e-5)
    with pytest.raises(tv.ModelError, match="there is one; give two or more"):
        tv.model(str(folder), prompts=["ship"])


@pytest.mark.parametrize("kind", ["grounding", "concepts", "textmaps", "pairs"])
def test_prompts_are_part_of_the_identity_and_of_a_stored_run(kind: str, tmp_path: Path) -> None:
    """Other prompts are another model; from its stored parameters the same is made again."""
    _, _, folder = saved(kind, tmp_path)
    spec = tv.model(str(folder), prompts=PROMPTS)
    assert tv.model(str(folder), prompts=PROMPTS[::-1]).fingerprint != spec.fingerprint
    again = tv.model(spec.name, **spec.params)
    assert (again.fingerprint, again.params) == (spec.fingerprint, spec.params)
    both = build(spec).predict([PICTURE, OTHER])
    alone = build(spec).predict([OTHER])
    assert both[1] == alone[0]


def test_prompts_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository of the hub is asked like a folder; without prompts it says what it needs."""
    pytest.importorskip("huggingface_hub")
    point_at(monkeypatch, tmp_path / "hub")
    _, _, folder = saved("concepts", tmp_path)
    cached(tmp_path / "hub", "acme/sam3", folder, 1)
    found = asked("hf:acme/sam3")
    assert set(found.labels) == set(PROMPTS)
    assert asked(str(folder)).boxes.tolist() == found.boxes.tolist()
    with pytest.raises(tv.ModelError, match=r"finds what prompts name; give prompts=\["):
        tv.model("hf:acme/sam3")


@pytest.mark.parametrize(
    ("prompts", "line"),
    [
        ([], r"prompts of model .* is \[\]; give a list"),
        ("ship", "is 'ship'; give a list of what it is to look for"),
        (["ship", 3], "give a list of what it is to look for"),
        (["ship", "  "], "give a list of what it is to look for"),
        (["ship", "a\nb"], "give a list of what it is to look for"),
        (["ship", "ship "], "has 'ship' twice; give it once"),
        (["s" * 300], "has 300 characters; give a noun"),
    ],
)
def test_prompts_that_make_no_sense_are_one_line(tmp_path: Path, prompts: Any, line: str) -> None:
    """Before anything is opened; so are prompts beside what they stand for."""
    folder = pipeline_folder(tmp_path, "zero-shot-object-detection")
    with pytest.raises(tv.ModelError, match=line):
        tv.model(str(folder), prompts=prompts)
    with pytest.raises(tv.ModelError, match="prompts= and candidate_labels=; prompts are what"):
        tv.model(str(folder), prompts=["a"], candidate_labels=["b"])


def test_a_model_that_takes_no_prompts_says_so(tmp_path: Path) -> None:
    """Whatever it is: a detector with classes of its own, a function, an ONNX file."""
    folder = pipeline_folder(tmp_path, "object-detection")
    with pytest.raises(tv.ModelError, match=r"\(YolosForObjectDetection\) takes no prompts; leave"):
        tv.model(str(folder), prompts=PROMPTS)
    with pytest.raises(tv.ModelError, match="no declaration 'prompts'"):
        tv.model(lambda pixels: [], prompts=PROMPTS)
