"""Keeps numba's on-disk cache honest.

numba recompiles a cached function when its own file changes, but not when a module does whose constants or
functions it uses. The sources of a group are therefore hashed together, and cached code of another hash is removed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

# File name patterns: what the engine is made of, and what its native forms use besides.
_ENGINE = ("engine*.py", "microcode.py", "state.py")
_NATIVE = ("native*.py", "numerics*.py", "tensormap.py")
# Group -> (sources that count, sources whose compiled code is dropped).
_GROUPS = {"engine": (_ENGINE, _ENGINE), "native": (_ENGINE + _NATIVE, _NATIVE)}


def drop_stale_code(folder: Path, groups: dict[str, tuple] = _GROUPS) -> None:
    """Removes code in the folder's cache that was compiled from other sources. Does nothing if it is read-only."""
    cache = folder / "__pycache__"
    try:
        for group, (sources, dropped) in groups.items():
            paths = [path for pattern in sources for path in sorted(folder.glob(pattern))]
            digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
            stamp = cache / f"{group}.sha256"
            if stamp.exists() and stamp.read_text() == digest:
                continue
            for pattern in dropped:
                for path in cache.glob(f"{pattern[:-3]}.*.nb[ic]"):
                    path.unlink(missing_ok=True)
            cache.mkdir(exist_ok=True)
            stamp.write_text(digest)
    except OSError:
        return


drop_stale_code(Path(__file__).parent)
