"""Keeps numba's on-disk cache honest.

numba recompiles a cached function when its own file changes, but not when a module does whose constants or
functions it uses. The sources of a group are therefore hashed together, and cached code of another hash is removed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Patterns of files below the package: what the engine is made of, and what others compile besides.
_ENGINE = ("engine/*.py", "engine/vector/*.py")
_NATIVE = ("units/*/*native.py", "units/*/tensormap.py", "units/numerics/*.py")
_TABLES = ("units/swizzle.py", "units/tcgen05/layout.py")  # constants of native forms
_HAZARDS = ("check/hazards/*.py",)
_TIMING = ("timing/*.py",)
# Group -> (sources that count, sources whose compiled code is dropped).
GROUPS = {
    "engine": (_ENGINE, _ENGINE),
    "native": (_ENGINE + _NATIVE + _TABLES, _NATIVE),
    "hazards": (_ENGINE + _NATIVE + _TABLES + _HAZARDS, _HAZARDS),
    "timing": (_ENGINE + _NATIVE + _TABLES + _TIMING, _TIMING),
}


def drop_stale_code(package: Path = PACKAGE) -> None:
    """Removes code that was compiled from other sources. Does nothing if the package is read-only."""
    try:
        for group, (sources, dropped) in GROUPS.items():
            paths = [path for pattern in sources for path in sorted(package.glob(pattern))]
            digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
            stamp = package / "engine" / "__pycache__" / f"{group}.sha256"
            if stamp.exists() and stamp.read_text() == digest:
                continue
            for path in (path for pattern in dropped for path in package.glob(pattern)):
                for code in (path.parent / "__pycache__").glob(f"{path.stem}.*.nb[ic]"):
                    code.unlink(missing_ok=True)
            stamp.parent.mkdir(exist_ok=True)
            stamp.write_text(digest)
    except OSError:
        return


drop_stale_code()
