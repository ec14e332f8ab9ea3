#!/usr/bin/env bash
# Pillow takes the fourth component of any JPEG 2000 for opacity, also where the file does not say so (in
# its box cdef): red, green, blue and near infrared become RGBA. Converted or laid over white, the picture
# is mixed by how much infrared there is.
#
# Seen with Pillow 13.0.0 (OpenJPEG 2.5.4), a file written by imagecodecs. GDAL calls the same band
# undefined. Fails once that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "pillow==13.0.0" "imagecodecs==2026.3.6" "rasterio==1.4.4" "numpy>=2"
cat > "$folder/bands.py" <<'PYTHON'
import warnings

import imagecodecs
import numpy as np
import rasterio
from PIL import Image

warnings.simplefilter("ignore")
bands = np.zeros((64, 64, 4), np.uint8)
bands[...] = 200, 100, 50, 64  # near infrared last
space = imagecodecs.JPEG2K.CLRSPC.SRGB
coded = imagecodecs.jpeg2k_encode(bands, colorspace=space, level=0, mct=False, codecformat="jp2")
with open("a.jp2", "wb") as file:
    file.write(coded)
print("says what is opacity:", b"cdef" in coded)
with rasterio.open("a.jp2") as dataset:
    print("gdal", *(kind.name for kind in dataset.colorinterp))
picture = Image.open("a.jp2")
white = Image.new("RGBA", picture.size, "white")
shown = Image.alpha_composite(white, picture.convert("RGBA"))
print("pillow", picture.mode, "over white", shown.getpixel((0, 0))[:3])
PYTHON

"$folder/venv/bin/pip" list 2>/dev/null | grep -iE "^(pillow|imagecodecs|rasterio) "
(cd "$folder" && venv/bin/python bands.py) | tee "$folder/told"
grep -q "^says what is opacity: False" "$folder/told"
grep -q "^gdal red green blue undefined" "$folder/told"
grep -q "^pillow RGBA over white (241, 216, 204)" "$folder/told"
echo "As described."
