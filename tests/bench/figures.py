"""Figures: percentiles, growth and ratios, as they stand in the bench's document."""

from __future__ import annotations

from collections.abc import Sequence


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


def growth(costs: Sequence[float]) -> float | None:
    """Return by how much the largest size's cost of one exceeds the smallest size's; None with fewer than two."""
    return ratio(costs[-1], costs[0]) if len(costs) > 1 else None
