#!/usr/bin/env bash
# At home, after 0_prepare.sh: all steps but the first, with the Python that is carried and its pycuda. TensorRT and the
# driver are stand-ins, which compute on the CPU: what takes too long is cut off, and nano is in tiny's place. First the
# tests that have these stand-ins.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$PWD/out/rehearsal work=$PWD/out/rehearsal/work
rm -rf "$folder"
mkdir -p "$folder"/{carried,shared,tree} "$work"/{logs,site}
git ls-files -z --cached --others --exclude-standard | grep -zv '^samples/nano/model.safetensors$' |
    xargs -0 cp -d --parents -t "$folder/tree"
ln -s "$(realpath ../shared/tensorrt)" "$folder/shared" # what the stand-in for TensorRT is limited to
cp -r out/gpu/[0-9]* out/gpu/{tools,wheels,clips,nano,nano-int8} "$folder/carried"
for name in tiny tiny-narrow tiny-fused; do cp -r out/gpu/nano "$work/$name"; done
cp -r out/gpu/nano-int8 "$work/tiny-int8"
# what the first step leaves
touch "$work/logs"/{pytorch-rows.done,pytorch-rows.log,pytorch.csv,export.done}
cd "$folder/tree"
export SAM2EDGE_GPU_WORK=$work CARRIED=$folder/carried OUT=$folder/out
bash tests/gpu/3_unpack.sh unpack
trt=(env "PYTHONPATH=$PWD/src:$work/site" "$work/trt/trt-python")
"${trt[@]}" -m tests.gpu.real_pycuda "$folder/shim"
export SAM2EDGE_SHIM=1 LD_LIBRARY_PATH=$folder/shim SAM2EDGE_NANO=$work/nano
# one of the two exports a model, which needs PyTorch; in the other TensorRT is missing
"${trt[@]}" -m pytest -q -p no:cacheprovider tests/unit/runtime/backends tests/unit/test_gpu_steps.py \
    -k "not test_every_node_has_a_kernel and not test_a_process_of_a_build_that_dies"
cat > "$work/site/sitecustomize.py" << EOF # which every process begins with
import atexit, sys
sys.path.insert(0, "$PWD")
import pytest
from tests.unit.engines.fake_tensorrt import install
atexit.register(install(pytest.MonkeyPatch(), "8.6.0").gpu.report)
EOF
for step in tests/gpu/[3-7]_*.sh; do bash "$step"; done
