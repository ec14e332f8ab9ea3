"""What a notebook shows of a value: readable, bounded, and never obeyed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import tilevision as tv
from tilevision.findings import Findings

HOSTILE = ["<script>window.x=1</script>", "<img src=x onerror=alert(1)>", "y" * 10_000, "a&b"]
TAGS = {"div", "p", "strong", "b", "pre", "table", "thead", "tbody", "tr", "td", "th", "bdi"}


def _model(pixels: np.ndarray) -> Any:
    """Find things with hostile names."""
    return [
        {"xmin": 9 * i, "ymin": 1, "xmax": 9 * i + 8, "ymax": 9, "label": label, "score": 0.9}
        for i, label in enumerate(HOSTILE)
    ]


def _tags(html: str) -> set[str]:
    return set(re.findall(r"<\s*(\w+)", html))


def test_findings_are_shown_by_class_as_text() -> None:
    """The most frequent first, with counts; a thousand classes are not all listed."""
    n = 1000
    labels = [*HOSTILE, *(f"class {i}" for i in range(n - 4)), "a&b"]
    html = Findings(np.tile([0, 0, 5, 5], (n + 1, 1)), labels=labels)._repr_html_()
    assert "1,001 detections" in html and "990 more classes" in html
    assert html.index("a&amp;b") < html.index("class ")
    assert _tags(html) <= TAGS and len(html) < 3000
    assert "0 detections" in Findings()._repr_html_()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster", "elsewhere")
def test_plan_run_and_result_are_shown_as_text() -> None:
    """Whatever a file or a model is called, it is no markup."""
    from PIL import Image

    name = "<img src=x onerror=alert(1)>.png"
    Image.new("RGB", (90, 60)).save(name)
    shown = [tv.plan(name, _model, grid="2x3")]
    shown.append(tv.start(name, _model, grid="2x3"))
    shown.append(shown[1].result(200))
    shown.append(shown[2].findings)
    for value in shown:
        html = value._repr_html_()
        assert _tags(html) <= TAGS, html
        assert len(html) < 5000
