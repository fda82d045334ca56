#!/usr/bin/env bash
# Run every test that a GPU changes and print a table of what passed, failed or was skipped, with reasons.
#   tests/gpu/run.sh [PYTHON]      (needs pycuda, TensorRT, onnx; for onnx-cuda onnxruntime-gpu in place of onnxruntime)
# Without PyTorch there, export samples/nano elsewhere and give the bundle as SAM2EDGE_NANO.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python}
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo "no NVIDIA driver here"
"$python" -m sam2edge.cli doctor
"$python" -m pytest tests/backend tests/gpu -rA --tb=short -q
