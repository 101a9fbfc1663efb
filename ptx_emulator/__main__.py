"""The emulator as a command, for any kernel that CuTe DSL (or anything else) compiles to sm_100a PTX.

    python -m ptx_emulator run CASE.py        the same right result under every schedule?
    python -m ptx_emulator check CASE.py      races
    python -m ptx_emulator mutate CASE.py     which removed synchronisation would be found?
    python -m ptx_emulator time CASE.py       what it would cost, modelled
    python -m ptx_emulator coverage KERNEL.ptx    which instructions the emulator lacks

Each with --help. Exit status: 0 clean, 1 something was found, 2 wrong arguments (one line on stderr says which).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from .command_line import WRONG_ARGUMENTS, run

COMMANDS = ("run", "check", "mutate", "time", "coverage")


def command(name: str) -> Callable[[Sequence[str]], int]:
    """What carries out one of `COMMANDS`; what the others need is not loaded."""
    match name:
        case "run":
            from .tool.run import main
        case "check":
            from .tool.check import main
        case "mutate":
            from .tool.mutate import main
        case "time":
            from .timing.__main__ import main
        case _:
            from .check.coverage import main
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and given[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    if not given or given[0] not in COMMANDS:
        what = f"{given[0]!r} is no command" if given else "no command"
        print(f"python -m ptx_emulator: error: {what}: give one of {', '.join(COMMANDS)}", file=sys.stderr)
        return WRONG_ARGUMENTS
    return run(command(given[0]), given[1:], f"ptx_emulator {given[0]}")


if __name__ == "__main__":
    sys.exit(main())
