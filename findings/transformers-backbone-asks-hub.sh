#!/usr/bin/env bash
# Merely constructing DetrConfig(backbone="owner/repository") asks the Hugging Face Hub for that
# repository: transformers turns the name of a backbone into its configuration, which it downloads,
# weights wanted or not. Without a network the constructor raises, where older versions kept the name.
#
# Seen with transformers 5.24.0, asking a server of our own. Fails once that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "transformers==5.24.0"
cat > "$folder/ask.py" <<'PYTHON'
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

asked = []


class Hub(BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": sys.argv[1]}

from transformers import DetrConfig

for given in ({}, {"backbone": "microsoft/resnet-50", "use_pretrained_backbone": False}):
    asked.clear()
    try:
        DetrConfig(use_timm_backbone=False, **given)
        said = "made"
    except Exception as error:
        said = type(error).__name__
    about = sorted({path for path in asked if "resnet" in path})
    print(f"DetrConfig({given}): {said}, asked for {about}")
PYTHON

"$folder/venv/bin/pip" list 2>/dev/null | grep -E "^transformers "
"$folder/venv/bin/python" "$folder/ask.py" "$folder/cache" 2> "$folder/log" | tee "$folder/told"
grep -q "DetrConfig({}): made, asked for \[\]" "$folder/told"
grep -q "asked for \['/.*microsoft/resnet-50" "$folder/told"
echo "As described."
