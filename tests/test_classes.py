"""Classes are the model's: one number a class in every file, whatever was found."""

import json

import numpy as np
import pytest
import yaml
from exported import SIZE, Picture
from framework_models import needs, pipeline_folder, yolo

import tilevision as tv
from tilevision.adapters.frameworks.frameworkkind import names_of
from tilevision.analysis.account import categories, class_table
from tilevision.errors import ModelError
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.result import MergeSettings, Result, RunFacts, TileRow

TILE = Tile(0, 0, Box(0, 0, *SIZE))
NAMES = ("car", "ship", "tank")


def result_of(*labels: str, classes: tuple[str | None, ...] = NAMES, numbers=None) -> Result:
    boxes = [(10 * i, 10, 10 * i + 8, 18) for i in range(len(labels))]
    scores = np.linspace(0.9, 0.8, len(labels))
    seen = [TileFindings(TILE, Findings(boxes, scores, labels, numbers))]
    facts = RunFacts("r", "complete", classes=classes)
    return Result(Picture(), [TileRow(0.0, TILE, "done")], seen, MergeSettings(), facts, "a.tif")


def numbers_in_coco(result: Result, path) -> dict[str, int]:
    result.save(path / "a.coco.json")
    listed = json.loads((path / "a.coco.json").read_text())["categories"]
    return {one["name"]: one["id"] for one in listed}


@pytest.mark.parametrize("labels", [("car", "ship"), ("ship",), ("ship", "tank"), ()])
def test_numbers_are_the_models_whatever_was_found(tmp_path, labels) -> None:
    """COCO from 1 on, YOLO and CVAT with all classes of the model, in its order."""
    result = result_of(*labels)
    assert numbers_in_coco(result, tmp_path) == {"car": 1, "ship": 2, "tank": 3}
    folder = result.save(tmp_path / "a.yolo")
    listed = yaml.safe_load((folder / "data.yaml").read_text())["names"]
    assert listed == dict(enumerate(NAMES))
    first = [line.split()[0] for line in (folder / "labels" / "a.txt").read_text().splitlines()]
    assert first == [str(NAMES.index(label)) for label in labels]
    cvat = result.save(tmp_path / "a.cvat.xml").read_text()
    assert [cvat.index(f"<name>{name}</name>") for name in NAMES] == sorted(
        cvat.index(f"<name>{name}</name>") for name in NAMES
    )


@pytest.mark.parametrize("classes", [NAMES, ()])
def test_numbers_do_not_depend_on_filters(tmp_path, classes) -> None:
    """Of one image, with or without a table of the model."""
    result = result_of("car", "ship", classes=classes)
    before = numbers_in_coco(result, tmp_path)
    assert numbers_in_coco(result.with_(classes=["ship"]), tmp_path) == before
    assert result.with_(classes=["ship"]).to_dataframe()["class_id"].tolist() == [1]


def test_labels_that_the_model_does_not_list_follow_behind() -> None:
    """A function may name more than it declared."""
    assert result_of("zebra", "ant", "ship").classes == {
        "car": 0,
        "ship": 1,
        "tank": 2,
        "ant": 3,
        "zebra": 4,
    }


def test_numbers_may_have_gaps() -> None:
    """A table may begin with 1, as COCO's do, and leave numbers out."""
    table = class_table((None, "car", None, "ship"), [])
    assert table == {"car": 1, "ship": 3} == categories(table)


def test_a_number_without_a_name_keeps_its_number() -> None:
    """Names for 1 and 5, and a class 3 that nobody has named: 3 is free, and is its number."""
    result = result_of("a", "class_3", classes=(None, "a", None, None, None, "b"), numbers=[1, 3])
    assert result.classes == {"a": 1, "class_3": 3, "b": 5}


@pytest.mark.parametrize("nothing", ["__background__", "N/A", "background"])
def test_what_names_no_class_is_none(tmp_path, nothing) -> None:
    """Torchvision's tables begin with ``__background__``, DETR's of COCO have ``N/A``: person is 1.

    Listed beside the classes, it would raise all numbers of a COCO file by one.
    """
    result = result_of("cat", classes=(nothing, "person", "cat"), numbers=[2])
    assert result.classes == {"person": 1, "cat": 2}
    assert numbers_in_coco(result, tmp_path) == {"person": 1, "cat": 2}


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"names": ["car", "ship"]}, ("car", "ship")),
        ({"names": {1: "car", 3: "ship"}}, (None, "car", None, "ship")),
        ({}, ()),
    ],
)
def test_a_spec_knows_the_classes_that_were_declared(declared, expected) -> None:
    """From `names=`, as a list or by number."""
    assert tv.model(lambda pixels: [], **declared).classes == expected


def test_class_agnostic_suppression_is_another_model() -> None:
    """What a model with `class_agnostic` answers is stored apart, and it needs `nms`."""

    def find(pixels):
        return []

    plain, agnostic = tv.model(find, nms=0.5), tv.model(find, nms=0.5, class_agnostic=True)
    assert plain.fingerprint != agnostic.fingerprint
    assert tv.model(plain, class_agnostic=True).fingerprint == agnostic.fingerprint
    assert tv.model(find, nms=0.5, class_agnostic=False).fingerprint == plain.fingerprint
    with pytest.raises(ModelError, match=r"give nms=0\.5"):
        tv.model(find, class_agnostic=True)


def test_a_yolo_file_names_its_classes_before_it_is_opened(tmp_path) -> None:
    """A checkpoint of Ultralytics 8 holds ``names`` in its pickle: of a file, and of an object."""
    (torch,) = needs("torch")
    named = {0: "ship", 1: "names", 3: "ship", 70000: "car"}
    torch.save({"note": ["ship", "car"], "names": named, "more": {5: "tank"}}, tmp_path / "a.pt")
    assert names_of(tmp_path / "a.pt") == named
    torch.save({"epoch": 3}, tmp_path / "b.pt")
    assert names_of(tmp_path / "b.pt") == {}


@pytest.mark.slow
def test_classes_of_ultralytics_files_and_objects_are_in_the_table(tmp_path) -> None:
    """As `YOLO(path).names` has them; `names=` goes before, and keys of tiles stay."""
    _, ultralytics = needs("torch", "ultralytics")
    path = yolo(tmp_path)
    live = ultralytics.YOLO(str(path))
    expected = tuple(live.names[i] for i in range(len(live.names)))
    assert tv.model(str(path)).classes == expected
    assert tv.model(live).classes == expected
    named = tv.model(str(path), names={0: "ship"})
    assert named.classes == ("ship", *expected[1:])


@pytest.mark.slow
def test_classes_of_transformers_folders_and_objects_are_in_the_table(tmp_path) -> None:
    """As ``id2label`` of the configuration has them."""
    _, transformers = needs("torch", "transformers")
    path = pipeline_folder(tmp_path)
    made = transformers.pipeline("object-detection", model=str(path))
    labels = made.model.config.id2label
    expected = tuple(labels.get(i) for i in range(max(labels) + 1))
    assert tv.model(str(path)).classes == expected
    assert tv.model(made).classes == expected


def test_the_table_of_a_run_is_printed_once(capsys) -> None:
    """`tilevision run` prints every class of the model with its number, whatever was found."""
    from tilevision.cli.reporting import Printer

    Printer(as_json=False, quiet=False).result(result_of("ship"), [])
    listed = ", ".join(f"{number} {name}" for number, name in enumerate(NAMES))
    assert capsys.readouterr().out.count(f"Class numbers: {listed}.") == 1
    many = tuple(f"kind{number}" for number in range(30))
    Printer(as_json=False, quiet=False).result(result_of("kind7", classes=many), [])
    assert capsys.readouterr().out.rstrip().endswith("19 kind19 and 10 more.")


@pytest.mark.parametrize("stated", [False, True])
def test_all_images_of_a_run_have_one_table(stated) -> None:
    """Of many images: the model's classes, or else those that were found in any."""
    from tilevision.batch.many import Numbering

    numbering = Numbering(stated)
    classes = NAMES if stated else ()
    for label in ("ship", "car"):
        numbering.add(result_of(label, classes=classes))
    found = {name: number for number, name in enumerate(NAMES)}
    assert numbering.table == (found if stated else {"car": 0, "ship": 1})


def test_images_share_the_numbers_of_what_a_model_does_not_list() -> None:
    """An ant in one image and a zebra in the other are not both number 3."""
    from tilevision.batch.many import Numbering

    numbering = Numbering(stated=True)
    first = numbering.add(result_of("zebra", "ship"))
    second = numbering.add(result_of("ant"))
    listed = {name: number for number, name in enumerate(NAMES)}
    assert first.classes == listed | {"zebra": 3}
    assert second.classes == numbering.table == listed | {"ant": 3, "zebra": 4}
    assert numbering.placed(first).classes == numbering.table
