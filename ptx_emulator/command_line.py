"""What the emulator's commands share: arguments that are checked before anything runs, and how they end.

Exit status: 0 clean, 1 something was found, 2 wrong arguments (one line on stderr), 130 interrupted (Ctrl-C).
"""

from __future__ import annotations

import argparse
import ast
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .errors import PtxSyntaxError, UnsupportedInstruction

FOUND, WRONG_ARGUMENTS, INTERRUPTED = 1, 2, 130


class Parser(argparse.ArgumentParser):
    """Wrong arguments end with one line that says what is wrong; the usage is what --help is for."""

    def __init__(self, prog: str, description: str | None):
        super().__init__(
            prog=f"python -m {prog}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_ARGUMENTS, f"{self.prog}: error: {message}\n")


def integer(smallest: int) -> Callable[[str], int]:
    """Reads an integer of at least `smallest`."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= smallest):
            raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be an integer of at least {smallest}")
        return int(text)

    return parse


def names_of(allowed: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Reads names of `allowed` with commas between them."""

    def parse(text: str) -> tuple[str, ...]:
        for name in text.split(","):
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name[:40]!r}: must be of {', '.join(allowed)}, with commas between")
        return tuple(text.split(","))

    return parse


def settings(items: Sequence[str]) -> dict[str, Any]:
    """name=value arguments: Python literals, else text. Raises ValueError."""
    found = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"{item[:80]!r}: must be name=value, for the case's `arguments`")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found


def run(main: Callable[[Sequence[str]], int], arguments: Sequence[str], prog: str) -> int:
    """`main`'s exit status, where what came is no kernel that can be run too: what runs but is wrong is `main`'s."""
    try:
        return main(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, TypeError, NotImplementedError, PtxSyntaxError, UnsupportedInstruction, OSError) as error:
        text = " ".join(str(error).split())
    except Exception as error:  # the case's own code
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
    print(f"python -m {prog}: error: {text}", file=sys.stderr)
    return WRONG_ARGUMENTS
