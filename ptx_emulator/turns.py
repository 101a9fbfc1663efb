"""One launch at a time. Decoding gives variables and registers of the parsed module their places, and launches of the
same text share that module and what is made from it; so threads take turns, from parsing to the last instruction."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P, R = ParamSpec("P"), TypeVar("R")
_turn = threading.RLock()


def takes_turns(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, during which no other thread is in a function that takes turns."""

    @functools.wraps(function)
    def alone(*arguments: P.args, **options: P.kwargs) -> R:
        with _turn:
            return function(*arguments, **options)

    return alone
