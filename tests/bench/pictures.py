"""Pictures of how cost grows with size: lines over a logarithmic axis of sizes, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from bench.tables import number

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 160, 56, 44
# Of the colors of Okabe and Ito, which people with any kind of color blindness tell apart; each with a mark of its own.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_FONT = 'font-family="sans-serif" font-size="13"'
_INK, _GRAY, _HAIR = "#222222", "#666666", "#dddddd"


@dataclass(frozen=True, slots=True)
class Picture:
    """Lines over sizes: name is the file's, without its end; the vertical axis begins at nothing."""

    name: str
    title: str
    sizes: str
    lines: Mapping[str, Points]


def steps(highest: float) -> list[float]:
    """Return round values from nothing to at least the highest, four or five of them."""
    if highest <= 0:
        return [0.0, 1.0]
    size = 10.0 ** math.floor(math.log10(highest / 4))
    size *= next(times for times in (1, 2, 2.5, 5, 10) if size * times * 4 >= highest * 0.999)
    return [size * place for place in range(math.ceil(highest / size * 0.999) + 1)]


def _mark(place: int, x: float, y: float, color: str) -> str:
    if place % 3 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{color}"/>'
    if place % 3 == 1:
        return f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" fill="{color}"/>'
    return f'<path d="M{x:.1f} {y - 6:.1f} l6 10 h-12 z" fill="{color}"/>'


def _text(x: float, y: float, said: str, *, color: str = _INK, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" text-anchor="{anchor}"{more}>{escape(said)}</text>'


def draw(picture: Picture) -> str:
    """Return a picture as SVG, the same text for the same figures."""
    sizes = sorted({size for points in picture.lines.values() for size, _ in points})
    highest = max(value for points in picture.lines.values() for _, value in points)
    values = steps(highest)
    first, last = math.log10(sizes[0]), math.log10(sizes[-1])
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def across(size: float) -> float:
        return _LEFT + 20 + (math.log10(size) - first) / ((last - first) or 1) * (right - _LEFT - 40)

    def up(value: float) -> float:
        return bottom - value / values[-1] * (bottom - _TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {_FONT} role="img">',
        f"<title>{escape(picture.title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT - 50, 26, picture.title, more=' font-size="16" font-weight="bold"'),
    ]
    for value in values:
        parts.append(f'<path d="M{_LEFT} {up(value):.1f} H{right}" stroke="{_HAIR}"/>')
        parts.append(_text(_LEFT - 8, up(value) + 4, number(value), color=_GRAY, anchor="end"))
    parts += [_text(across(size), bottom + 20, number(size), color=_GRAY, anchor="middle") for size in sizes]
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 6, picture.sizes, color=_GRAY, anchor="middle"))
    parts.append(f'<path d="M{_LEFT} {bottom} H{right}" stroke="{_INK}"/>')
    # The lines' names stand at their ends, as far apart as letters need it.
    ends: list[float] = []
    for place, (name, points) in sorted(enumerate(picture.lines.items()), key=lambda one: -up(one[1][1][-1][1])):
        color = _COLORS[place % len(_COLORS)]
        path = " L".join(f"{across(size):.1f} {up(value):.1f}" for size, value in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [_mark(place, across(size), up(value), color) for size, value in points]
        y = up(points[-1][1]) + 4
        y = min([y, *(end - 17 for end in ends)])
        ends.append(y)
        parts.append(_text(right + 4, y, name, color=color))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _of_sizes(found: Mapping[str, Any], value: str, *, inner: str = "") -> Points:
    return [(one["orders"], one[inner][value] if inner else one[value]) for one in found["sizes"]]


def pictures(result: Mapping[str, Any]) -> list[Picture]:
    """Return the pictures of what was measured in more than one size."""
    found: list[Picture] = []
    called = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
    backfill = {called[kind]: part for kind, part in result.get("backfill", {}).items() if len(part["sizes"]) > 1}
    if backfill:
        lines = {name: _of_sizes(part, "ms_per_order") for name, part in backfill.items()}
        found.append(Picture("backfill-time", "Backfill: milliseconds per order", "orders", lines))
        lines = {name: _of_sizes(part, "memory_peak_mb") for name, part in backfill.items()}
        found.append(Picture("backfill-memory", "Backfill: memory at its peak, MB", "orders", lines))
        lines = {
            f"{name}, {whose}": _of_sizes(part, whose.lower(), inner="growth_kb_per_order")
            for name, part in backfill.items()
            for whose in ("Kvit", "Prefect")
        }
        found.append(Picture("backfill-databases", "Backfill: growth of the databases, kB per order", "orders", lines))
    bulk: dict[str, list[tuple[float, float]]] = {}
    for name, one in result.get("matching", {}).items():
        if "us_per_payment" in one:
            bulk.setdefault(name.partition(" ")[0], []).append((one["payments"], one["us_per_payment"]))
    bulk = {kind: sorted(points) for kind, points in bulk.items() if len(points) > 1}
    if bulk:
        found.append(Picture("matching-time", "Matching in bulk: microseconds per payment", "payments", bulk))
    return found
