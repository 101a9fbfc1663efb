#!/usr/bin/env bash
# On a machine with an SM100/SM103 GPU: everything that must be known about it, in one report. Elsewhere: --rehearse.
# Arguments go to scripts/first_light (--help lists them).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
exec "$VENV_PYTHON" -m scripts.first_light "$@"
