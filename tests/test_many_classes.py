"""Class numbers are one for all images of a batch, though the model names none beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

import tilevision as tv

# Grey value of an image, and what is found in it.
FOUND = {20: [], 40: ["ship"], 80: ["car", "ship"], 120: ["zebra", "ant"]}
NUMBERS = {"ship": 7, "car": 3, "zebra": 9, "ant": 1}


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for value in FOUND:
        Image.fromarray(np.full((64, 64, 3), value, np.uint8)).save(f"p{value}.png")
    return [f"p{value}.png" for value in FOUND]


def by_name(pixels: Any) -> Any:
    """Find what belongs to the picture's grey value, by name alone."""
    return [
        {"box": (4 + 20 * i, 4, 20 + 20 * i, 20), "score": 0.9, "label": label}
        for i, label in enumerate(FOUND[int(pixels[0, 0, 0])])
    ]


def by_number(pixels: Any) -> Any:
    """Find the same, with the numbers of a model."""
    return [row | {"class_id": NUMBERS[row["label"]]} for row in by_name(pixels)]


@pytest.mark.parametrize("model", [by_name, by_number])
@pytest.mark.parametrize("checkpoint", [None, "kept"])
@pytest.mark.usefixtures("cluster")
def test_files_of_all_images_number_classes_alike(pictures, model, checkpoint) -> None:
    """COCO and YOLO of each image: a class has one number in all of them, and the batch too."""
    names: dict[int, set[str]] = {}
    listed = []
    for form in ("coco", "yolo", "cvat"):
        batch = tv.analyze_many(
            pictures, model, grid=(1, 1), out_dir=form, out_format=form, checkpoint=checkpoint
        )
        tables = [one.classes for one in batch.values()]
        assert all(one == tables[0] for one in tables) and set(tables[0]) == set(NUMBERS)
        if model is by_number:
            assert tables[0] == NUMBERS
    for file in sorted(Path("coco").glob("*.coco.json")):
        data = json.loads(file.read_text())
        listed.append(data["categories"])
        for one in data["categories"]:
            names.setdefault(one["id"], set()).add(one["name"])
        assert {row["category_id"] for row in data["annotations"]} <= set(names)
    assert all(len(one) == 1 for one in names.values()) and len(names) == 4
    assert len(listed) == 4 and all(one == listed[0] for one in listed)
    shown = [
        [label.findtext("name") for label in ElementTree.parse(one).iter("label")]
        for one in Path("cvat").glob("*.xml")
    ]
    assert len(shown) == 4 and all(one == shown[0] for one in shown) and len(shown[0]) == 4
    listed = [yaml.safe_load(one.read_text())["names"] for one in Path("yolo").glob("*/data.yaml")]
    assert len(listed) == 4 and all(one == listed[0] for one in listed)
