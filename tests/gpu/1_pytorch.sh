#!/usr/bin/env bash
# Carry the first part. While the others follow, the machine's own Python times PyTorch on the idle GPU, and then exports.
# shellcheck source=tests/gpu/steps.sh
source "$(dirname "$0")/steps.sh"

main() {
    run 5 card nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    background pytorch
}

pytorch() {
    run 60 random-tiny "${torch[@]}" -m tests.models tiny 1024 "$work/tiny-source"
    run 120 pytorch-rows "${torch[@]}" samples/gpu_speed.py --source "$work/tiny-source" --image-size 1024 \
        --objects 1 8 --frames 60 --csv "$logs/pytorch.csv"
    done_with pytorch-rows
    run 180 export "${torch[@]}" -m sam2edge export "$work/tiny-source" "$work/tiny"
    # one bundle for each set of engines: they are beside it
    cp -r "$work/tiny" "$work/tiny-narrow"
    cp -r "$work/tiny" "$work/tiny-fused"
    done_with export
}

main_or "$@"
