#!/usr/bin/env bash
# Runs the tests. Arguments go to pytest, e.g. `bash scripts/test.sh -m 'slow or not slow'` for the whole grid.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
exec "$VENV_PYTHON" -m pytest "$@"
