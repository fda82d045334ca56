#!/usr/bin/env bash
# If 6 minutes are left after all steps: large, or another SIZE, against its bar; then tiny against compiled PyTorch.
# shellcheck source=tests/gpu/steps.sh
source "$(dirname "$0")/steps.sh"

size=${SIZE:-large}

main() {
    run 30 "random-$size" "${torch[@]}" -m tests.models "$size" 1024 "$work/$size-source"
    run 90 "export-$size" "${torch[@]}" -m sam2edge export "$work/$size-source" "$work/$size"
    run 200 "build-$size" "${trt[@]}" -m tests.gpu.build "$logs/$size" "$work/$size,fp16,objects=1,prompts=1"
    run 30 "$size" "${trt[@]}" samples/gpu_speed.py "$work/$size" --objects 1 --rows track stages \
        --csv "$logs/$size.csv"
    run 120 compiled "${torch[@]}" samples/gpu_speed.py --source "$work/tiny-source" --image-size 1024 --compile \
        --objects 1 --frames 60 --csv "$logs/compiled.csv"
    run 20 tiny-compiled "${trt[@]}" samples/gpu_speed.py "$work/tiny-fused" --objects 1 --rows track \
        --pytorch "$logs/compiled.csv"
}

main_or "$@"
