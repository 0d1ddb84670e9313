"""The picture of reconciliation: payments counted and summed by what they turned out to be, a bar for each week.

Prefect's UI shows a picture where its Markdown names one, also one that stands in the text itself, as this one does.
Its own artifact for pictures writes the whole address below them, and this one's address is the whole picture.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache, partial

from PIL import Image, ImageDraw, ImageFont

from connectors.pdf import FONTS, GRAY, HAIR, INK, WHITE
from domain.money import exponent
from domain.weeks import Group, Week, currencies, groups, week_tables

_Color = tuple[int, int, int]

# The colors of Okabe and Ito, which people with any kind of color blindness tell apart. What was left open and what is
# new are hatched besides, and the order from the bottom up is that of the legend.
_COLORS: dict[Group, _Color] = {
    Group.EXACT: (0, 114, 178),
    Group.TOLERANCE: (86, 180, 233),
    Group.OVER: (0, 158, 115),
    Group.SHORT: (240, 228, 66),
    Group.NOTHING: (213, 94, 0),
    Group.BACK: (204, 121, 167),
    Group.NOT_OURS: (160, 160, 160),
    Group.NEW: (60, 60, 60),
}
_HATCHED = frozenset({Group.NOTHING, Group.NEW})

# The UI shows it at about two thirds of this, so the letters are larger than they look here.
_WIDTH, _PANEL, _PLOT = 1200, 304, 200
_LEFT, _RIGHT, _TOP = 150, 20, 62
_CURRENCIES_MAX = 3


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONTS / f"OpenSans-{'SemiBold' if bold else 'Regular'}.ttf"), size)


@dataclass(frozen=True, slots=True)
class _Panel:
    """One row of bars: what it shows, a value by week and group, and how a value is written beside the axis."""

    title: str
    values: Sequence[Mapping[Group, int]]
    written: Callable[[int], str]


def _panels(weeks: Sequence[Week]) -> list[_Panel]:
    found = [_Panel("Number of payments", [week.counts for week in weeks], _grouped)]
    for currency in currencies(weeks)[:_CURRENCIES_MAX]:
        sums = [week.sums.get(currency, {}) for week in weeks]
        written = partial(_major, places=exponent(currency))
        found.append(_Panel(f"Sum in {currency}", sums, written))
    return found


def _major(minor: int, *, places: int) -> str:
    """Return an amount in major units, with decimals only where it has some."""
    value = Decimal(minor).scaleb(-places)
    return _grouped(value) if value % 1 else _grouped(int(value))


def _grouped(value: Decimal | int) -> str:
    """Return a number with a narrow gap between thousands."""
    return f"{value:,}".replace(",", "\u2009").replace("-", "\u2212")


def draw(weeks: Sequence[Week], made_on: date) -> bytes:
    """Return the picture as PNG, the same bytes for the same weeks."""
    shown, panels = groups(weeks), _panels(weeks)
    legend = _legend_rows(shown)
    head = _TOP + 34 * len(legend)
    image = Image.new("RGB", (_WIDTH, head + _PANEL * len(panels) + 16), WHITE)
    canvas = ImageDraw.Draw(image)
    canvas.text((20, 12), "Payments by outcome, week by week", INK, _font(28, bold=True))
    said = f"by booking date, weeks from Monday; made on {made_on}"
    canvas.text((_WIDTH - _RIGHT, 22), said, GRAY, _font(18), anchor="ra")
    _legend(canvas, image, legend)
    for place, panel in enumerate(panels):
        _draw_panel(canvas, image, head + _PANEL * place, panel, weeks)
    small = image.quantize(64, dither=Image.Dither.NONE)
    kept = io.BytesIO()
    small.save(kept, "PNG", optimize=True)
    return kept.getvalue()


def _legend_rows(shown: Sequence[Group]) -> list[list[tuple[int, Group]]]:
    """Return the legend in rows of (place from the left, group)."""
    rows: list[list[tuple[int, Group]]] = [[]]
    x = 20
    for group in shown:
        width = int(_font(20).getlength(group)) + 60
        if x + width > _WIDTH and rows[-1]:
            rows.append([])
            x = 20
        rows[-1].append((x, group))
        x += width
    return rows


def _legend(canvas: ImageDraw.ImageDraw, image: Image.Image, rows: Sequence[Sequence[tuple[int, Group]]]) -> None:
    for place, row in enumerate(rows):
        y = _TOP + 34 * place
        for x, group in row:
            _bar(canvas, image, (x, y, x + 22, y + 22), group)
            canvas.text((x + 30, y + 11), group, INK, _font(20), anchor="lm")


def _bar(canvas: ImageDraw.ImageDraw, image: Image.Image, box: tuple[int, int, int, int], group: Group) -> None:
    left, top, right, bottom = box
    if bottom <= top:
        return
    canvas.rectangle((left, top, right, bottom - 1), _COLORS[group])
    if group in _HATCHED:
        hatched = image.crop((left, top, right + 1, bottom))
        lines = ImageDraw.Draw(hatched)
        for start in range(-hatched.height, hatched.width, 9):
            lines.line((start, hatched.height, start + hatched.height, 0), WHITE, 2)
        image.paste(hatched, (left, top))
    if bottom - top >= 8:
        canvas.line((left, top, right, top), WHITE)  # parts of like brightness are told apart by it


def _steps(lowest: int, highest: int) -> list[int]:
    """Return round values for the axis that hold both, about four of them; zero is always one."""
    span = max(highest - lowest, 1)
    size = 1
    while span / size > 4:
        # 1, 2, 5, 10, 20, 50 …
        size = size * 5 // 2 if str(size)[0] == "2" else size * 2
    first, last = -(-lowest // size) if lowest >= 0 else lowest // size, -(-highest // size)
    return [size * n for n in range(min(first, 0), max(last, 1) + 1)]


def _draw_panel(canvas: ImageDraw.ImageDraw, image: Image.Image, y: int, panel: _Panel, weeks: Sequence[Week]) -> None:
    ups = [sum(value for value in one.values() if value > 0) for one in panel.values]
    downs = [sum(value for value in one.values() if value < 0) for one in panel.values]
    steps = _steps(min(downs, default=0), max(ups, default=0))
    top, bottom = y + 58, y + 58 + _PLOT

    def at(value: int) -> int:
        return bottom - round((value - steps[0]) * _PLOT / (steps[-1] - steps[0]))

    canvas.text((20, y + 6), panel.title, INK, _font(22, bold=True))
    for step in steps:
        canvas.line((_LEFT, at(step), _WIDTH - _RIGHT, at(step)), HAIR)
        canvas.text((_LEFT - 10, at(step)), panel.written(step), GRAY, _font(18), anchor="rm")
    slot = (_WIDTH - _LEFT - _RIGHT) / max(len(weeks), 1)
    for place, (week, values) in enumerate(zip(weeks, panel.values, strict=True)):
        left = round(_LEFT + slot * place + slot * 0.18)
        right = round(_LEFT + slot * (place + 1) - slot * 0.18)
        up = down = 0
        for group in Group:
            value = values.get(group, 0)
            if value > 0:
                _bar(canvas, image, (left, min(at(up + value), at(up) - 1), right, at(up)), group)
                up += value
            elif value < 0:
                _bar(canvas, image, (left, at(down), right, max(at(down + value), at(down) + 1)), group)
                down += value
        middle = round(_LEFT + slot * (place + 0.5))
        canvas.text((middle, bottom + 8), f"{week.start.day} {week.start:%b}", GRAY, _font(18), anchor="ma")
    canvas.line((_LEFT, at(0), _WIDTH - _RIGHT, at(0)), INK, 2)
    if not any(ups) and not any(downs):
        canvas.text((_WIDTH // 2, (top + bottom) // 2), "nothing in these weeks", GRAY, _font(20), anchor="mm")


def markdown(weeks: Sequence[Week], made_on: date) -> str:
    """Return what is shown in the log: the picture in the text itself, and its figures as tables below it."""
    picture = base64.b64encode(draw(weeks, made_on)).decode()
    total = sum(sum(week.counts.values()) for week in weeks)
    alt = (
        f"Bars of {total} payments in {len(weeks)} weeks by outcome, counted and summed; the tables below say the same"
    )
    parts = [f"![{alt}](data:image/png;base64,{picture})"]
    left_out = currencies(weeks)[_CURRENCIES_MAX:]
    if left_out:
        parts.append(f"Not drawn, but in the tables: {', '.join(left_out)}.")
    for title, headers, rows in week_tables(weeks):
        lines = [f"**{title}**", "", f"| {' | '.join(headers)} |", f"| :-- |{' --: |' * (len(headers) - 1)}"]
        parts.append("\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]))
    return "\n\n".join(parts) + "\n"
