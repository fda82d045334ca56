"""Ask both models of a Triton server for a mask: `python3 -m sam2edge.serving.probe [HOST:PORT]`, of HTTP.

Triton calls a model ready, and live, whose Python process has died. So the probes of deploy/triton.yaml infer. The
stream that this sends has one request only, which is served beyond the limit on streams, too.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request

SECONDS = 30
"""How long an answer may take."""
_REQUEST = {
    "inputs": [
        {"name": "FRAME", "shape": [2, 2, 3], "datatype": "UINT8", "data": [0] * 12},
        {"name": "PROMPTS", "shape": [1], "datatype": "BYTES", "data": ['{"points": [[1, 1]]}']},
    ],
    "outputs": [{"name": "IDS"}],
}


def main(address: str = "127.0.0.1:8000") -> int:
    """Return 0 if both models answer with an object, else 1; the reason goes to the standard error."""
    stream = {"sequence_id": f"probe-{os.getpid()}", "sequence_start": True, "sequence_end": True}
    for model, parameters in (("sam2_image", {}), ("sam2_video", stream)):
        body = json.dumps({"parameters": parameters, **_REQUEST}).encode()
        try:
            with urllib.request.urlopen(f"http://{address}/v2/models/{model}/infer", body, SECONDS) as answer:
                found = json.load(answer)["outputs"][0]["data"]
        except urllib.error.HTTPError as error:
            found = error.read().decode(errors="replace")
        except OSError as error:
            found = str(error)
        if found != [1]:
            print(f"{model} at {address}: {found}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
