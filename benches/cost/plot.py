"""The plot, in SVG: what each tool costs for each transfer as a multiple of backhaul, and how near to what is asked it is.

Pure: figures in, text out. Bars start at 1, where a tool costs what backhaul costs (or a figure is just what is asked).
"""

import math
import statistics
from xml.sax.saxutils import escape

from .report import order

WIDTH = 1120
LEFT = 150
RIGHT = 24
GAP = 30
ROW = 17
BAR = 11
LOG_MIN, LOG_MAX = math.log2(1 / 8), math.log2(32)
TICKS = [(1 / 8, "⅛"), (1 / 4, "¼"), (1 / 2, "½"), (1, "1"), (2, "2"), (4, "4"), (8, "8"), (16, "16"), (32, "32")]
COLUMNS = [("wall", "time", "s"), ("cpu", "CPU time", "s"), ("peak", "peak memory", "MiB")]
ASKED_LEFT = 400
ASKED_TICKS = [(1 / 8, "⅛"), (1 / 4, "¼"), (1 / 2, "½"), (1, "as asked"), (2, "2"), (4, "4"), (8, "8")]

STYLE = """
  svg { --back: #ffffff; --text: #1f2430; --dim: #667085; --grid: #e3e6ec; --line: #1f2430;
        --more: #2f74c0; --less: #d9822b; --limit: #98a1b3; --good: #2e9e5b; --bad: #d0453e; }
  @media (prefers-color-scheme: dark) {
    svg { --back: #12161d; --text: #e6e9ef; --dim: #98a2b3; --grid: #2a313c; --line: #e6e9ef;
          --more: #5b9de0; --less: #e79a4c; --limit: #6d7688; --good: #4bbd78; --bad: #ec6a63; }
  }
  text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 11px; fill: var(--text); }
  .title { font-size: 17px; font-weight: 600; }
  .head { font-size: 12.5px; font-weight: 600; }
  .dim { fill: var(--dim); }
  .small { font-size: 10px; }
  .grid { stroke: var(--grid); stroke-width: 1; }
  .one { stroke: var(--line); stroke-width: 1.2; }
  .span { stroke: var(--text); stroke-width: 1; opacity: .55; }
"""
# For viewers that know no variables, and no media queries: the light ones.
PLAIN = {
    "back": "#ffffff", "text": "#1f2430", "dim": "#667085", "grid": "#e3e6ec", "line": "#1f2430", "more": "#2f74c0",
    "less": "#d9822b", "limit": "#98a1b3", "good": "#2e9e5b", "bad": "#d0453e",
}  # fmt: skip


class Canvas:
    """Elements, from the top down; `y` is where the next goes."""

    def __init__(self):
        self.elements = []
        self.y = 0

    def text(self, x, y, words, kind="", anchor="start"):
        self.elements.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>')

    def line(self, x1, y1, x2, y2, kind):
        self.elements.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def bar(self, x1, x2, y, colour, hint):
        left, width = min(x1, x2), max(abs(x2 - x1), 1)
        self.elements.append(
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" rx="1.5" class="{colour}">'
            f"<title>{escape(hint)}</title></rect>"
        )


class Axis:
    """A logarithmic axis of ratios between two places; what lies beyond stands at its end."""

    def __init__(self, left, right, least=LOG_MIN, most=LOG_MAX):
        self.left, self.right, self.least, self.most = left, right, least, most

    def at(self, ratio):
        logarithm = min(max(math.log2(max(ratio, 1e-9)), self.least), self.most)
        return self.left + (logarithm - self.least) / (self.most - self.least) * (self.right - self.left)


def svg(bench, figures):
    """The whole picture."""
    canvas = Canvas()
    canvas.y = 34
    canvas.text(20, canvas.y, "What other tools cost, as multiples of backhaul", "title")
    canvas.y += 20
    canvas.text(
        20, canvas.y, "Right of 1: the tool costs more than backhaul. Left of 1: less. Bars are medians of the rounds, thin "
        "lines the least and the greatest; the scale is logarithmic.", "dim"
    )  # fmt: skip
    canvas.y += 15
    canvas.text(
        20, canvas.y, "limit: a minimal program that does only the necessary system calls and cryptography. backhaul and "
        "the limit are durable when they end, the other tools are not.", "dim"
    )  # fmt: skip
    canvas.y += 24
    transfers(canvas, [run for run in bench.runs.values() if run.rows.get("backhaul") and run.name != "start"])
    asked(canvas, [figure for figure in figures if figure.values])
    caption(canvas, bench)
    body = "\n".join(canvas.elements)
    colours = "\n".join(f"  .{name} {{ fill: {PLAIN[name]}; fill: var(--{name}); }}" for name in PLAIN if name != "line")
    height = canvas.y + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" '
        f'role="img" aria-label="What other tools cost, as multiples of backhaul">\n'
        f"<style>{plain(STYLE)}{colours}\n</style>\n"
        f'<rect width="100%" height="100%" class="back"/>\n{body}\n</svg>\n'
    )


def plain(style):
    """Before each use of a variable the light colour, for viewers that take only that."""
    lines = []
    for line in style.splitlines():
        for name, colour in PLAIN.items():
            for key in ("fill", "stroke"):
                line = line.replace(f"{key}: var(--{name});", f"{key}: {colour}; {key}: var(--{name});")
        lines.append(line)
    return "\n".join(lines)


def transfers(canvas, runs):
    """A block for each transfer, with a row for each tool and a column for each figure."""
    width = (WIDTH - LEFT - RIGHT - GAP * (len(COLUMNS) - 1)) / len(COLUMNS)
    axes = [Axis(LEFT + place * (width + GAP), LEFT + place * (width + GAP) + width) for place in range(len(COLUMNS))]
    if not runs:
        return
    for axis, (_, name, _) in zip(axes, COLUMNS):
        canvas.text(axis.left, canvas.y, f"{name}, tool / backhaul", "head")
    canvas.y += 18
    for run in runs:
        tools = sorted((tool for tool in run.rows if tool != "backhaul" and run.rows[tool]), key=order)
        canvas.text(20, canvas.y, run.title, "head")
        canvas.y += 15
        for axis, (what, _, unit) in zip(axes, COLUMNS):
            value = statistics.median(run.values(what, "backhaul"))
            canvas.text(axis.at(1) + 5, canvas.y, f"backhaul {value:,.2f} {unit}", "dim small")
        top = canvas.y + 6
        bottom = top + len(tools) * ROW
        for axis in axes:
            ticks(canvas, axis, top, bottom, TICKS)
        for number, tool in enumerate(tools):
            y = top + number * ROW + (ROW - BAR) / 2
            canvas.text(LEFT - 10, y + BAR - 2, tool, "", "end")
            for axis, (what, _, _) in zip(axes, COLUMNS):
                ratio_bar(canvas, axis, y, run, what, tool)
        canvas.y = bottom + 30


def ratio_bar(canvas, axis, y, run, what, tool):
    ratios = run.ratios(what, tool, "backhaul")
    if not ratios:
        return
    median = statistics.median(ratios)
    colour = "limit" if tool == "limit" else "more" if median >= 1 else "less"
    hint = f"{run.title}: {tool} {median:.2f} [{min(ratios):.2f} .. {max(ratios):.2f}] of backhaul"
    bar(canvas, axis, y, median, (min(ratios), max(ratios)), colour, hint)


def bar(canvas, axis, y, median, ends, colour, hint):
    canvas.bar(axis.at(1), axis.at(median), y, colour, hint)
    middle = y + BAR / 2
    low, high = axis.at(ends[0]), axis.at(ends[1])
    if high - low > 1:
        canvas.line(low, middle, high, middle, "span")
    words = f"{median:.2f}" if median < 10 else f"{median:.0f}"
    # Beyond the bar and the thin line, on the side where the bar goes, or on the other one where there is no room.
    edge = max(axis.at(1), high) + 4 if median >= 1 else min(axis.at(1), low) - 4
    if median >= 1 and edge + 24 <= axis.right + GAP - 4:
        canvas.text(edge, y + BAR - 2, words, "small")
    elif median < 1 and edge - 22 >= axis.left - 12:
        canvas.text(edge, y + BAR - 2, words, "small", "end")
    elif median >= 1:
        canvas.text(axis.at(1) - 4, y + BAR - 2, words, "small", "end")
    else:
        canvas.text(axis.at(1) + 4, y + BAR - 2, words, "small")


def ticks(canvas, axis, top, bottom, marks):
    for ratio, words in marks:
        x = axis.at(ratio)
        canvas.line(x, top, x, bottom, "one" if ratio == 1 else "grid")
        canvas.text(x, bottom + 11, words, "dim small", "middle")


def asked(canvas, figures):
    """What must be reached: seen / asked, so that all that is reached lies left of 1."""
    if not figures:
        return
    canvas.y += 6
    axis = Axis(ASKED_LEFT, WIDTH - 180, math.log2(1 / 8), math.log2(8))
    canvas.text(20, canvas.y, "What must be reached: seen / asked", "head")
    top = canvas.y + 8
    bottom = top + len(figures) * ROW
    ticks(canvas, axis, top, bottom, ASKED_TICKS)
    for number, figure in enumerate(figures):
        y = top + number * ROW + (ROW - BAR) / 2
        canvas.text(ASKED_LEFT - 12, y + BAR - 2, figure.name.replace("`", ""), "", "end")
        # Nothing asked, nothing seen: as good as it gets.
        scale = figure.asked if figure.asked else 1
        values = [value / scale if figure.asked else (0.0 if value <= 0 else 8.0) for value in figure.values]
        median, ends = statistics.median(values), (min(values), max(values))
        colour = "good" if figure.reached else "limit" if figure.passed else "bad"
        canvas.bar(axis.at(1), axis.at(median), y, colour, f"{figure.name}: {figure.verdict()}")
        low, high = axis.at(ends[0]), axis.at(ends[1])
        if high - low > 1:
            canvas.line(low, y + BAR / 2, high, y + BAR / 2, "span")
        unit = f" {figure.unit}" if figure.unit else ""
        digits = 0 if figure.unit == "KiB" else 2
        verdict = {"good": "", "limit": ", at the limit", "bad": ", missed"}[colour]
        canvas.text(WIDTH - 165, y + BAR - 2, f"{figure.median:,.{digits}f}{unit} of {figure.asked:g}{verdict}", "small")
    canvas.y = bottom + 34


def caption(canvas, bench):
    lines = [
        f"{bench.machine}. {bench.date}, commit {bench.commit}. {bench.rounds} rounds"
        + (", --quick: a look, no judgement." if bench.is_quick else "."),
        f"Files: {bench.disk.words()}.",
        "; ".join(line for tool, line in bench.versions.items() if tool not in ("strace", "nginx")) + ".",
    ]
    for line in lines:
        canvas.text(20, canvas.y, line.replace("`", ""), "dim small")
        canvas.y += 14
