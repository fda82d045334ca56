#!/usr/bin/env bash
# Run every test that a GPU changes, a file a process, and print what passed, failed or was skipped, with reasons.
#   tests/gpu/run.sh [PYTHON] [SECONDS]      (of each file at most, 600; README.md beside this says what it needs)
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python} seconds=${2:-600} failed=0
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo "no NVIDIA driver here"
"$python" -m sam2edge.cli doctor
for file in tests/gpu/test_backend.py tests/backend/test_backends.py tests/gpu/test_build.py; do  # FP16, FP32, INT8
    # a line as each test ends: neither a crash nor the time limit takes the others' results along
    timeout -k 10 "$seconds" "$python" -m pytest "$file" -v -s --tb=short
    code=$?
    [ $code -eq 0 ] || { failed=1; echo "$file: exit code $code (124: more than $seconds seconds)"; }
done
exit $failed
