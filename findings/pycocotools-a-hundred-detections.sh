#!/usr/bin/env bash
# A perfect answer gets an AP of 0.34: COCO's evaluation looks at the 100 best detections of each image
# and class, and an aerial scene or a slide has thousands. No warning says so; nothing in the twelve
# numbers is 1. maxDets raises the limit, but `summarize` prints -1 as the AP unless its last value is 100.
#
# Seen with pycocotools 2.0.11, 300 objects that are found exactly. Fails once that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "pycocotools==2.0.11" "numpy>=2"
cat > "$folder/ap.py" <<'PYTHON'
import contextlib
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

boxes = [[i % 20 * 30, i // 20 * 30, 20, 20] for i in range(300)]
one = {"image_id": 1, "category_id": 1, "area": 400, "iscrowd": 0}
truth = COCO()
truth.dataset = {
    "images": [{"id": 1, "width": 1000, "height": 1000}],
    "categories": [{"id": 1, "name": "tree"}],
    "annotations": [{"id": i + 1, "bbox": box, **one} for i, box in enumerate(boxes)],
}
with contextlib.redirect_stdout(io.StringIO()):
    truth.createIndex()
    found = truth.loadRes([{**one, "bbox": box, "score": 1.0} for box in boxes])
for limits in ([1, 10, 100], [1, 10, 1000]):
    with contextlib.redirect_stdout(io.StringIO()):
        scored = COCOeval(truth, found, "bbox")
        scored.params.maxDets = limits
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    precision = scored.eval["precision"][:, :, 0, 0, -1].mean()
    print("maxDets", limits[-1], f"AP {scored.stats[0]:.2f} mean precision {precision:.2f}")
PYTHON

"$folder/venv/bin/pip" list 2>/dev/null | grep -E "^(pycocotools|numpy) "
"$folder/venv/bin/python" "$folder/ap.py" | tee "$folder/told"
grep -q "maxDets 100 AP 0.34" "$folder/told"
grep -q "maxDets 1000 AP -1.00 mean precision 1.00" "$folder/told"
echo "As described."
