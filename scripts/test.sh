#!/usr/bin/env bash
# Runs the tests on two cores. Arguments go to pytest, e.g. `bash scripts/test.sh -m 'slow or not slow'` for the whole
# grid.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
# Where it is set, each worker, and each command that a test starts, would compile all modules anew.
unset PYTHONDONTWRITEBYTECODE
# One emulated launch per operand kind, and a timed one, first: they compile the emulator's loops into numba's cache,
# which two workers would otherwise both do, and write at the same time.
"$VENV_PYTHON" -m scripts.validate --backend emulator --dtype bf16,fp8 --num-heads 1 --seq-len-q 1 --kv-len 1 --batch 1
"$VENV_PYTHON" -m bench.micro --only 'named barrier'
exec "$VENV_PYTHON" -m pytest -n 2 --dist worksteal "$@"
