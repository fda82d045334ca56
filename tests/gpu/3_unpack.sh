#!/usr/bin/env bash
# Carry the last part. Unpack, ask what no stand-in can answer, and begin to build.
# shellcheck source=tests/gpu/steps.sh
source "$(dirname "$0")/steps.sh"

main() {
    if [ ! -e "$logs/unpack.done" ]; then run 35 unpack bash "$script" unpack; fi
    [ -e "$logs/unpack.done" ] || return 0
    run 15 doctor "${trt[@]}" -m sam2edge doctor
    await 20 pytorch-rows || return 0 # until then the GPU is PyTorch's
    cat "$logs/pytorch-rows.log"
    run 50 smoke "${trt[@]}" -m tests.gpu.smoke "$work/nano" "$logs/smoke"
    background builds
}

unpack() {
    # shellcheck disable=SC2046,SC2012  # in the order of their numbers, which have no spaces
    cat $(ls -v "$work"/[0-9]*/part) > "$work/trt.tar" &&
        bash "$work/tools/unpack.sh" "$work/trt.tar" "$work/trt" &&
        for wheel in "$work"/wheels/*.whl; do "${trt[@]}" -m zipfile -e "$wheel" "$work/site" || return; done &&
        rm "$work/trt.tar" &&
        done_with unpack
}

builds() {
    await 120 export
    # images=3: as tests/gpu/small.py has it
    run 260 build-fp16 "${trt[@]}" -m tests.gpu.build "$logs/fp16" "$work/nano,fp16,images=3" \
        "$work/tiny-narrow,fp16,objects=1,prompts=1,attention=narrow" \
        "$work/tiny-fused,fp16,objects=1,prompts=1,attention=fused"
    done_with builds
}

main_or "$@"
