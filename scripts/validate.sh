#!/usr/bin/env bash
# Compiles the kernel, runs it (on an SM100/SM103 GPU, else in the emulator) and prints a table of signal-to-noise
# ratios against the reference. Arguments go to scripts/validate.py (--help lists them).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
exec "$VENV_PYTHON" -m scripts.validate "$@"
