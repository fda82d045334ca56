#!/usr/bin/env bash
# Carry another part, or anything else from out/gpu, which steps.sh copies; say what is there.
# shellcheck source=tests/gpu/steps.sh
source "$(dirname "$0")/steps.sh"

main() { run 2 parts du -sh "$work"/*; }

main_or "$@"
