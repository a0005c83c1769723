"""The console that tables are printed on, and how numbers, intervals, counts and ids are written in them."""

import math

from rich.console import Console
from rich.table import Table

MISSING = "-"
SINGULAR = {"": "", "are": "is", "have": "has", "do": "does"}


def make_console() -> Console:
    """A console for standard output; 180 columns wide where the output goes to a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=180)


def number(value: float | str | None, decimals: int = 4, sign: str = "") -> str:
    """A number with fixed decimals; "-" where it is None, not finite or not a number.

    sign: "+" writes the sign of positive numbers too.

    >>> number(0.91239), number("0.5", 2), number(0.01, 3, "+"), number(None)
    ('0.9124', '0.50', '+0.010', '-')
    """
    try:
        value = float(value)
    except (TypeError, ValueError):
        return MISSING
    return f"{value:{sign},.{decimals}f}" if math.isfinite(value) else MISSING


def percent(share: float | str | None, decimals: int = 1) -> str:
    """A share in [0, 1] as percent: 0.125 is "12.5 %"; "-" where there is no number."""
    try:
        text = number(100 * float(share), decimals)
    except (TypeError, ValueError):
        return MISSING
    return text if text == MISSING else f"{text} %"


def interval(low: float | str | None, high: float | str | None, decimals: int = 4, sign: str = "") -> str:
    """An interval, "0.8100 to 0.9200"; "-" where one end is missing."""
    ends = number(low, decimals, sign), number(high, decimals, sign)
    return MISSING if MISSING in ends else f"{ends[0]} to {ends[1]}"


def plural(amount: int, noun: str, verb: str = "") -> str:
    """An amount, its noun in singular or plural, and a verb that agrees: "1 image has", "2,000 images have".

    verb: "are", "have" or "do", or "" for none.
    """
    if amount != 1:
        return f"{amount:,} {noun}s {verb}".rstrip()
    return f"1 {noun} {SINGULAR[verb]}".rstrip()


def shorten(text: str, longest: int) -> str:
    """A text of at most `longest` characters: the middle of a longer one is replaced by "…"."""
    return text if len(text) <= longest else f"{text[:longest // 2 - 1]}…{text[-longest // 2:]}"


def short_id(image_id: str, longest: int = 22) -> str:
    """An image id without its folders, of at most `longest` characters."""
    return shorten(image_id.rpartition("/")[2], longest)


def fit_width(table: Table, console: Console, keep: int) -> None:
    """Removes the table's last columns until it fits the console; the first `keep` columns always stay."""
    unlimited = console.options.update(max_width=10_000)
    while len(table.columns) > keep and console.measure(table, options=unlimited).maximum > console.width:
        table.columns.pop()
