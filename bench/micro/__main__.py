"""The timed mode against published microbenchmarks. Runs anywhere; nothing here is measured.

python -m bench.micro [--only TEXT] [--set tmem_load=217] [--constants FILE.json]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.micro.model import modelled
from bench.micro.published import POINTS
from ptx_emulator.timing import Constants


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.micro", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="points whose name contains this text")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a constant of the model")
    parser.add_argument("--constants", help="JSON file of constants, e.g. measured")
    options = parser.parse_args(arguments)
    try:
        constants = Constants.given(options.set, options.constants)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{'cycles':44s} {'modelled':>9s} {'published':>15s}  ratio  source")
    for point in POINTS:
        if options.only in point.name:
            value = modelled(point.timed, constants)
            span = f"{point.low:.1f}" if point.low == point.high else f"{point.low:.1f}..{point.high:.1f}"
            print(f"{point.name:44s} {value:9.1f} {span:>15s}  {value / point.nearest(value):5.2f}  {point.source}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
