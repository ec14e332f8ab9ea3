#!/usr/bin/env bash
# GDAL tells once that a file of a VRT cannot be read, and reads zeros from then on: the second attempt at
# a window succeeds and is black, by a dataset that is opened anew as well, and also once the file is there
# again, as long as any other VRT is open in the process. Whoever retries after a failure of a disk or a
# share that passes gets pixels that are not in the file.
#
# Seen with rasterio 1.4.4 (GDAL 3.10.3). Fails once that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "rasterio==1.4.4" "numpy>=2"
cat > "$folder/away.py" <<'PYTHON'
import os
import warnings

import numpy as np
import rasterio

warnings.simplefilter("ignore")
TEXT = """<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1">
<SimpleSource><SourceFilename relativeToVRT="1">%s.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>
</VRTRasterBand></VRTDataset>"""
size = {"width": 8, "height": 8, "count": 1, "dtype": "uint8"}
for name, value in (("other", 1), ("scene", 50)):
    with rasterio.open(name + ".tif", "w", driver="GTiff", **size) as dataset:
        dataset.write(np.full((1, 8, 8), value, np.uint8))
    with open(name + ".vrt", "w") as file:
        file.write(TEXT % name)


def attempt(what):
    with rasterio.open("scene.vrt", sharing=False) as dataset:
        try:
            print(what, dataset.read().mean())
        except rasterio.errors.RasterioIOError:
            print(what, "error")


other = rasterio.open("other.vrt", sharing=False)
print("another VRT", other.read().mean())
os.rename("scene.tif", "away.tif")
attempt("first attempt")
attempt("second attempt")
os.rename("away.tif", "scene.tif")
attempt("the file is back")
PYTHON

"$folder/venv/bin/pip" list 2>/dev/null | grep -E "^(rasterio|numpy) "
(cd "$folder" && venv/bin/python away.py 2>/dev/null) | tee "$folder/told"
grep -q "^first attempt error" "$folder/told"
grep -q "^second attempt 0.0" "$folder/told"
grep -q "^the file is back 0.0" "$folder/told"
echo "As described."
