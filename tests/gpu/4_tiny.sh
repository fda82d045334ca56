#!/usr/bin/env bash
# Frame time of tiny for one object with both forms of the attention, against PyTorch; tracking with FP16 engines.
# shellcheck source=tests/gpu/steps.sh
source "$(dirname "$0")/steps.sh"

main() {
    await 110 builds || return 0 # nothing is timed beside builders
    cat "$logs/build-fp16.log"
    run 60 tiny "${trt[@]}" samples/gpu_speed.py "$work/tiny-narrow" "$work/tiny-fused" --objects 1 \
        --rows track stages --pytorch "$logs/pytorch.csv" --csv "$logs/tiny.csv"
    run 70 test-backend "${trt[@]}" -m pytest tests/gpu/test_backend.py -v -s --tb=short -k "not two_trackers"
}

main_or "$@"
