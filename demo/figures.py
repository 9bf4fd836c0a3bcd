"""The parts of the page: its style, an image, a loss curve, a text as it is revealed."""

import base64
import io
import math
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from demo.samples import Readings

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --faint: #6b7280; --line: #d9dce1; --paper: #fcfcfb; --panel: #f1f2f4;
  --accent: #2f6fde; --good: #1a7f45; --bad: #c22f2f; --new: #ffe08a; --new-ink: #1c2024; --mask: #c5c9d0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --faint: #9aa2ad; --line: #343a42; --paper: #15181c;
  --panel: #1e2227; --accent: #7aa7ff; --good: #5fce8e; --bad: #ff8a80; --new: #e2b93b; --mask: #4a515b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; }
h2 { font-size: 20px; margin: 44px 0 8px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 20px 0 8px; }
p { max-width: 76ch; margin: 0 0 14px; }
small { display: block; font-size: 12.5px; font-weight: normal; color: var(--faint); }
header p { font-size: 17px; }
img { image-rendering: pixelated; display: block; border-radius: 2px; }
table { border-collapse: collapse; }
.wide { overflow-x: auto; }
.scores { width: 100%; }
.scores th, .scores td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); }
.scores thead th { font-size: 12.5px; color: var(--faint); font-weight: normal; }
.scores td { white-space: nowrap; }
.number { font-variant-numeric: tabular-nums; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.grid th { text-align: left; font-weight: normal; padding-right: 18px; white-space: nowrap; }
.grid td { padding: 2px 4px 2px 0; }
.faint { color: var(--faint); font-size: 12px; text-align: center; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 8px 32px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(106px, 1fr)); gap: 14px 10px; }
figure { margin: 0; font-size: 13px; line-height: 1.35; } figcaption { padding-top: 4px; }
.reveal { display: flex; gap: 20px; align-items: flex-start; margin: 0 0 26px; overflow-x: auto; }
.reveal img { flex: none; margin-top: 2px; }
.tokens { font: 12.5px/1.3 ui-monospace, "DejaVu Sans Mono", monospace; }
.tokens td { padding: 2px 5px; height: 22px; white-space: nowrap; }
.tokens .new span { background: var(--new); color: var(--new-ink); border-radius: 3px; }
.tokens .new span { padding: 1px 4px; margin: 0 -4px; }
.tokens .masked span { display: block; min-width: 22px; height: 14px; border-radius: 3px; background: var(--mask); }
.tokens .given, .tokens .end, .tokens .count { color: var(--faint); }
.tokens .end.new span { color: var(--new-ink); }
svg { width: 100%; height: auto; overflow: visible; } svg text { fill: var(--faint); font-size: 12px; }
svg .line { stroke: var(--accent); stroke-width: 2; fill: none; stroke-linejoin: round; }
svg .rule { stroke: var(--line); stroke-width: 1; } svg .last { fill: var(--ink); font-weight: 600; }
svg .dot { fill: var(--accent); }
footer { margin-top: 48px; padding-top: 14px; border-top: 1px solid var(--line); color: var(--faint); font-size: 13px; }
"""

WIDTH, HEIGHT = 440, 220  # of a curve
LEFT, RIGHT, TOP, BOTTOM = 36, 44, 8, 24  # its margins


def tile(image: np.ndarray, height: int) -> str:
    """An image (h, w) uint8 as an <img> with its data inline, enlarged to ``height``."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    width = height * image.shape[1] // image.shape[0]
    return f'<img src="data:image/png;base64,{data}" width={width} height={height} alt="">'


def reveal(readings: Readings, index: int) -> str:
    """A text as a table: one row for each evaluation, one column for each token."""
    rows = []
    for number, row in enumerate(readings.reveal(index), start=1):
        cells = "".join(_token(token, state) for token, state in row)
        rows.append(f"<tr><td class=count>{number}</td>{cells}</tr>")
    return f"<table class=tokens>{''.join(rows)}</table>"


def _token(token: str, state: str) -> str:
    if state == "masked":
        return '<td class="masked"><span></span></td>'
    end = " end" if token == "</s>" else ""
    return f'<td class="{state}{end}"><span>{escape(shown(token))}</span></td>'


def shown(token: str) -> str:
    """A token as people read it."""
    return "end" if token == "</s>" else token.replace("▁", "") or "▁"


def curve(records: Sequence[dict], field: str, title: str) -> str:
    """An SVG of ``field`` of the records over the steps, on a logarithmic scale."""
    points = [(r["step"], r[field]) for r in records if r[field] > 0]
    steps, low, high = points[-1][0], min(v for _, v in points), max(v for _, v in points)
    low, high = math.log10(low * 0.92), math.log10(high * 1.08)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / steps

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - math.log10(value)) / max(high - low, 1e-9)

    marks = []
    for value in _ticks(low, high):
        marks.append(f'<line class=rule x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        marks.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for step in (0, steps // 2, steps):
        marks.append(f'<text x="{x(step):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{step or "step 0"}</text>')
    line = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    step, value = points[-1]
    return (
        f'<div><h3>{escape(title)}</h3><svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{escape(title)}">'
        f'{"".join(marks)}<polyline class=line points="{line}"/>'
        f'<circle class=dot cx="{x(step):.1f}" cy="{y(value):.1f}" r="3"/>'
        f'<text class=last x="{x(step) + 8:.1f}" y="{y(value) + 4:.1f}">{value:.3g}</text></svg></div>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round values between 10^low and 10^high, about eight at most."""
    ticks: list[float] = []
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [s * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for s in steps]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) >= 3:
            break
    return ticks
