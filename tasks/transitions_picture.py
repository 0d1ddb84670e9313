"""The picture of transition times: for each scenario a bar for each way from one status to the next, as SVG.

A bar is as long as the median, in a lighter color up to where nine of ten orders had come on; beside it stands the
median of each week. It is a text that any browser draws; Prefect's UI shows it from the Markdown in which it stands.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import groupby

from domain.transitions import Figures, Period, Row, Trend, changed_said, lasted, trend_of
from domain.wording import counted

# Of the colors of Okabe and Ito, which people with any kind of color blindness tell apart.
_NOW, _NOW_LIGHT, _WAS, _WAS_LIGHT, _SLOW = "#0072b2", "#a9d3ea", "#8c8c8c", "#d4d4d4", "#d55e00"
_INK, _GRAY, _HAIR = "#1f2937", "#5b6470", "#dfe3e8"

_OPENING = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
    'font-family="\'Open Sans\', \'Segoe UI\', Roboto, Helvetica, Arial, sans-serif" font-size="14" role="img">'
)
_WIDTH = 1120
_LABEL, _BARS, _BARS_WIDTH, _SAID, _WEEKS, _WEEKS_WIDTH = 20, 300, 300, 612, 920, 180
_ROW, _HEAD, _PANEL_HEAD, _PANEL_FOOT = 34, 96, 40, 28
_LABEL_MAX, _ROWS_MAX = 38, 60


def draw(rows: Sequence[Row], period: Period, made_on: date) -> str:
    """Return the picture as SVG, the same text for the same rows."""
    parts: list[str] = []
    y = _HEAD
    for (channel, method), of_scenario in groupby(rows[:_ROWS_MAX], key=lambda row: (row.channel, row.method)):
        panel = list(of_scenario)
        parts += _panel(f"{channel} · {method.value.replace('_', ' ')}", panel, period, y)
        y += _PANEL_HEAD + _ROW * len(panel) + _PANEL_FOOT
    if len(rows) > _ROWS_MAX:
        parts.append(_write(_LABEL, y, f"… and {len(rows) - _ROWS_MAX} more, which the table has", _GRAY))
        y += 30
    if not rows:
        parts.append(
            _write(_WIDTH // 2, y + 20, "no order came from one status to another in these days", _GRAY, "middle")
        )
        y += 50
    head = [
        _write(_LABEL, 36, "How long orders stay in a status", _INK, size=24, bold=True),
        _write(_WIDTH - 20, 36, f"{period}; made on {made_on}", _GRAY, "end"),
        *_legend(period),
    ]
    return "\n".join(
        [
            _OPENING.format(width=_WIDTH, height=y),
            f"<title>{_safe(_alt(rows, period))}</title>",
            f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>',
            *head,
            *parts,
            "</svg>\n",
        ]
    )


def markdown(rows: Sequence[Row], period: Period, made_on: date) -> str:
    """Return what is shown in the log: the picture in the text itself."""
    picture = base64.b64encode(draw(rows, period, made_on).encode()).decode()
    return f"![{_alt(rows, period)}](data:image/svg+xml;base64,{picture})\n"


def _alt(rows: Sequence[Row], period: Period) -> str:
    times = counted(sum(row.whole.count for row in rows), "transition")
    return f"Times of {times} between statuses, {period}; the tables say the same"


def _legend(period: Period) -> Iterator[str]:
    words = [(_NOW, "median"), (_NOW_LIGHT, "nine of ten within")]
    if period.change:
        words = [
            (_WAS, f"median before {period.change}"),
            (_NOW, "and from then on"),
            (_NOW_LIGHT, "nine of ten within"),
        ]
    x = _LABEL
    for color, said in words:
        yield f'<rect x="{x}" y="56" width="14" height="14" fill="{color}"/>'
        yield _write(x + 20, 68, said, _GRAY)
        x += 50 + 8 * len(said)
    yield _write(_WEEKS, 68, "median of each week", _GRAY)


def _panel(title: str, rows: Sequence[Row], period: Period, y: int) -> Iterator[str]:
    yield f'<line x1="{_LABEL}" x2="{_WIDTH - 20}" y1="{y}" y2="{y}" stroke="{_HAIR}"/>'
    yield _write(_LABEL, y + 26, title, _INK, size=17, bold=True)
    scale = max([figures.p90_s for row in rows for figures in _sides(row) if figures] + [1])
    top = y + _PANEL_HEAD
    for place, row in enumerate(rows):
        yield from _row(row, period, top + _ROW * place, scale)
    foot = top + _ROW * len(rows) + 14
    first, last = period.mondays[0], period.mondays[-1]
    yield _write(_WEEKS, foot, f"{first.day} {first:%b}", _GRAY, size=12)
    yield _write(_WEEKS + _WEEKS_WIDTH, foot, f"{last.day} {last:%b}", _GRAY, "end", size=12)


def _sides(row: Row) -> tuple[Figures | None, ...]:
    """Return what bars a transition has: one, or one for each side of a change."""
    return (row.earlier, row.later) if row.earlier or row.later else (row.whole,)


def _row(row: Row, period: Period, y: int, scale: int) -> Iterator[str]:
    yield f"<g><title>{_safe(_told(row))}</title>"
    yield _write(_LABEL, y + 21, _short(row.name), _INK)
    sides = _sides(row)
    height = 18 if len(sides) == 1 else 11
    for place, figures in enumerate(sides):
        if figures is not None:
            dark, light = (_NOW, _NOW_LIGHT) if place == len(sides) - 1 else (_WAS, _WAS_LIGHT)
            top = y + 7 + (height + 1) * place - (len(sides) - 1) * 2
            yield _bar(top, height, figures.p90_s, scale, light)
            yield _bar(top, height, figures.median_s, scale, dark)
    said, color = _said(row, period)
    yield _write(_SAID, y + 21, said, color)
    yield from _weeks(row, period, y)
    yield "</g>"


def _bar(top: int, height: int, seconds: int, scale: int, color: str) -> str:
    # What took no time at all is still seen to be there.
    width = max(round(seconds * _BARS_WIDTH / scale, 1), 1.5)
    return f'<rect x="{_BARS}" y="{top}" width="{width:g}" height="{height}" fill="{color}"/>'


def _said(row: Row, period: Period) -> tuple[str, str]:
    """Return the figures in words, and their color: what became slower stands out."""
    if period.change is None:
        whole = row.whole
        return f"{lasted(whole.median_s)}, 9 of 10 in {lasted(whole.p90_s)} · {counted(whole.count, 'time')}", _INK
    was, now = (lasted(side.median_s) if side else "—" for side in (row.earlier, row.later))
    return f"{was} → {now} · {changed_said(row)}", _SLOW if trend_of(row)[0] is Trend.SLOWER else _INK


def _told(row: Row) -> str:
    worst = ", ".join(f"{number} {lasted(seconds)}" for seconds, number in row.whole.worst)
    return f"{row.name}: {counted(row.whole.count, 'time')}, median {lasted(row.whole.median_s)}; longest {worst}"


def _weeks(row: Row, period: Period, y: int) -> Iterator[str]:
    highest = max([week.median_s for week in row.weeks if week] + [1])
    slot = _WEEKS_WIDTH / len(row.weeks)
    for place, (monday, week) in enumerate(zip(period.mondays, row.weeks, strict=True)):
        x = round(_WEEKS + slot * place, 1)
        if period.change and 0 <= (period.change - monday).days < 7:
            ends = f'x1="{x:g}" x2="{x:g}" y1="{y + 2}" y2="{y + _ROW - 2}"'
            yield f'<line {ends} stroke="{_SLOW}" stroke-dasharray="3 2"/>'
        if week is not None:
            height = max(round(week.median_s * 24 / highest, 1), 1)
            wide = round(slot * 0.76, 1)
            yield f'<rect x="{x:g}" y="{y + 30 - height:g}" width="{wide:g}" height="{height:g}" fill="{_NOW}"/>'


def _short(text: str) -> str:
    return text if len(text) <= _LABEL_MAX else f"{text[: _LABEL_MAX - 1]}…"


def _write(x: int, y: int, said: str, color: str, anchor: str = "start", *, size: int = 14, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" fill="{color}" text-anchor="{anchor}" font-size="{size}"{weight}>{_safe(said)}</text>'
    )


def _safe(text: str) -> str:
    """Return a text as XML has it: no markup, and none of the characters that XML can't hold."""
    return html.escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text))
