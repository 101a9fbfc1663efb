# Sourced by validate.sh and test.sh: makes .venv in the repository root once, reuses it while pyproject.toml and this
# file are unchanged, and leaves its interpreter in $VENV_PYTHON.
#   PYTHON  interpreter to make the environment with (default: the first of python3.11, python3.12, python3)
TORCH_REQUIREMENT="torch==2.13.0"

repo_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV_PYTHON="$repo_root/.venv/bin/python"
stamp="$repo_root/.venv/installed-for"

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "no Python 3.10 to 3.13 found (tried: ${PYTHON:-python3.11 python3.12 python3}); set PYTHON" >&2
    return 1
}

make_environment() {
    local python wanted
    wanted="$(cat "$repo_root/pyproject.toml" "${BASH_SOURCE[0]}" | cksum)"
    if [ -x "$VENV_PYTHON" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    echo "making .venv (first run only; the compiler and torch are large downloads)" >&2
    [ -x "$VENV_PYTHON" ] || { python="$(find_python)" && "$python" -m venv "$repo_root/.venv"; } || return 1
    # torch by itself first: its index decides the build (CPU or CUDA), and the rest must not pull in another.
    "$VENV_PYTHON" -m pip install --quiet "$TORCH_REQUIREMENT" || return 1
    "$VENV_PYTHON" -m pip install --quiet --editable "$repo_root[test]" || return 1
    echo "$wanted" >"$stamp"
}

make_environment || exit 1
