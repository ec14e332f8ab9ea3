"""Encoders of transformers and timm: the vector that the library itself gives, and how it says so.

The networks are small and their weights random; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framework_models import needs, pipeline_folder
from PIL import Image

import tilevision as tv
from tilevision.modelspec import build

pytestmark = pytest.mark.slow  # importing these libraries takes seconds

PICTURE = np.random.default_rng(7).integers(0, 255, (64, 64, 3), dtype=np.uint8)
SHOWN = Image.fromarray(PICTURE)
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(autouse=True)
def own_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are saved under the test's own folder."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))


def vector(model: Any, picture: np.ndarray = PICTURE, **declared: Any) -> np.ndarray:
    spec = tv.model(model, precision="float32", **declared)
    return build(spec).predict([picture])[0].embedding


def network(kind: str) -> Any:
    """A network of transformers' with random weights."""
    torch, transformers = needs("torch", "transformers")
    torch.manual_seed(3)
    further = {
        "Dinov2WithRegisters": {"num_register_tokens": 4},
        "DINOv3ViT": {"num_register_tokens": 4},
        "CLIPVisionModelWithProjection": {"projection_dim": 6},
    }.get(kind, {})
    if kind == "ConvNext":
        config = transformers.ConvNextConfig(hidden_sizes=[4, 6, 8, 10], depths=[1, 1, 1, 1])
    elif kind == "Swin":
        config = transformers.SwinConfig(
            image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=2
        )
    elif kind.startswith("CLIPVision"):
        config = transformers.CLIPVisionConfig(**SIZES, **further)
    else:
        config = getattr(transformers, f"{kind}Config")(**SIZES, **further)
    name = kind if kind.startswith("CLIPVision") else f"{kind}Model"
    return getattr(transformers, name)(config).eval()


def pipeline(net: Any, **processor: Any) -> Any:
    (transformers,) = needs("transformers")
    prepares = transformers.ViTImageProcessor(
        **{"size": {"height": 32, "width": 32}, "image_mean": [0.4, 0.5, 0.6], **processor}
    )
    task = "image-feature-extraction"
    return transformers.pipeline(task, model=net, image_processor=prepares, device="cpu")


@pytest.mark.parametrize("kind", ["Dinov2", "DINOv3ViT", "CLIPVisionModel", "Swin", "ConvNext"])
def test_a_pipeline_gives_the_vector_that_it_pools_itself(kind: str) -> None:
    """The vector of ``pipeline(picture, pool=True)``, for tokens and for maps, without asking."""
    made = pipeline(network(kind))
    theirs = np.array(made(SHOWN, pool=True)).reshape(-1)
    np.testing.assert_allclose(vector(made), theirs, atol=1e-6)
    assert np.abs(vector(made, PICTURE[..., ::-1].copy()) - theirs).max() > 1e-4


@pytest.mark.parametrize(
    ("kind", "before"), [("ViT", 1), ("DeiT", 2), ("Dinov2WithRegisters", 5), ("DINOv3ViT", 5)]
)
def test_tokens_are_pooled_as_declared(kind: str, before: int) -> None:
    """The class token, the mean of the patches alone, and both: of the pipeline's own tokens."""
    made = pipeline(network(kind))
    tokens = np.array(made(SHOWN))[0]
    mean = tokens[before:].mean(axis=0)
    for pooling, theirs in (
        ("cls", tokens[0]),
        ("mean", mean),
        ("cls+mean", np.concatenate([tokens[0], mean])),
    ):
        np.testing.assert_allclose(vector(made, pooling=pooling), theirs, atol=1e-6)


def test_a_projection_is_what_pictures_are_compared_by() -> None:
    """Networks of text and picture give the vector in the space of both."""
    needs("transformers")
    net = network("CLIPVisionModelWithProjection")
    made = pipeline(net)
    theirs = net(**made.preprocess(SHOWN)).image_embeds[0].detach().numpy()
    np.testing.assert_allclose(vector(made), theirs, atol=1e-6)


def test_a_dense_pooler_is_used_only_when_asked_for(tmp_path: Path) -> None:
    """Checkpoints often lack its weights: then it is random, and is refused by name."""
    (transformers,) = needs("transformers")
    made = pipeline(network("ViT"))
    assert tv.model(made).params["pooling"] == "cls"
    np.testing.assert_allclose(vector(made, pooling="model"), made(SHOWN, pool=True)[0], atol=1e-6)
    folder = pipeline_folder(tmp_path, "image-classification")  # saved without one
    assert len(vector(str(folder), returns="embedding")) == 16
    with pytest.raises(tv.ModelError, match=r"no weights for pooler\.dense.*pooling='cls'"):
        vector(str(folder), returns="embedding", pooling="model")
    assert transformers.logging.get_verbosity() == transformers.logging.WARNING


def test_a_folder_is_the_same_encoder_as_the_pipeline_it_was_saved_from(tmp_path: Path) -> None:
    """The same vector and the same identity; without a word it is still what it was."""
    made = pipeline(network("Dinov2"))
    made.save_pretrained(tmp_path / "saved")
    folder = str(tmp_path / "saved")
    np.testing.assert_array_equal(vector(folder, returns="embedding"), vector(made))
    spec = tv.model(folder, returns="embedding")
    assert spec.fingerprint == tv.model(made).fingerprint
    assert spec.fingerprint == tv.model(folder, task="image-feature-extraction").fingerprint
    assert spec.fingerprint != tv.model(folder, returns="embedding", pooling="mean").fingerprint
    classifier = pipeline_folder(tmp_path, "image-classification")
    assert "pooling" not in tv.model(str(classifier)).params


def test_the_plan_says_how_pictures_are_prepared() -> None:
    """The processor's size, what its crop leaves out, its normalisation, and the pooling."""
    spec = tv.model(pipeline(network("Dinov2")))
    assert spec.input_size == (32, 32)
    plan = tv.plan(PICTURE, spec, checkpoint=None)
    assert "brought to 32 × 32 px, mean 0.400, 0.500, 0.600, deviation 0.500" in repr(plan)
    assert "pooling 'model'" in repr(plan)
    assert spec.fingerprint == tv.model(pipeline(network("Dinov2"))).fingerprint
    (transformers,) = needs("transformers")
    prepares = transformers.CLIPImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
    )
    cropping = transformers.pipeline(
        "image-feature-extraction", model=network("Dinov2"), image_processor=prepares
    )
    spec = tv.model(cropping)
    assert spec.input_size == (40, 40)
    assert "brought to 40 × 40 px, of which the middle 32 × 32 px count" in spec.notes[0]


@pytest.mark.parametrize(
    ("kind", "declared", "said"),
    [
        ("Swin", {"pooling": "cls"}, "has no class token"),
        ("Dinov2", {"pooling": "max"}, "give one of cls, mean, cls[+]mean, model"),
        ("Dinov2", {"task": "object-detection", "returns": "embedding"}, "leave task out"),
    ],
)
def test_what_makes_no_sense_is_one_line(kind: str, declared: Any, said: str) -> None:
    """When it is declared, before any tile is read."""
    with pytest.raises(tv.ModelError, match=said) as caught:
        tv.model(pipeline(network(kind)), **declared)
    assert "\n" not in str(caught.value)


def test_pooling_of_a_detector_is_refused(tmp_path: Path) -> None:
    """It is no encoder, and says so."""
    folder = pipeline_folder(tmp_path, "image-classification")
    with pytest.raises(tv.ModelError, match="pooling= without returns='embedding'"):
        tv.model(str(folder), pooling="cls")


def test_a_network_that_drops_patches_by_chance_is_refused() -> None:
    """No two of its answers are the same, so no run could be resumed."""
    (transformers,) = needs("transformers")
    net = transformers.ViTMAEModel(transformers.ViTMAEConfig(**SIZES))
    with pytest.raises(tv.ModelError, match=r"by chance.*ViTModel\.from_pretrained"):
        tv.model(pipeline(net))


def test_weights_without_an_image_processor_are_refused(tmp_path: Path) -> None:
    """Nothing says how pictures are prepared, and nothing is guessed."""
    network("Dinov2").save_pretrained(tmp_path / "bare")
    with pytest.raises(tv.ModelError, match=r"no preprocessor_config\.json"):
        tv.model(str(tmp_path / "bare"), returns="embedding")


@pytest.mark.parametrize("kind", ["test_vit", "test_resnet", "test_convnext", "swin"])
def test_a_network_of_timm_gives_its_own_vector(kind: str) -> None:
    """As its own transform and its own head's pooling do; with or without a classifier on top."""
    torch, timm = needs("torch", "timm")
    torch.manual_seed(4)
    name = "swin_tiny_patch4_window7_224" if kind == "swin" else kind
    small = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)} if kind == "swin" else {}
    net = timm.create_model(name, num_classes=0, **small).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_data_config({}, model=net))
    shown = prepare(SHOWN)[None]
    with torch.inference_mode():
        theirs, features = net(shown)[0].numpy(), net.forward_features(shown)[0].numpy()
    np.testing.assert_allclose(vector(net), theirs, atol=1e-6)
    mean = {
        "test_vit": features[1:].mean(axis=0) if features.ndim == 2 else None,
        "swin": features.mean(axis=(0, 1)) if features.ndim == 3 else None,
    }.get(kind, features.mean(axis=(1, 2)) if features.ndim == 3 else None)
    np.testing.assert_allclose(vector(net, pooling="mean"), mean, atol=1e-5)
    spec = tv.model(net)
    assert spec.name == name and "pooling 'model'" in spec.notes[0]
    assert spec.fingerprint != tv.model(net, pooling="mean").fingerprint
    if kind == "test_vit":
        np.testing.assert_allclose(vector(net, pooling="cls"), features[0], atol=1e-6)
    else:
        with pytest.raises(tv.ModelError, match="no class token"):
            tv.model(net, pooling="cls")


def test_a_network_of_timm_with_a_classifier_gives_what_the_classifier_sees() -> None:
    """Not the classes' scores."""
    torch, timm = needs("torch", "timm")
    net = timm.create_model("test_resnet", num_classes=5).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_data_config({}, model=net))
    with torch.inference_mode():
        seen = net.forward_head(net.forward_features(prepare(SHOWN)[None]), pre_logits=True)
    np.testing.assert_allclose(vector(net), seen[0].numpy(), atol=1e-6)


def test_a_network_of_timm_says_what_it_is_made_for() -> None:
    """The size that it was made with decides the grid; other bands than three are refused."""
    (timm,) = needs("timm")
    net = timm.create_model("test_vit", num_classes=0, img_size=64)
    spec = tv.model(net)
    crop = net.pretrained_cfg["crop_pct"]
    assert spec.input_size == (int(64 / crop), int(64 / crop))
    assert "the middle 64 × 64 px count" in spec.notes[0]
    with pytest.raises(tv.ModelError, match="takes 4 bands, and its configuration prepares three"):
        tv.model(timm.create_model("test_vit", num_classes=0, in_chans=4))
    with pytest.raises(tv.ModelError, match="make it without features_only"):
        tv.model(timm.create_model("test_resnet", features_only=True))
