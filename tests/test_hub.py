"""Models by the name they have on a hub: which revision, which files, what is refused, offline.

The hub is a server on this machine, or a cache without a network; weights are random.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_server
import numpy as np
import onnx
import pytest
from framework_models import needs, pipeline_folder, red_and_blue
from hub_server import Hub, cached, commit_of, point_at
from onnx import numpy_helper
from PIL import Image
from tiny_onnx import FLOAT, finding_red, write

import tilevision as tv
from tilevision.adapters.hub.hubname import HubName
from tilevision.modelspec import build
from tilevision.readiness import examine

pytest.importorskip("huggingface_hub", reason="comes with transformers and timm")

PICTURE = np.random.default_rng(7).integers(0, 255, (64, 64, 3), dtype=np.uint8)
SHOWN = Image.fromarray(PICTURE)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub's library, which is offline."""
    point_at(monkeypatch, tmp_path / "hub")
    return tmp_path / "hub"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that answers; the cache is empty."""
    with hub_server.serving() as server:
        point_at(monkeypatch, cache, server.url)
        yield server


def red(folder: Path, shift: float = 0.0) -> Path:
    """A folder with a detector of red in it, and what no model needs."""
    folder.mkdir(parents=True, exist_ok=True)
    finding_red(folder / "red.onnx", shift=shift)
    (folder / "README.md").write_text("A finder of red.")
    return folder


def answer(spec: Any, picture: np.ndarray = PICTURE) -> Any:
    return build(spec).predict([picture])[0]


# Names --------------------------------------------------------------------------------------


def test_a_name_says_repository_file_and_revision() -> None:
    """A revision may hold slashes, a file lies in folders."""
    whole = HubName.parse("hf:owner/my.model-2@refs/pr/1")
    assert (whole.repository, whole.file, whole.revision) == ("owner/my.model-2", "", "refs/pr/1")
    file = HubName.parse(f"hf:o/r/onnx/model.onnx@{commit_of(3)}")
    assert (file.file, file.commit) == ("onnx/model.onnx", commit_of(3))


@pytest.mark.parametrize(
    "text",
    [
        *("hf:", "hf:detr", "hf:/x", "hf:a/b@", "hf:a b/c", "hf:a/b/", "hf:a/..", "hf:../b"),
        *("hf:a/b/../../c.onnx", "hf:a/b@../x", "hf:a/b//c.onnx", "hf:a/b\\..\\c"),
    ],
)
def test_a_name_that_says_no_repository_is_refused(text: str, cache: Path) -> None:
    """So is one that leads out of it; nobody is asked."""
    with pytest.raises(tv.ModelError, match="write hf:owner/repository"):
        tv.model(text)


# Revisions and files ------------------------------------------------------------------------


def test_a_file_is_downloaded_once_and_is_the_same_model_without_a_network(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name, branch and commit stand for one identity; offline the branch is what it was."""
    commit = hub.repository("acme/red").push(red(tmp_path / "made"), 1)
    first = tv.model("hf:acme/red/red.onnx")
    assert hub.downloaded() == ["red.onnx"], "and not the README"
    assert first.name == "hf:acme/red/red.onnx"
    assert f"revision {commit[:12]} of acme/red, which is main" in first.notes[0]
    assert tv.model(f"hf:acme/red/red.onnx@{commit}").fingerprint == first.fingerprint
    assert hub.downloaded() == ["red.onnx"]
    assert len(answer(first, red_and_blue())) == 1
    hub.status = 503
    held = tv.model("hf:acme/red/red.onnx")
    assert (
        "which was main when it was downloaded. The hub cannot be reached (HTTP 503)"
        in (held.notes[0])
    )
    point_at(monkeypatch, cache)
    offline = tv.model("hf:acme/red/red.onnx")
    assert held.fingerprint == offline.fingerprint == first.fingerprint
    assert "HF_HUB_OFFLINE is set" in offline.notes[0]


def test_a_branch_that_moves_is_another_model(hub: Hub, tmp_path: Path) -> None:
    """The plan says which revision runs; a tag or a commit stays what it was."""
    repository = hub.repository("acme/red")
    first = repository.push(red(tmp_path / "one"), 1, "v1")
    repository.push(tmp_path / "one", 1)
    before = tv.model("hf:acme/red/red.onnx")
    second = repository.push(red(tmp_path / "two", shift=0.25), 2)
    after = tv.model("hf:acme/red/red.onnx")
    assert after.fingerprint != before.fingerprint
    assert second[:12] in after.notes[0]
    assert tv.model("hf:acme/red/red.onnx@v1").fingerprint == before.fingerprint
    assert tv.model(f"hf:acme/red/red.onnx@{first}").fingerprint == before.fingerprint
    image = red_and_blue()
    plan = tv.plan(image, "hf:acme/red/red.onnx@v1", grid="1x1", checkpoint=None)
    assert f"revision {first[:12]} of acme/red, which is v1" in str(plan)


def test_tensors_beside_an_onnx_file_come_with_it(hub: Hub, tmp_path: Path) -> None:
    """Those that the file names, and no other."""
    made = tmp_path / "made" / "onnx"
    made.mkdir(parents=True)
    weights = np.ones((3, 3, 1, 1), np.float32)
    nodes = [
        onnx.helper.make_node("Conv", ["images", "w"], ["mixed"]),
        onnx.helper.make_node("ReduceMean", ["mixed"], ["scores"], axes=[2, 3], keepdims=0),
    ]
    inputs = [onnx.helper.make_tensor_value_info("images", FLOAT, ("n", 3, 32, 32))]
    outputs = [onnx.helper.make_tensor_value_info("scores", FLOAT, ("n", 3))]
    write(made / "m.onnx", nodes, inputs, outputs, {"w": weights})
    whole = onnx.load(made / "m.onnx")
    assert numpy_helper.to_array(whole.graph.initializer[0]).shape == weights.shape
    onnx.save(
        whole, made / "m.onnx", save_as_external_data=True, location="m.onnx_data", size_threshold=0
    )
    (made / "other.onnx_data").write_bytes(b"no part of it")
    hub.repository("acme/parts").push(made.parent, 1)
    spec = tv.model("hf:acme/parts/onnx/m.onnx", returns="embedding")
    assert sorted(hub.downloaded()) == ["m.onnx", "m.onnx_data"]
    assert answer(spec).embedding.shape == (3,)


@pytest.mark.slow
def test_a_run_by_name_is_killed_and_resumed_without_a_network(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles of the killed process are restored; the stored run names the commit it began with."""
    hub.repository("acme/red").push(red(tmp_path / "made"), 1)
    Image.fromarray(np.tile(red_and_blue(), (6, 6, 1))).save(tmp_path / "x.png")
    script = """
import os, signal, time
import tilevision as tv
run = tv.start("x.png", "hf:acme/red/red.onnx", grid="12x12", workers=1, progress=False)
while run.counts.get("done", 0) < 4:
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
    python_path = os.pathsep.join(filter(None, [str(Path(tv.__file__).parents[1])]))
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, **environment, "PYTHONPATH": python_path},
        timeout=200,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-500:]
    hub.repository("acme/red").push(red(tmp_path / "two", shift=0.25), 2)  # main moves meanwhile
    hub.asked.clear()
    monkeypatch.chdir(tmp_path)
    (row,) = tv.runs().itertuples()
    result = tv.resume(row.id).result(timeout=200)
    assert hub.asked == [], "all is here, so nobody is asked"
    assert result.status == "complete"
    assert {"restored", "done"} >= set(result.tiles["status"])
    assert (result.tiles["status"] == "restored").sum() >= 1
    assert len(result.findings) > 0
    assert f"(revision {commit_of(1)[:12]}, fingerprint" in result.methods()
    plan = tv.plan("x.png", "hf:acme/red/red.onnx", grid="12x12")
    assert len(plan.restored) == 0 and commit_of(2)[:12] in str(plan)


# Refusals -----------------------------------------------------------------------------------


def test_what_the_hub_refuses_is_one_line(hub: Hub, tmp_path: Path) -> None:
    """No such repository, revision or file; private, gated; a server that is none."""
    repository = hub.repository("acme/red")
    repository.push(red(tmp_path / "made"), 1)

    def refused(name: str, line: str) -> None:
        with pytest.raises(tv.ModelError, match=line) as caught:
            tv.model(name)
        assert "\n" not in str(caught.value)

    refused("hf:acme/blue/red.onnx", "There is no model acme/blue on .*, or it is private")
    refused("hf:acme/red/red.onnx@v9", "acme/red has no revision 'v9'")
    refused("hf:acme/red/blue.onnx", r"has no file 'blue.onnx' at revision .*; it has red.onnx\.")
    refused("hf:acme/red", r"no config.json.*; name a file of it, as hf:acme/red/red.onnx")
    refused("hf:acme/red/README.md", "is no file of a model that is read")
    repository.locked = "gated"
    refused("hf:acme/red/red.onnx", "is gated: .* Accept them on http.*acme/red, then run hf auth")
    repository.locked = "private"
    refused("hf:acme/red/red.onnx", "or it is private; check the name, or run hf auth login")
    hub.status = 503
    refused("hf:acme/red/red.onnx", r"cannot be reached \(HTTP 503\), and .* has no copy of")
    hub.status = 418
    refused("hf:acme/red/red.onnx", r"refuses acme/red \(HTTP 418\); check HF_ENDPOINT")


def test_without_a_network_or_a_copy_there_is_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Offline by choice, or as nobody answers; a copy that lacks the file is none."""
    with pytest.raises(tv.ModelError, match=r"HF_HUB_OFFLINE is set, and .* has no copy of a/b"):
        tv.model("hf:a/b/c.onnx@v1")
    cached(cache, "a/b", red(tmp_path / "made"), 1)
    with pytest.raises(tv.ModelError, match=r"HF_HUB_OFFLINE is set, and the copy .* lacks c.onnx"):
        tv.model("hf:a/b/c.onnx")
    point_at(monkeypatch, cache, "http://127.0.0.1:9")
    with pytest.raises(tv.ModelError, match=r"The hub cannot be reached \(.*\), and .*a/c at main"):
        tv.model("hf:a/c")
    assert tv.model("hf:a/b/red.onnx").notes[0].endswith(").")


def test_without_the_library_the_line_says_what_to_install(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes with the extra `hub`."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(tv.ModelError, match=r"huggingface_hub: pip install 'tilevision\[hub\]"):
        tv.model("hf:a/b")


def test_files_that_can_run_code_are_opened_only_with_trust(cache: Path, tmp_path: Path) -> None:
    """A pickle of weights or of a network; code of the repository is never run."""
    made = tmp_path / "made"
    made.mkdir()
    (made / "yolo.pt").write_bytes(b"PK")
    cached(cache, "acme/yolo", made, 1)
    with pytest.raises(tv.ModelError, match=r"is a pickle .* Give trust=True if you trust"):
        tv.model("hf:acme/yolo/yolo.pt")
    with pytest.raises(tv.ModelError, match=r"trust of model .* True or False"):
        tv.model("hf:acme/yolo/yolo.pt", trust="yes")
    with pytest.raises(tv.ModelError, match="no file that PyTorch writes"):
        tv.model("hf:acme/yolo/yolo.pt", trust=True)
    (made / "config.json").write_text(json.dumps({"architectures": ["ViTModel"]}))
    (made / "pytorch_model.bin").write_bytes(b"PK")
    cached(cache, "acme/vit", made, 1)
    with pytest.raises(tv.ModelError, match=r"weights as a pickle alone .*model.safetensors, or"):
        tv.model("hf:acme/vit")


# Workers ------------------------------------------------------------------------------------


def test_a_worker_elsewhere_reads_its_own_cache_or_says_what_it_lacks(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By commit and content; it asks no hub, and needs none of its libraries for that."""
    cached(cache, "acme/red", red(tmp_path / "made"), 1)
    spec = tv.model("hf:acme/red/red.onnx")
    shutil.rmtree(cache)
    theirs = tmp_path / "elsewhere" / "hub"
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(theirs.parent))
    line = (
        rf"has no red.onnx of acme/red \({theirs}.*\); run there: hf download acme/red red.onnx "
        rf"--revision {commit_of(1)}, or set HF_HOME"
    )
    (trouble,) = examine(model=spec).troubles
    assert trouble.startswith("has no red.onnx of acme/red")
    with pytest.raises(tv.ModelError, match=line):
        build(spec)
    cached(theirs, "acme/red", tmp_path / "made", 1)
    assert examine(model=spec).troubles == ()
    assert len(answer(spec, red_and_blue())) == 1


# Repositories -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_repository_is_the_pipeline_that_its_library_makes_of_it(
    hub: Hub, tmp_path: Path
) -> None:
    """Only what the model consists of is downloaded; its task is found, its answer the same."""
    needs("torch", "transformers")
    made = pipeline_folder(tmp_path, "image-classification")
    for name in ("README.md", "pytorch_model.bin", "tf_model.h5", "modeling_x.py", "flax.msgpack"):
        (made / name).write_bytes(b"x")
    hub.repository("acme/colours").push(made, 1)
    spec = tv.model("hf:acme/colours")
    assert sorted(hub.downloaded()) == sorted(spec.params["files"])
    assert set(spec.params["files"]) == {
        *("config.json", "model.safetensors", "preprocessor_config.json"),
    }
    assert spec.params["task"] == "image-classification"
    bare = made.with_name("bare")
    shutil.copytree(made, bare, ignore=shutil.ignore_patterns("*.bin", "*.h5", "*.msgpack"))
    assert answer(spec).tile_scores == answer(tv.model(str(bare))).tile_scores
    vector = tv.model("hf:acme/colours", returns="embedding", pooling="cls", precision="float32")
    theirs = tv.model(str(bare), returns="embedding", pooling="cls", precision="float32")
    np.testing.assert_array_equal(answer(vector).embedding, answer(theirs).embedding)


@pytest.mark.slow
def test_other_files_of_the_cache_change_nothing(cache: Path, tmp_path: Path) -> None:
    """Another tool may have fetched more of the repository: the identity and the weights stay."""
    needs("torch", "transformers")
    made = pipeline_folder(tmp_path, "object-detection")
    snapshot = cached(cache, "acme/cats", made, 1)
    spec = tv.model("hf:acme/cats")
    (snapshot / "pytorch_model.bin").write_bytes(b"no weights")
    (snapshot / "README.md").write_text("words")
    assert tv.model("hf:acme/cats").fingerprint == spec.fingerprint
    assert spec.params["task"] == "object-detection"
    assert len(answer(spec)) > 0
    (snapshot / "preprocessor_config.json").unlink()
    with pytest.raises(tv.ModelError, match=r"has no preprocessor_config.json of acme/cats"):
        build(tv.model(spec, min_score=0.5, fingerprint="other"))


@pytest.mark.slow
def test_a_network_without_a_head_is_an_encoder(cache: Path, tmp_path: Path) -> None:
    """As DINOv2 is saved; no word of `returns` is needed."""
    _, transformers = needs("torch", "transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Dinov2Config(**sizes, image_size=32, patch_size=8)
    network = transformers.Dinov2Model(config).eval()
    network.save_pretrained(tmp_path / "made")
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "made")
    cached(cache, "acme/dino", tmp_path / "made", 1)
    pipeline = transformers.pipeline(
        "image-feature-extraction", model=network, image_processor=processor, device="cpu"
    )
    tokens = np.array(pipeline(SHOWN))[0]
    spec = tv.model("hf:acme/dino", pooling="cls", precision="float32")
    np.testing.assert_allclose(answer(spec).embedding, tokens[0], atol=1e-6)


@pytest.mark.slow
def test_a_worker_downloads_no_weights_of_a_backbone(hub: Hub, tmp_path: Path) -> None:
    """DETR is saved with a switch that has releases before 5 fetch those of its ResNet again."""
    _, transformers, _ = needs("torch", "transformers", "timm")
    made = tmp_path / "made"
    sizes = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_layers": 1}
    config = transformers.DetrConfig(
        use_timm_backbone=True, backbone="resnet10t", use_pretrained_backbone=False, d_model=16,
        num_queries=5, **sizes, **heads,
    )  # fmt: skip
    transformers.DetrForObjectDetection(config).save_pretrained(made)
    size = {"shortest_edge": 64, "longest_edge": 96}
    transformers.DetrImageProcessor(size=size).save_pretrained(made)
    told = json.loads((made / "config.json").read_text())
    told.pop("backbone_config", None)
    told |= {"use_timm_backbone": True, "backbone": "resnet10t", "use_pretrained_backbone": True}
    (made / "config.json").write_text(json.dumps(told))
    hub.repository("facebook/detr").push(made, 1)
    spec = tv.model("hf:facebook/detr", score_floor=0.0)
    hub.asked.clear()
    assert len(answer(spec)) > 0
    assert hub.asked == []


@pytest.mark.slow
def test_code_and_pickles_of_a_repository(cache: Path, tmp_path: Path) -> None:
    """Its own code is never run; with trust, a pickle of weights is read as weights."""
    torch, transformers = needs("torch", "transformers")
    made = pipeline_folder(tmp_path, "image-classification")
    config = json.loads((made / "config.json").read_text())
    network = transformers.ViTForImageClassification.from_pretrained(made)
    torch.save(network.state_dict(), made / "pytorch_model.bin")
    safe = cached(cache, "acme/safe", made, 1)
    (made / "model.safetensors").unlink()
    cached(cache, "acme/old", made, 1)
    spec = tv.model("hf:acme/old", trust=True)
    assert answer(spec).tile_scores == answer(tv.model("hf:acme/safe")).tile_scores
    assert safe.is_dir() and spec.params["trust"] is True
    own = {"architectures": ["OwnNet"], "auto_map": {"AutoModel": "modeling.OwnNet"}}
    (made / "config.json").write_text(json.dumps({**config, **own, "model_type": "own"}))
    (made / "modeling.py").write_text("raise SystemExit('code of the repository was run')")
    cached(cache, "acme/own", made, 1)
    with pytest.raises(tv.ModelError, match=r"needs code that is in its repository .* never run"):
        tv.model("hf:acme/own", trust=True)


@pytest.mark.slow
def test_a_task_that_is_not_supported_is_one_line(cache: Path, tmp_path: Path) -> None:
    """The line names the architecture and what there is; `task=` overrides what was found."""
    needs("torch", "transformers")
    made = pipeline_folder(tmp_path, "image-classification")
    config = json.loads((made / "config.json").read_text())
    config["architectures"] = ["BertForMaskedLM"]
    (made / "config.json").write_text(json.dumps(config))
    cached(cache, "acme/words", made, 1)
    with pytest.raises(tv.ModelError, match=r"task of model hf:acme/words is None \(BertFor"):
        tv.model("hf:acme/words")
    assert tv.model("hf:acme/words", task="image-classification").params["task"] == (
        "image-classification"
    )


# timm ---------------------------------------------------------------------------------------


def timm_repository(folder: Path, classes: int, **config: Any) -> Any:
    """Save a network of timm as it lies on the hub; return it."""
    torch, timm = needs("torch", "timm")
    hub = pytest.importorskip("timm.models._hub")
    torch.manual_seed(3)
    network = timm.create_model("resnet10t", num_classes=classes).eval()
    hub.save_for_hf(network, str(folder), model_config=config or None, safe_serialization=True)
    (folder / "pytorch_model.bin").unlink(missing_ok=True)
    return network


def prepared(network: Any) -> Any:
    """The picture as timm prepares it."""
    data = pytest.importorskip("timm.data")
    transform = data.create_transform(**data.resolve_data_config({}, model=network))
    return transform(SHOWN)[None]


@pytest.mark.slow
def test_a_network_of_timm_classifies_or_encodes_as_timm_does(cache: Path, tmp_path: Path) -> None:
    """With classes it classifies, by the repository's names; asked for, or without, it encodes."""
    (torch,) = needs("torch")
    network = timm_repository(tmp_path / "made", 3, label_names=["red", "green", "blue"])
    cached(cache, "timm/tiny", tmp_path / "made", 1)
    spec = tv.model("hf:timm/tiny", score_floor=0.0)
    with torch.inference_mode():
        theirs = network(prepared(network)).softmax(dim=1)[0].numpy()
        features = network.forward_features(prepared(network))
        vector = network.forward_head(features, pre_logits=True)[0].numpy()
    scores = answer(spec).tile_scores
    found = [scores[name] for name in ("red", "green", "blue")]
    np.testing.assert_allclose(found, theirs, atol=1e-6)
    encoder = tv.model("hf:timm/tiny", returns="embedding", precision="float32")
    np.testing.assert_allclose(answer(encoder).embedding, vector, atol=1e-5)
    assert "pooling 'model'" in encoder.notes[-1] and "3 classes" in spec.notes[-1]
    timm_repository(tmp_path / "bare", 0)
    cached(cache, "timm/bare", tmp_path / "bare", 1)
    assert len(answer(tv.model("hf:timm/bare")).embedding) == 512
