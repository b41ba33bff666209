#!/bin/sh
# What a machine with an NVIDIA GPU says of lipwire: its tests, then the paper's network at three
# batch sizes, records in a folder. NOT RUN on a GPU by those who wrote it.
#   benchmarks/gpu_check.sh [FOLDER]      0: all ran; 1: what did not is named; 2: no GPU
set -u
out=${1:-gpu-records}
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >/dev/null 2>&1; then
    echo "gpu_check: nvidia-smi finds no GPU here" >&2
    exit 2
fi
if ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "gpu_check: torch sees no GPU; lipwire doctor says why" >&2
    exit 2
fi
mkdir -p "$out" || exit 2
nvidia-smi >"$out/nvidia-smi.txt"
missed=
try() {
    name=$1
    shift
    if timeout 150 "$@" >"$out/$name.txt" 2>&1; then
        echo "ran: $name"
    else
        echo "did not run: $name (exit $?), see $out/$name.txt"
        missed="$missed $name"
    fi
}
try doctor lipwire doctor
try tests env LIPWIRE_GPU=1 python -m pytest -q -m gpu tests
for batch in 1 4 16; do
    try "paper-$batch" lipwire bench paper --device cuda:0 --batch "$batch" \
        --json "$out/paper-$batch.json"
done
[ -z "$missed" ] || { echo "gpu_check: did not run:$missed" >&2; exit 1; }
