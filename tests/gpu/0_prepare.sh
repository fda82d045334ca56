#!/usr/bin/env bash
# On the machine at home, without a GPU: make what is carried, in out/gpu. Python is that of `make setup`, 3.10 pip's.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
mkdir -p out/gpu
if [ ! -d out/gpu/1 ]; then python3 ../shared/tensorrt/pack.py "$PWD/out/gpu"; fi
# what the runtime that pack.py packs lacks: for builds, and for the tests
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.10 -d out/gpu/wheels \
    onnx ml_dtypes filelock pillow
"$python" -m tests.gpu.clips out/gpu/clips
"$python" -m sam2edge export samples/nano out/gpu/nano
"$python" -m sam2edge calibrate out/gpu/nano out/gpu/nano-int8 --clip samples/clip.mp4 \
    --box 1:101,47,176,122 --box 2:220,18,305,103 --box 3:205,138,297,226
if [ ! -d out/gpu/tiny-int8 ]; then
    "$python" -m tests.models tiny 1024 out/tiny-source
    "$python" -m sam2edge export out/tiny-source out/tiny-1024
    # weights are random: only its time says anything
    "$python" -m sam2edge calibrate out/tiny-1024 out/gpu/tiny-int8 --clip out/gpu/clips/short.mp4 \
        --box 101,47,176,122 --no-gate
fi
du -sm out/gpu/*
echo "the tree itself: $(git ls-files -z | xargs -0 du -cm | tail -n 1)"
