#!/bin/sh
# What only a card can show, in under six minutes: the CUDA tests, every learner on CUDA beside
# the CPU, the speed of the bench's works, and the bandwidth of the widest. Without a card it
# says what it left out. Another interpreter than make's: PYTHON=... tests/on_gpu.sh
set -eu
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-.venv/bin/python}"
export PYTHONPATH="$PWD:$PWD/tests"
failed=0
"$PYTHON" -m pytest -q -p no:cacheprovider -k cuda tests/test_drivers.py tests/test_ensemble.py -rs \
    || failed=1
"$PYTHON" tests/on_gpu.py || failed=1
exit $failed
