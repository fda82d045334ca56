#!/usr/bin/env bash
# INT8 against FP16, and both against FP32; memory over 2,000 frames.
# shellcheck source=tests/gpu/steps.sh
source "$(dirname "$0")/steps.sh"

main() {
    run 25 int8-stages "${trt[@]}" samples/gpu_speed.py "$work/tiny" "$work/tiny-int8" --rows stages \
        --csv "$logs/int8.csv"
    run 30 memory "${trt[@]}" samples/gpu_speed.py "$work/tiny-fused" --rows memory --csv "$logs/memory.csv"
    verify bundled samples/clip.mp4 samples/clip_masks.npz
    verify unseen-0 "$work/clips/unseen-0.mp4" "$work/clips/unseen-0.npz"
    verify unseen-1 "$work/clips/unseen-1.mp4" "$work/clips/unseen-1.npz"
    run 5 bars "${trt[@]}" -m tests.gpu.bars "$work"/reports/*/report.json
}

# verify NAME CLIP TRUTH: every engine of nano against its FP32 on the CPU
verify() {
    run 15 "verify-$1" "${trt[@]}" -m sam2edge verify "$work/nano" --candidate "$work/nano-int8" \
        --clip "$2" --truth "$3" --frames 60 --report "$work/reports/$1" --backend onnx
}

main_or "$@"
