"""The arguments that the commands of `python -m ptx_emulator` share."""

from __future__ import annotations

import argparse

from ..command_line import Parser, integer, names_of, settings
from ..cute_abi.cases import Case, read_case
from ..machine.asyncs import ORDERS
from ..machine.watchdog import Limits


def case_parser(command: str, description: str | None, orders: str, seeds: int) -> Parser:
    """A parser with a case, its schedules, a time limit and --json."""
    parser = Parser(f"ptx_emulator {command}", description)
    parser.add_argument("case", metavar="CASE.py", help="has a function `arguments` (ptx_emulator/cute_abi/cases.py)")
    parser.add_argument("options", nargs="*", metavar="name=value", help="given to its `arguments`")
    parser.add_argument("--dump", metavar="FOLDER", help="of a CuTe DSL compilation: its IR and PTX are taken")
    parser.add_argument(
        "--orders", type=names_of(ORDERS), default=tuple(orders.split(",")), metavar="A,B",
        help=f"schedules, of {', '.join(ORDERS)}; {orders} unless given",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=integer(1), default=seeds, help=f"of random and adversarial; {seeds} unless given"
    )
    parser.add_argument("--time-limit", type=seconds, metavar="S", help="seconds that a launch may take")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def seconds(text: str) -> float:
    try:
        return Limits(seconds=float(text)).seconds
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be a positive number of seconds") from None


def case_of(given: argparse.Namespace) -> Case:
    return read_case(given.case, settings(given.options), given.dump)
