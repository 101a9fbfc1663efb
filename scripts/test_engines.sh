#!/usr/bin/env bash
# vLLM and SGLang, unmodified, decode with these kernels on a CPU (docs/engines.md). Makes .venv-engines in the
# repository root on first use: CPU builds from PyPI, about 2 GB. Not part of the tests or of CI.
#   PYTHON  interpreter to make the environment with, 3.11 (SGLang's wheel is for that one)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
eval "$(grep '^TORCH_REQUIREMENT=' scripts/environment.sh)"
python=.venv-engines/bin/python
wanted="$(cat pyproject.toml scripts/engines/requirements.txt scripts/test_engines.sh | cksum)"
if [ "$(cat .venv-engines/installed-for 2>/dev/null)" != "$wanted" ]; then
    echo "making .venv-engines (first run only)" >&2
    [ -x "$python" ] || "${PYTHON:-python3.11}" -m venv .venv-engines
    "$python" -m pip install --quiet setuptools "$TORCH_REQUIREMENT"
    # Versions are exact, and without their dependencies: those would bring CUDA builds.
    "$python" -m pip install --quiet --no-deps --requirement scripts/engines/requirements.txt
    "$python" -m pip install --quiet --no-deps --no-build-isolation --editable .
    echo "$wanted" >.venv-engines/installed-for
fi
exec "$python" -m scripts.engines.check "$@"
