#!/usr/bin/env bash
# Carry tiny-int8. Engines for 8 objects, INT8, and FP32 of nano; in the background, so that a call does not end them.
# shellcheck source=tests/gpu/steps.sh
source "$(dirname "$0")/steps.sh"

main() {
    background others
    await 120 others || return 0
    cat "$logs/build-others.log"
}

others() {
    # kernels are chosen for the usual number
    local eight=objects=8,usual_objects=8,prompts=8
    run 260 build-others "${trt[@]}" -m tests.gpu.build "$logs/other" "$work/nano,fp32,images=3" "$work/nano-int8,int8" \
        "$work/tiny,fp16,$eight,attention=fused" "$work/tiny-int8,int8,$eight,attention=fused"
    done_with others
}

main_or "$@"
