"""Class names and key points of YOLO labels, as the files beside them state them."""

import importlib.util
from pathlib import Path

import pytest
import yaml

from tilevision.errors import SourceError
from tilevision.evaluation import read_truth

SIZE = (400, 300)


def labels_of(folder: Path, count: int) -> list[str]:
    """Return the names that one box of each class number is given."""
    lines = [f"{number} 0.5 0.5 0.1 0.1" for number in range(count)]
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    (folder / "labels" / "a.txt").write_text("\n".join(lines) + "\n")
    return sorted(read_truth(folder, "a.png", size=SIZE).labels)


def test_descriptions_of_public_data_sets_are_read_as_yaml(tmp_path: Path) -> None:
    """All that Ultralytics ships: key points, ignored labels and scripts stand beside names.

    The first class of each pose data set was called like its first key point.
    """
    spec = importlib.util.find_spec("ultralytics")
    if spec is None or spec.origin is None:
        pytest.skip("Ultralytics is not installed")
    files = sorted((Path(spec.origin).parent / "cfg" / "datasets").glob("*.yaml"))
    names = {file: yaml.safe_load(file.read_text("utf-8")).get("names") for file in files}
    listed = {file: named for file, named in names.items() if named}
    assert len(listed) > 20
    for file, named in listed.items():
        (tmp_path / "data.yaml").write_bytes(file.read_bytes())
        right = named.values() if isinstance(named, dict) else named
        assert labels_of(tmp_path, len(named)) == sorted(map(str, right)), file.name


@pytest.mark.parametrize(
    "text",
    [
        "train:\n  - images/a\n  - images/b\nnames:\n  - tree\n  - car\n",
        "names: {0: tree, 1: car}\n",
        "names:\n  0: tree  # and bushes\n  1: car\nkpt_names:\n  0:\n    - root\n",
        'names: ["tree", "car"]\n',
        "names:\n- tree\n- car\nflip_idx:\n- 1\n- 0\n",
        "names: &n [tree, car]\nother: *n\n",
    ],
)
def test_names_may_be_written_as_yaml_allows(tmp_path: Path, text: str) -> None:
    """Lists and mappings in any style, among other lists; comments are no part of a name."""
    (tmp_path / "data.yaml").write_text(text)
    assert labels_of(tmp_path, 2) == ["car", "tree"]


def test_a_name_may_have_a_comma(tmp_path: Path) -> None:
    """Quoted, as YAML has it."""
    (tmp_path / "data.yaml").write_text('names: ["tree, dead", car]\n')
    assert labels_of(tmp_path, 2) == ["car", "tree, dead"]


def test_key_points_may_be_a_list_of_lines(tmp_path: Path) -> None:
    """Two hidden key points look like an outline of five corners, unless ``kpt_shape`` says so."""
    (tmp_path / "data.yaml").write_text("names: [a]\nkpt_shape:\n  - 2\n  - 3\n")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.2 0.2 0.45 0.45 1 0.55 0.55 1\n")
    found = read_truth(tmp_path / "a.txt", size=SIZE)
    assert found.polygons is None
    assert found.boxes[0].tolist() == pytest.approx([160, 120, 240, 180])


@pytest.mark.parametrize("name", ["classes.txt", "obj.names"])
def test_names_may_be_lines_of_a_file(tmp_path: Path, name: str) -> None:
    """LabelImg's ``classes.txt`` beside the labels, Darknet's and CVAT's ``obj.names`` above."""
    (tmp_path / "labels").mkdir()
    place = tmp_path / "labels" if name == "classes.txt" else tmp_path
    (place / name).write_text("tree\ncar\n\n")
    assert labels_of(tmp_path, 2) == ["car", "tree"]
    (tmp_path / "data.yaml").write_text("names: [oak, bus]\n")
    assert labels_of(tmp_path, 2) == ["bus", "oak"]


def test_a_damaged_description_is_one_line(tmp_path: Path) -> None:
    """It names the file, instead of names that are not its."""
    (tmp_path / "data.yaml").write_text("names: [tree, car\n")
    with pytest.raises(SourceError, match=r"data\.yaml is no YAML .*correct it there") as error:
        labels_of(tmp_path, 2)
    assert "\n" not in str(error.value)
