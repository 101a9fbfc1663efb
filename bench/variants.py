"""What-if tables: totals with other constants (ptx_emulator/timing/variants.py) beside those of the table."""

from __future__ import annotations

from collections.abc import Sequence

from bench.prediction import Prediction


def table_of_variants(
    title: str, base: Sequence[Prediction], names: Sequence[str], found: Sequence[Sequence[Prediction]]
) -> str:
    """Totals relative to the base; `found[i]` holds all workloads of variant names[i]."""
    width = max(len(p.workload) for p in base)
    lines = [f"\n{title}: modelled total / total of the table above"]
    lines.append(" " * width + "".join(f"  {name:>18s}" for name in names))
    for i, prediction in enumerate(base):
        ratios = [predictions[i].total / prediction.total for predictions in found]
        lines.append(f"{prediction.workload:{width}s}" + "".join(f"  {ratio:18.3f}" for ratio in ratios))
    return "\n".join(lines)
