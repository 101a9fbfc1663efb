"""Which block-table entries a work item needs, and where they stand in the page-table ring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mla.causal_mask import TilePhases, quotient, quotient_up
from mla.plan.memory import MemoryPlan


@dataclass(frozen=True)
class PageSpan:
    """Entries [first_page, ...) of a request's table, `plan.smem.page_ids_per_stage` to a ring stage.

    num_stages: ring stages that the work item fills; 0 where it has no tiles.
    """

    plan: MemoryPlan
    first_page: Any
    num_stages: Any

    @classmethod
    def of(cls, plan: MemoryPlan, phases: TilePhases) -> PageSpan:
        first_page = page_of_tile(plan, phases.begin)
        end_page = page_of_tile(plan, phases.end + (plan.tile.tiles_per_page - 1))
        num_stages = quotient_up(end_page - first_page, plan.smem.page_ids_per_stage)
        return cls(plan, first_page, num_stages)

    def stage(self, tile: Any) -> Any:
        """Ring stage, counted from the item's first, that holds the pages of key tile `tile`."""
        return quotient(page_of_tile(self.plan, tile) - self.first_page, self.plan.smem.page_ids_per_stage)

    def position(self, tile: Any) -> Any:
        """Place of the tile's first page id within its stage."""
        index = page_of_tile(self.plan, tile) - self.first_page
        return index - self.stage(tile) * self.plan.smem.page_ids_per_stage


def page_of_tile(plan: MemoryPlan, tile: Any) -> Any:
    """Table entry of the first page of key tile `tile`."""
    return quotient(tile * plan.tile.pages_per_tile, plan.tile.tiles_per_page)
