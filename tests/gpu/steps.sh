# shellcheck shell=bash disable=SC2034  # they are for the steps
# What the steps share; each reads it first. `script` takes a step, `script NAME` only its function of that name.
#   TRT, TORCH         the Python with TensorRT, and the machine's own, which has PyTorch on CUDA
#   SAM2EDGE_GPU_WORK  a folder that outlives a step
#   CARRIED            where what is carried along arrives, to be copied into that folder
#   OUT                the folder whose files are brought back: logs, tables, engines.json and reports in one archive
set -uo pipefail
script=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit
step=$(basename "$0" .sh) work=${SAM2EDGE_GPU_WORK:-/tmp/sam2edge}
logs=$work/logs OUT=${OUT:-$work/out}
export SAM2EDGE_NANO=$work/nano PYTHONUNBUFFERED=1
# the packages that only one of the two Pythons may see do not reach the other
trt=(env "PYTHONPATH=$PWD/src:$work/site" "${TRT:-$work/trt/trt-python}")
torch=(env "PYTHONPATH=$PWD/src" "${TORCH:-python3}")
mkdir -p "$logs" "$OUT"
CARRIED=${CARRIED:-out/gpu}
if [ -d "$CARRIED" ]; then cp -ru "$CARRIED/." "$work"; fi

# run SECONDS NAME COMMAND…: show a command's output and keep it in logs/NAME.log. Whatever becomes of it, go on.
run() {
    local seconds=$1 name=$2 code
    shift 2
    echo "== $name"
    timeout -k 5 "$seconds" "$@" 2>&1 | tee "$logs/$name.log"
    code=${PIPESTATUS[0]}
    if [ "$code" -ne 0 ]; then echo "$name: exit code $code (124: more than $seconds seconds)"; fi
}

# background FUNCTION: run one of this script's functions while the next steps are on their way, unless that was begun
# before; awaited by name. It runs in a copy of the tree, since the next call writes the tree again.
background() {
    local tree=$work/tree-$1
    if [ -e "$tree" ]; then return; fi
    mkdir "$tree"
    cp -r src runtime engines export calibration samples tests "$tree"
    setsid --fork nohup bash "$tree/tests/gpu/$step.sh" "$1" < /dev/null > "$logs/$1.background.log" 2>&1
}

# await SECONDS NAME: wait until a function in the background, or a part of it, has called `done_with NAME`; false if
# it has not.
await() {
    # shellcheck disable=SC2016  # the inner shell expands them
    run "$1" "await-$2" bash -c 'until [ -e "$1" ]; do sleep 0.2; done' bash "$logs/$2.done"
    [ -e "$logs/$2.done" ]
}

done_with() { touch "$logs/$1.done"; }

bring_back() {
    (
        cd "$work" || exit
        find . \( -path ./site -o -path ./trt -o -path './[0-9]*' -o -path './*-source' -o -path './tree-*' \) -prune -o \
            \( -path './logs/*' -o -name engines.json -o -name report.json -o -name inspector.json \) -type f -print0 |
            tar --null -czf "$OUT/$step.tar.gz" --files-from -
    )
}

main_or() {
    if [ $# -gt 0 ]; then "$@"; else
        trap bring_back EXIT
        main
    fi
}
