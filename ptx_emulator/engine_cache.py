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
_TIMED = (*_ENGINE, *_NATIVE, "timing/*.py")


def drop_stale_code(folder: Path, groups: dict[str, tuple] = _GROUPS, below: str = ".") -> None:
    """Removes code that was compiled from other sources: in the cache of the folder, or of the one `below` it. Does
    nothing if it is read-only."""
    cache = folder / below / "__pycache__"
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


def drop_stale_timing() -> None:
    """As drop_stale_code, for the timed mode, which is compiled only where it is used."""
    drop_stale_code(Path(__file__).parent, {"timing": (_TIMED, ("*.py",))}, "timing")


drop_stale_code(Path(__file__).parent)
