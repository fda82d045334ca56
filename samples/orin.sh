#!/usr/bin/env bash
# From a checkpoint to engines for a Jetson Orin. The first half runs anywhere with "sam2edge[export]", the second on
# the Orin itself: engines are built on the GPU that runs them. No Orin was there to try the second half on.
#
#     samples/orin.sh SOURCE CLIP BOX OUT      samples/orin.sh samples/nano samples/clip.mp4 101,47,176,122 out/orin
# SOURCE: what `sam2edge export` takes. CLIP: a video of what the Orin will see. BOX: X0,Y0,X1,Y1 of an object on its
# first frame. OUT: a directory, copied to the Orin as it is; running the script there again goes on with the build.
# EXPORT_OPTIONS, for a large model on a small board: "--image-size 512 --memory-pool 2".
set -euo pipefail
source=$1 clip=$2 box=$3 out=$4

if [ ! -d "$out/fp32" ]; then
    # shellcheck disable=SC2086  # several words
    sam2edge export "$source" "$out/fp32" --clip "$clip" ${EXPORT_OPTIONS:-}
fi
if [ ! -d "$out/int8" ]; then
    sam2edge calibrate "$out/fp32" "$out/int8" --clip "$clip" --box "$box"
fi
if [ ! -e "$out/verified" ]; then
    # Ends here if INT8 loses the object; the report shows the worst frames.
    sam2edge verify "$out/fp32" --candidate "$out/int8" --clip "$clip" --box "$box" --report "$out/report"
    touch "$out/verified"
fi

# The engines must track the clip as FP32 does: versions of TensorRT have computed wrong values without an error.
clipped=(--profile jetson --clip "$clip" --box "$box" --frames 20)
if grep -q '^ok  *GPU 0' <<< "$(sam2edge doctor)"; then
    sam2edge build "$out/fp32" --precision fp16 "${clipped[@]}"
    sam2edge build "$out/int8" --precision int8 --fp32 "$out/fp32" "${clipped[@]}"
else
    echo "no GPU here: copy $out and $clip to the Orin and run there"
    echo "    sam2edge build $out/fp32 --precision fp16 ${clipped[*]}"
    echo "    sam2edge build $out/int8 --precision int8 --fp32 $out/fp32 ${clipped[*]}"
fi
