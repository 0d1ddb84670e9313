"""Figures: percentiles, growth and ratios, as they stand in the bench's document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share of all values doesn't exceed (the nearest rank)."""
    if not values:
        raise ValueError("no values were measured")
    ranked = sorted(values)
    place = -(-len(ranked) * share // 1)
    return ranked[min(max(int(place), 1), len(ranked)) - 1]


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99, in the values' own unit."""
    shares = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    return {name: round(percentile(seconds, share), 4) for name, share in shares}


def ratio(value: float, yardstick: float) -> float | None:
    """Return a value as a part of its yardstick; None where that is nothing."""
    return round(value / yardstick, 3) if yardstick else None


def of_sizes(measured: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what was measured of several sizes, the smallest first, with how much an order costs more at the largest.

    Of a size that was measured more than once the last stands.
    """
    by_size = {one["orders"]: one for one in measured}
    sizes = [by_size[size] for size in sorted(by_size)]
    costs = {"cost": "ms_per_order", "cpu": "cpu_s_per_order", "memory": "memory_peak_mb"}
    grows = {f"{name}_grows_by": growth([one[cost] for one in sizes]) for name, cost in costs.items()}
    return {"sizes": sizes, **grows}


def growth(costs: Sequence[float]) -> float | None:
    """Return by how much the largest size's cost of one exceeds the smallest size's; None with fewer than two."""
    return ratio(costs[-1], costs[0]) if len(costs) > 1 else None
