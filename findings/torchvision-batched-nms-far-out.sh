#!/usr/bin/env bash
# torchvision.ops.batched_nms keeps boxes that nms of one class at a time drops, where coordinates are
# large: up to 1,000 boxes on a CPU it moves each class by its number times the largest coordinate and
# runs one nms on all, in float32, whose steps there are wider than the overlap that decides. With COCO's
# 80 classes it begins at about 50,000 pixels from the corner of an image, with LVIS's 1,203 far earlier.
#
# Seen with torchvision 0.29.1 on a CPU, boxes of 16 px, all of one class. Fails once that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torchvision==0.29.1" "numpy>=2"
cat > "$folder/nms.py" <<'PYTHON'
import torch
from torchvision.ops import batched_nms, nms

torch.manual_seed(1)
for corner, number in ((1_000, 79), (100_000, 79), (20_000, 1202)):
    left = torch.arange(300).float() * 12.7 + corner
    top = torch.full((300,), float(corner))
    boxes = torch.stack([left, top, left + 16, top + 16], 1)
    boxes = torch.cat([boxes, boxes + torch.tensor([6.0, 0, 6.0, 0])])
    scores = torch.rand(600)
    alone = set(nms(boxes, scores, 0.4).tolist())
    batched = set(batched_nms(boxes, scores, torch.full((600,), number), 0.4).tolist())
    same = "same" if alone == batched else "different"
    print(f"{corner} px class {number}: nms {len(alone)} batched_nms {len(batched)} {same}")
PYTHON

"$folder/venv/bin/pip" list 2>/dev/null | grep -E "^(torch|torchvision) "
"$folder/venv/bin/python" "$folder/nms.py" | tee "$folder/told"
grep -q "^1000 px class 79: .* same" "$folder/told"
grep -q "^100000 px class 79: .* different" "$folder/told"
grep -q "^20000 px class 1202: .* different" "$folder/told"
echo "As described."
