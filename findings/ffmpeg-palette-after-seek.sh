#!/usr/bin/env bash
# Frames of a film with a palette are black once its container was sought, even to its beginning:
# FFmpeg seems to hand the palette over with the first packet, which it reads to find
# out what the streams are: seeking drops that packet, and the palette with it.
#
# Seen with PyAV 18.1.0 (which brings FFmpeg 8), raw video of 8 bits in AVI and QuickTime animation
# in MOV; Microsoft RLE in AVI keeps its palette. Fails once that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "av==18.1.0" "numpy>=2"
cat > "$folder/film.py" <<'PYTHON'
import sys

import av
import numpy as np

path, codec, kind = sys.argv[1:]
values = np.arange(32 * 48, dtype=np.uint8).reshape(32, 48)
ramp = np.arange(256, dtype=np.uint8)
table = np.stack([np.full_like(ramp, 255), ramp, 255 - ramp, np.full_like(ramp, 7)], axis=1)
with av.open(path, "w") as film:
    stream = film.add_stream(codec, rate=5)
    stream.width, stream.height, stream.pix_fmt = 48, 32, kind
    shown = values if kind == "gray" else (values, table)
    for _ in range(3):
        film.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format=kind)))
    film.mux(stream.encode())
for seek in (False, True):
    with av.open(path) as film:
        if seek:
            film.seek(0, stream=film.streams.video[0])
        brightest = next(film.decode(video=0)).to_ndarray(format="rgb24").max()
    print(codec, "sought" if seek else "as opened", "brightest", brightest)
PYTHON

"$folder/venv/bin/pip" list 2>/dev/null | grep -E "^(av|numpy) "
"$folder/venv/bin/python" "$folder/film.py" "$folder/raw.avi" rawvideo pal8 | tee "$folder/told"
"$folder/venv/bin/python" "$folder/film.py" "$folder/animation.mov" qtrle gray | tee -a "$folder/told"
"$folder/venv/bin/python" "$folder/film.py" "$folder/rle.avi" msrle pal8 | tee -a "$folder/told"
grep -q "rawvideo as opened brightest 255" "$folder/told"
grep -q "rawvideo sought brightest 0" "$folder/told"
grep -q "qtrle as opened brightest 255" "$folder/told"
grep -q "qtrle sought brightest 0" "$folder/told"
grep -q "msrle sought brightest 255" "$folder/told"
echo "As described."
