"""Which file of a folder is the truth of an image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tilevision.errors import SourceError
from tilevision.evaluation import read_truth

SIZE = (80, 60)
CENTRE, CORNER = "0 0.5 0.5 0.1 0.1\n", "0 0.1 0.1 0.1 0.1\n"


def box_in(folder: Path, name: str) -> list[list[float]]:
    return read_truth(folder, name, size=SIZE).boxes.round(2).tolist()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_grey_picture_beside_its_labels_is_no_mask(tmp_path: Path, suffix: str) -> None:
    """As LabelImg and Darknet lay them: the picture's grey patches were taken for the truth."""
    grey = np.zeros((60, 80), np.uint8)
    grey[10:20, 10:30], grey[30:50, 40:70] = 120, 200
    Image.fromarray(grey).save(tmp_path / f"a{suffix}")
    (tmp_path / "a.txt").write_text(CENTRE)
    assert box_in(tmp_path, f"a{suffix}") == [[36, 27, 44, 33]]
    (tmp_path / "a.txt").unlink()  # then it is a folder of masks
    assert len(box_in(tmp_path, f"a{suffix}")) == 2


def test_images_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    """By the folder of the image where it is known; else it is refused, where the first counted."""
    for name, line in (("train", CENTRE), ("val", CORNER)):
        (tmp_path / "labels" / name).mkdir(parents=True)
        (tmp_path / "labels" / name / "a.txt").write_text(line)
    with pytest.raises(SourceError, match=r"several files named like 'a\.png' \(labels/train/a"):
        box_in(tmp_path, "a.png")
    assert box_in(tmp_path, "images/val/a.png") == [[4, 3, 12, 9]]
    assert box_in(tmp_path / "labels" / "val", "a.png") == [[4, 3, 12, 9]]


def test_a_longer_name_is_another_image(tmp_path: Path) -> None:
    """``scan.1.txt`` is of ``scan.1.png``; what `save` names by its format is of the image."""
    (tmp_path / "scan.1.txt").write_text(CORNER)
    with pytest.raises(SourceError, match=r"no labels named like 'scan\.png'"):
        box_in(tmp_path, "scan.png")
    (tmp_path / "scan.txt").write_text(CENTRE)
    assert box_in(tmp_path, "scan.png") == [[36, 27, 44, 33]]
    assert box_in(tmp_path, "scan.1.png") == [[4, 3, 12, 9]]
    (tmp_path / "scan.coco.json").write_text('{"images": [], "annotations": []}')
    (tmp_path / "scan.txt").unlink()
    assert box_in(tmp_path, "scan.png") == []
