#!/usr/bin/env bash
# Pillow clips 16-bit pictures when it converts them: convert("L") and convert("RGB") keep the numbers up
# to 255 and make all others white, where one expects the range to be scaled. A 12- or 16-bit scan, or a
# Sentinel band, becomes a white page without a warning, and a model that takes RGB finds nothing on it.
#
# Seen with Pillow 13.0.0, mode I;16. Fails once that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "pillow==13.0.0" "numpy>=2"
cat > "$folder/white.py" <<'PYTHON'
import numpy as np
from PIL import Image

values = np.array([[100, 300, 5000, 65535]], dtype=np.uint16)
picture = Image.fromarray(values)
print("mode", picture.mode)
for mode in ("L", "RGB"):
    print(mode, np.asarray(picture.convert(mode)).reshape(4, -1)[:, 0].tolist())
PYTHON

"$folder/venv/bin/pip" list 2>/dev/null | grep -E "^(pillow|numpy) "
"$folder/venv/bin/python" "$folder/white.py" | tee "$folder/told"
grep -q "mode I;16" "$folder/told"
grep -q "^L \[100, 255, 255, 255\]" "$folder/told"
grep -q "^RGB \[100, 255, 255, 255\]" "$folder/told"
echo "As described."
