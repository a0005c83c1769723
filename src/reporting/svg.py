"""Small charts as inline SVG, drawn in the page's own colours, so that they follow light, dark and print."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

LEFT, RIGHT, TOP, BOTTOM = 34, 8, 8, 30  # units around the plot for ticks and the axis' name
MOST_POINTS = 150                        # of a line; more are invisible and make the page megabytes larger


class Chart:
    """Lines, bands and dots over two linear axes. Colours are classes of the page: c0, c1, c2, ...

    x, y: the lowest and highest value of each axis;  width, height: of the plot itself, in units of the picture.
    """

    def __init__(self, x: tuple[float, float], y: tuple[float, float], width: int = 260, height: int = 260):
        self.x, self.y, self.width, self.height = x, y, width, height
        self.shapes: list[str] = []

    def line(self, x: np.ndarray, y: np.ndarray, style: str) -> None:
        """A line through points (n,); it breaks where a value is NaN."""
        for run in _unbroken(x, y):
            points = _thin(np.column_stack(self._place(x[run], y[run])))
            self.shapes.append(f'<polyline class="line {style}" points="{_points(points)}"/>')

    def band(self, x: np.ndarray, low: np.ndarray, high: np.ndarray, style: str) -> None:
        """The area between two lines (n,)."""
        known = ~(np.isnan(low) | np.isnan(high))
        if known.any():
            there, back = (np.column_stack(self._place(x[known], ends[known])) for ends in (low, high))
            self.shapes.append(f'<polygon class="band {style}" '
                               f'points="{_points(np.concatenate([_thin(there), _thin(back)[::-1]]))}"/>')

    def dots(self, x: np.ndarray, y: np.ndarray, style: str, radius: float = 2.2) -> None:
        """Dots at points (n,); NaN draws nothing."""
        for left, top in zip(*self._place(np.asarray(x, float), np.asarray(y, float)), strict=True):
            if np.isfinite([left, top]).all():
                self.shapes.append(f'<circle class="dot {style}" cx="{left:.1f}" cy="{top:.1f}" r="{radius}"/>')

    def rule(self, x: Sequence[float], y: Sequence[float], style: str = "guide") -> None:
        """A straight line from the first point to the second."""
        (x1, x2), (y1, y2) = self._place(np.asarray(x, float), np.asarray(y, float))
        self.shapes.append(f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def svg(self, title: str, x_name: str, y_name: str, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> Markup:
        """The chart. title: what it shows, for screen readers."""
        right, bottom = LEFT + self.width, TOP + self.height
        marks = []
        for value in x_ticks:
            left = self._place(np.array([value]), np.array([self.y[0]]))[0][0]
            marks += [f'<line class="grid" x1="{left:.1f}" y1="{TOP}" x2="{left:.1f}" y2="{bottom}"/>',
                      f'<text x="{left:.1f}" y="{bottom + 11}" text-anchor="middle">{_tick(value)}</text>']
        for value in y_ticks:
            top = self._place(np.array([self.x[0]]), np.array([value]))[1][0]
            marks += [f'<line class="grid" x1="{LEFT}" y1="{top:.1f}" x2="{right}" y2="{top:.1f}"/>',
                      f'<text x="{LEFT - 4}" y="{top + 3:.1f}" text-anchor="end">{_tick(value)}</text>']
        names = (f'<text x="{LEFT + self.width / 2}" y="{bottom + 24}" text-anchor="middle">'
                 f'{escape(x_name)}</text>'
                 f'<text transform="translate(8 {TOP + self.height / 2}) rotate(-90)" text-anchor="middle">'
                 f'{escape(y_name)}</text>')
        return Markup(f'<svg viewBox="0 0 {right + RIGHT} {bottom + BOTTOM}" role="img" aria-label="{escape(title)}">'
                      f'{"".join(marks)}{names}{"".join(self.shapes)}</svg>')

    def _place(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Units from the left and from the top; values beyond the end of an axis are clipped to it."""
        left, top = ((np.clip(values, *sorted(ends)) - ends[0]) / ((ends[1] - ends[0]) or 1)
                     for values, ends in ((x, self.x), (y, self.y)))
        return LEFT + self.width * left, TOP + self.height * (1 - top)


def interval_bar(low: float, value: float, high: float, ends: tuple[float, float],
                 dots: Sequence[tuple[float, str]] = (), style: str = "c0") -> Markup:
    """A score and its interval as one line of a table, all lines on the same scale from ends[0] to ends[1].

    dots: further scores and their style, for example test scores. NaN draws nothing.
    """
    def place(number: float) -> str:
        return f"{4 + 192 * (min(max(number, ends[0]), ends[1]) - ends[0]) / ((ends[1] - ends[0]) or 1):.1f}"

    shapes = ['<line class="grid" x1="4" y1="9" x2="196" y2="9"/>']
    if not np.isnan([low, high]).any():
        shapes.append(f'<line class="whisker {style}" x1="{place(low)}" y1="9" x2="{place(high)}" y2="9"/>')
    if not np.isnan(value):
        shapes.append(f'<circle class="dot {style}" cx="{place(value)}" cy="9" r="4"/>')
    shapes += [f'<circle class="ring {ring}" cx="{place(number)}" cy="9" r="3.2"/>'
               for number, ring in dots if not np.isnan(number)]
    return Markup(f'<svg class="bar" viewBox="0 0 200 18" aria-hidden="true">{"".join(shapes)}</svg>')


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` round numbers between two values."""
    if not (high > low and np.isfinite(high - low)):
        return [low]
    raw = (high - low) / most
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(power * times for times in (1, 2, 5, 10, 20) if (high - low) / (power * times) < most)
    return [float(step * number) for number in range(int(np.ceil(low / step - 1e-9)), int(high / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}" if value == 0 else f"{value:.3g}"


def _unbroken(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Indices of each run of at least two points without NaN."""
    known = np.flatnonzero(~(np.isnan(x) | np.isnan(y)))
    return [run for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if len(run) > 1]


def _thin(points: np.ndarray) -> np.ndarray:
    """Reduces a line to MOST_POINTS points, evenly spaced along its length; both ends are kept."""
    if len(points) <= MOST_POINTS:
        return points
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    chosen = np.searchsorted(length, np.linspace(0, length[-1], MOST_POINTS))
    return points[np.unique(np.concatenate([[0], np.minimum(chosen, len(points) - 1), [len(points) - 1]]))]


def _points(points: np.ndarray) -> str:
    return " ".join(f"{left:.1f},{top:.1f}" for left, top in points)
