#!/bin/sh
# Everything that a GPU machine has to show, in one unattended and offline call; see gpu/main.py.
#
#     benchmarks/gpu.sh --budget 540 --wheels DIR --out DIR --record
#     benchmarks/gpu.sh --rehearse --out DIR
#
# --wheels DIR installs what lies there, and nothing else, into a folder of its own; PYTHON names the interpreter.
# PyTorch, NumPy, Pillow, onnx and onnxscript are taken as they are there; the wheels to bring are onnxruntime-gpu, and what of
# click, rich, regex and ftfy is missing. Without tensorrt its step says so.
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
python=${PYTHON:-python3}
wheels=
next=
for argument in "$@"; do
    shift
    if [ "$next" = wheels ]; then
        wheels=$argument
        next=
    elif [ "$argument" = --wheels ]; then
        next=wheels
    else
        set -- "$@" "$argument"
    fi
done
if [ -n "$next" ]; then
    echo "--wheels needs a folder" >&2
    exit 2
fi
if [ -n "$wheels" ]; then
    site=${LRSCLIP_GPU_SITE:-${TMPDIR:-/tmp}/lrsclip-gpu-site}
    if [ ! -e "$site/.done" ]; then
        "$python" -m pip install --quiet --no-index --no-deps --no-cache-dir --find-links "$wheels" \
            --upgrade --target "$site" "$wheels"/*.whl
        touch "$site/.done"
    fi
    PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
fi
exec "$python" "$here/gpu/main.py" "$@"
