#!/usr/bin/env bash
# All backends alike, 8 objects, 720p; last what TensorRT 8.6 may end in an illegal memory access: two trackers at once.
# shellcheck source=tests/gpu/steps.sh
source "$(dirname "$0")/steps.sh"

main() {
    await 5 others || return 0
    run 30 test-backends "${trt[@]}" -m pytest tests/backend -v --tb=short -k "tensorrt and not rtx"
    run 30 eight "${trt[@]}" samples/gpu_speed.py "$work/tiny" --objects 8 --rows track stages \
        --pytorch "$logs/pytorch.csv" --csv "$logs/eight.csv"
    run 20 720p "${trt[@]}" samples/gpu_speed.py "$work/tiny-fused" --objects 1 --rows track \
        --clip "$work/clips/720p.mp4" --csv "$logs/720p.csv"
    run 15 two-trackers "${trt[@]}" -m pytest tests/gpu/test_backend.py -v --tb=short -k two_trackers
}

main_or "$@"
