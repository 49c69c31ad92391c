"""svg.py -- what the drawings of this folder share: a panel's place and axis, round numbers on it, text and lines.

The SVG is written by hand, as strings: no package is needed, and a picture is some 10 kB of text.
"""
import math
from xml.sax.saxutils import escape

PANEL_W, PANEL_H = 560, 250
PLOT_X, PLOT_Y, PLOT_W, PLOT_H = 62, 46, 360, 164  # the axes in a panel; names of lines stand right of them
HEAD = 62
INK, SOFT, GRID = "#222222", "#666666", "#e4e4e4"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def short(value):
    """A number on an axis."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return "%g%s" % (round(value / size, 3), suffix)
    return "%g" % round(value, 6)


def ticks(low, high, count):
    """Round numbers from low to high, about so many."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


class Scale:
    """Values to a height in the plot."""

    def __init__(self, values, log=False, zero=True):
        self.log = log
        low, high = min(values), max(values)
        if log:
            self.low, self.high = math.floor(math.log10(low)), math.ceil(math.log10(high))
            self.high += self.high == self.low
            self.ticks = [10.0 ** e for e in range(self.low, self.high + 1)]
            return
        low = 0 if zero else low
        room = (high - low) * 0.08 or abs(high) * 0.01 or 1
        self.low, self.high = (0 if zero else low - room), high + room
        self.ticks = ticks(self.low, self.high, 4)

    def y(self, value):
        at = math.log10(value) if self.log else value
        return PLOT_Y + PLOT_H * (1 - (at - self.low) / (self.high - self.low))


def text(x, y, words, size=12, colour=INK, anchor="start", weight="normal"):
    return '<text x="%.1f" y="%.1f" font-size="%d" fill="%s" text-anchor="%s" font-weight="%s">%s</text>' % (
        x, y, size, colour, anchor, weight, escape(words))


def path(points, **attributes):
    d = "M" + "L".join("%.1f %.1f" % point for point in points)
    return '<path d="%s" %s/>' % (d, " ".join('%s="%s"' % (key.replace("_", "-"), value) for key, value in attributes.items()))


def names(labels):
    """Names of lines at their right ends, pushed apart where they would lie over each other."""
    out, lowest = [], -1e9
    for y, words, colour in sorted(labels):
        y = max(y, lowest + 14)
        lowest = y
        out.append((y, words, colour))
    over = max(0, lowest - (PLOT_Y + PLOT_H + 4)) if out else 0
    return [text(PLOT_X + PLOT_W + 8, y - over + 4, words, 12, colour) for y, words, colour in out]


def height_axis(scale):
    """Lines at round values, and below them the line that the other axis lies on."""
    out = []
    for value in scale.ticks:
        y = scale.y(value)
        out.append('<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="%s"/>' % (PLOT_X, PLOT_X + PLOT_W, y, y, GRID))
        out.append(text(PLOT_X - 8, y + 4, short(value), 11, SOFT, "end"))
    out.append('<line x1="%d" x2="%d" y1="%d" y2="%d" stroke="%s"/>' % (PLOT_X, PLOT_X + PLOT_W, PLOT_Y + PLOT_H, PLOT_Y + PLOT_H, SOFT))
    return out


def mark(x, words):
    """A place on the axis below."""
    return ['<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="%s"/>' % (x, x, PLOT_Y + PLOT_H, PLOT_Y + PLOT_H + 4, SOFT),
            text(x, PLOT_Y + PLOT_H + 18, words, 11, SOFT, "middle")]


def page(title, under, panels):
    """Panels, each a list of elements, two in a row."""
    width, height = 2 * PANEL_W, HEAD + (len(panels) + 1) // 2 * PANEL_H
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="Helvetica, Arial, sans-serif">'
           % (width, height, width, height), '<rect width="%d" height="%d" fill="white"/>' % (width, height),
           text(PLOT_X, 30, title, 20, INK, weight="bold"), text(PLOT_X, 49, under, 13, SOFT)]
    for i, panel in enumerate(panels):
        out.append('<g transform="translate(%d %d)">' % (i % 2 * PANEL_W, HEAD + i // 2 * PANEL_H))
        out += panel + ["</g>"]
    return "\n".join(out + ["</svg>"]) + "\n"
