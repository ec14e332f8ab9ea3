"""Small models of each framework, made and saved by the tests; nothing is downloaded."""

from __future__ import annotations

import importlib
import importlib.util
import json
import types
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OPERATORS = Path(__file__).parent / "torchvision_operators"


def needs(*names: str) -> list[Any]:
    """Return libraries, or skip the test where one is missing or does not work."""
    _operators()
    found = []
    for name in names:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
        found.append(importlib.import_module(name))
    return found


@cache
def _operators() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("operators", OPERATORS / "sitecustomize.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def red_and_blue() -> np.ndarray:
    """A grey picture (90, 120, 3) with a red rectangle to the left and a blue one to the right."""
    picture = np.full((90, 120, 3), 120, np.uint8)
    picture[20:50, 10:40] = (230, 20, 20)
    picture[40:80, 70:110] = (20, 20, 230)
    return picture


def red_finder(form: str = "list", masks: bool = False) -> Any:
    """A network in torchvision's form that finds red, and nothing that is blue."""
    from red_finders import Batch, Masked, Red

    return {"list": Masked if masks else Red, "batch": Batch}[form]()


def enliven(network: Any) -> None:
    """Give a network random weights that let something of the picture arrive at its end."""
    (torch,) = needs("torch")
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.weight.requires_grad:
            torch.nn.init.kaiming_normal_(layer.weight)


def yolo(folder: Path, kind: str = "yolov8n") -> Path:
    """A YOLO with random weights in a file, saved as Ultralytics does."""
    torch, ultralytics = needs("torch", "ultralytics")
    torch.manual_seed(1)
    path = folder / f"{kind}.pt"
    model = ultralytics.YOLO(f"{kind}.yaml", verbose=False)
    enliven(model.model)
    model.save(path)
    return path


def pipeline_folder(folder: Path, task: str = "object-detection") -> Path:
    """A network of transformers with random weights and its image processor, in a folder."""
    torch, transformers = needs("torch", "transformers")
    torch.manual_seed(2)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    path = folder / task
    if task == "object-detection":
        config = transformers.YolosConfig(
            **sizes, image_size=[64, 64], num_detection_tokens=6, id2label={0: "cat", 1: "dog"}
        )
        config.label2id = {"cat": 0, "dog": 1}
        transformers.YolosForObjectDetection(config).save_pretrained(path)
        size = {"shortest_edge": 64, "longest_edge": 128}
        transformers.YolosImageProcessor(size=size).save_pretrained(path)
    elif task == "image-classification":
        config = transformers.ViTConfig(
            **sizes, image_size=32, patch_size=8, id2label={0: "red", 1: "blue", 2: "grey"}
        )
        transformers.ViTForImageClassification(config).save_pretrained(path)
        size = {"height": 32, "width": 32}
        transformers.ViTImageProcessor(size=size).save_pretrained(path)
    elif task == "image-segmentation":
        backbone = transformers.SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], image_size=64, window_size=2,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )  # fmt: skip
        config = transformers.MaskFormerConfig(
            backbone_config=backbone,
            fpn_feature_size=32,
            mask_feature_size=32,
            decoder_config=transformers.DetrConfig(
                d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
                decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
                num_queries=5, use_timm_backbone=False, backbone_config=backbone,
                backbone=None, use_pretrained_backbone=False,
            ),
            num_labels=2,
        )  # fmt: skip
        transformers.MaskFormerForInstanceSegmentation(config).save_pretrained(path)
        size = {"height": 64, "width": 64}
        transformers.MaskFormerImageProcessor(size=size).save_pretrained(path)
    else:
        _owl(transformers, path)
    return path


def _owl(transformers: Any, path: Path) -> None:
    path.mkdir(parents=True)
    letters = [chr(number) for number in range(97, 123)]
    words = ["!", "<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    (path / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"))
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    config = transformers.OwlViTConfig(
        text_config={**sizes, "vocab_size": len(words), "eos_token_id": 2, "bos_token_id": 1},
        vision_config={**sizes, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )
    transformers.OwlViTForObjectDetection(config).save_pretrained(path)
    images = transformers.OwlViTImageProcessor(size={"height": 64, "width": 64})
    tokenizer.save_pretrained(path)
    images.save_pretrained(path)
