#!/usr/bin/env bash
# GDAL's COG driver makes the overviews of a class map by cubic interpolation unless told otherwise: a
# raster that holds nothing but classes 1 and 9 has overviews with 0, 2, 5, 8 and 10 in them, classes
# that nobody found. Viewers show overviews, and reads at a lower resolution are answered from them.
# With a colour table in the file the driver takes the nearest pixel instead.
#
# Seen with rasterio 1.4.4 (which brings GDAL 3.10.3). Fails once that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "rasterio==1.4.4" "numpy>=2"
cat > "$folder/cog.py" <<'PYTHON'
import sys

import numpy as np
import rasterio
from rasterio.shutil import copy

folder = sys.argv[1]
print("GDAL", rasterio.__gdal_version__)
rows, columns = np.indices((1024, 1024))
classes = np.where((rows // 3 + columns // 5) % 2, 1, 9).astype(np.uint8)
place = {"crs": "EPSG:32617", "transform": rasterio.transform.from_origin(500_000, 3_400_000, 1, 1)}
shape = {"width": 1024, "height": 1024, "count": 1, "dtype": "uint8"}
for name, colours, options in (
    ("plain", None, {}),
    ("nearest", None, {"overview_resampling": "nearest"}),
    ("coloured", {1: (255, 0, 0), 9: (0, 0, 255)}, {}),
):
    with rasterio.open(f"{folder}/{name}.tif", "w", driver="GTiff", **shape, **place) as file:
        file.write(classes, 1)
        if colours:
            file.write_colormap(1, colours)
    copy(f"{folder}/{name}.tif", f"{folder}/{name}-cog.tif", driver="COG", **options)
    with rasterio.open(f"{folder}/{name}-cog.tif") as file:
        whole, half = np.unique(file.read(1)), np.unique(file.read(1, out_shape=(512, 512)))
    print(name, "whole", whole.tolist(), "half", half.tolist())
PYTHON

"$folder/venv/bin/pip" list 2>/dev/null | grep -E "^(rasterio|numpy) "
"$folder/venv/bin/python" "$folder/cog.py" "$folder" | tee "$folder/told"
grep -q "^plain whole \[1, 9\] half \[0, 1, 2, 5, 8, 9, 10\]" "$folder/told"
grep -q "^nearest whole \[1, 9\] half \[1, 9\]" "$folder/told"
grep -q "^coloured whole \[1, 9\] half \[1, 9\]" "$folder/told"
echo "As described."
