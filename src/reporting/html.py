"""A report as one HTML file without outside addresses: sections, tables and figures, filled into jinja2 templates.

Templates escape all text. Only Markup, which the macros of blocks.html.jinja and the charts return, is inserted as it
is. The page's content security policy forbids network access and every script but its own.
"""

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image, UnidentifiedImageError

MOST_BYTES = 9_500_000                  # of the page
WIDTHS = (1800, 1300, 900, 600, 0)      # pixels of a picture at most; the first whose page is small enough; 0: none
UNCHANGED_BYTES = 120_000               # a PNG of at most so many bytes is inserted unchanged
MOST_HIGH = 16_000                      # pixels; WebP allows 16,383
MANY_PANELS = 6                         # more panels are drawn smaller
QUALITY = 82                            # of WebP
COLOURS = ("c0", "c1", "c2", "c3", "c4")  # classes of page.css
AMOUNT = r"[-+]?[\d,]+(?:\.\d+)?(?: ?[%kM])?"
NUMBER = re.compile(rf"{AMOUNT}(?: (?:to|of|±) {AMOUNT})?(?: \({AMOUNT} to {AMOUNT}\))?$")

FOLDER = Path(__file__).parent
TEMPLATES = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                        lstrip_blocks=True)
TEMPLATES.filters["keep_percent"] = lambda words: words.replace(" %", "\u00a0%")  # no line break before it
TEMPLATES.filters["breakable"] = lambda name: Markup(escape(name).replace("_", Markup("_<wbr>")))
TEMPLATES.tests["number_text"] = lambda value: bool(NUMBER.match(value))
BLOCKS = TEMPLATES.get_template("blocks.html.jinja").module


@dataclass(frozen=True)
class Picture:
    """A PNG file to be inserted. text: what it shows, for screen readers."""

    path: Path
    text: str


@dataclass(frozen=True)
class ReportFigure:
    """A picture or markup with a caption and the commands that make it."""

    content: Markup | Picture
    caption: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folded:
    """Blocks that open on a click; printed in full."""

    title: str
    blocks: Sequence["Block"]


Block = Markup | ReportFigure | Folded


@dataclass
class Section:
    """A section of the report. notes: files that are damaged or out of date;  warning: a line for the summary."""

    name: str  # in the address of the section
    title: str
    lead: str = ""
    blocks: list[Block] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warning: str = ""


@dataclass(frozen=True)
class SummaryTile:
    """One value of the summary: its name, the value, and a few words of detail."""

    name: str
    value: str
    details: str = ""


def join(pieces: Iterable[object], separator: str = "") -> Markup:
    """Concatenates pieces; those that are not Markup are escaped."""
    return escape(separator).join(pieces)


def paragraph(*pieces: object, style: str = "") -> Markup:
    """A paragraph."""
    return BLOCKS.paragraph(join(pieces), style)


def heading(title: str) -> Markup:
    """A heading within a section."""
    return BLOCKS.heading(title)


def link(address: str, words: str) -> Markup:
    """A link to a place in the page."""
    return BLOCKS.link(address, words)


def code(words: str) -> Markup:
    """Text in a fixed-width font."""
    return Markup("<code>{}</code>").format(words)


def table(headers: Sequence[object], rows: Sequence[Sequence[object]], styles: Sequence[str] = ()) -> Markup:
    """A table that scrolls within its own box; columns of numbers are aligned right.

    headers: all empty for a table without a head;  styles: a class of page.css for each row, "" for none.
    """
    numeric = [_are_numbers(column) for column in zip(*rows, strict=True)] or [False] * len(headers)
    return BLOCKS.table(headers, rows, numeric, styles)


def _are_numbers(cells: Sequence[object]) -> bool:
    """True where every cell that is not empty or "-" is a number or an interval."""
    filled = [str(cell) for cell in cells if str(cell) not in ("", "-")]
    return bool(filled) and all(NUMBER.match(cell) for cell in filled)


def panels(boxes: Sequence[tuple[str, str, Markup]], size: str = "") -> Markup:
    """Small multiples, each with a title, a few words and a chart or table.

    size: "wide" for broader ones, "tight" for small tables; default: "small" where there are many.
    """
    return BLOCKS.panels(boxes, size or ("small" if len(boxes) > MANY_PANELS else ""))


def legend(entries: Iterable[tuple[str, str]]) -> Markup:
    """A legend of pairs of a colour class, "c0", and its name."""
    return BLOCKS.legend(list(entries))


def commands(*lines: str) -> Markup:
    """Commands to copy; several are hidden behind their number until they are opened."""
    return BLOCKS.commands(lines)


def matrix(corner: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """A confusion matrix with the truth in rows: counts, each shaded by its share of the row."""
    return BLOCKS.matrix(corner, names, counts)


def findings(entries: Sequence[dict]) -> Markup:
    """A list of findings, each with `severity`, `what` and `details`, a list of texts."""
    return BLOCKS.findings(entries)


def check_picture(path: Path) -> Picture:
    """Checks that a picture can be decoded. Raises FileNotFoundError if it is missing, ValueError if it is damaged."""
    try:
        with Image.open(path) as image:
            image.load()
    except (UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's for broken chunks
        raise ValueError(f"{path} is not an image: {error}") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    return Picture(path, path.name)


def render(title: str, lead: Markup, tiles: Sequence[SummaryTile], warnings: Sequence[str], sections: Sequence[Section],
           missing: Markup | str = "") -> str:
    """The page. Pictures shrink until it has at most MOST_BYTES; as a last resort only their names are printed.

    warnings: for the top of the page;  missing: the table of sections that could not be made.
    """
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = TEMPLATES.get_template("page.html.jinja")
    for width in WIDTHS:
        filled = [{**vars(section), "blocks": [_prepare(block, width) for block in section.blocks]}
                  for section in sections]
        page = template.render(title=title, lead=lead, tiles=tiles, warnings=warnings, sections=filled, missing=missing,
                               style=Markup(style), script=Markup(script), script_hash=script_hash)
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def _prepare(block: Block, width: int) -> dict:
    """A block as page.html.jinja shows it, pictures at most `width` pixels wide."""
    if isinstance(block, Folded):
        return {"kind": "folded", "title": block.title, "blocks": [_prepare(each, width) for each in block.blocks]}
    if not isinstance(block, ReportFigure):
        return {"kind": "markup", "content": block}
    figure = {"kind": "figure", "caption": block.caption, "commands": block.commands, "content": block.content,
              "picture": None, "missing": "", "style": "drawn"}
    if isinstance(block.content, Picture) and width:
        address, wide, high = _encode(block.content.path, width)
        figure["picture"] = {"address": address, "width": wide, "height": high, "text": block.content.text}
        figure["style"] = "picture tall" if high > wide else "picture"
    elif isinstance(block.content, Picture):
        figure |= {"missing": str(block.content.path), "style": ""}
    return figure


def _encode(path: Path, width: int) -> tuple[str, int, int]:
    """A PNG file as a data address, and the width and height it then has."""
    raw = path.read_bytes()
    with Image.open(io.BytesIO(raw)) as image:
        if image.width <= width and len(raw) <= UNCHANGED_BYTES:
            return f"data:image/png;base64,{base64.b64encode(raw).decode()}", image.width, image.height
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image)
        paper = paper.convert("RGB")
        scale = min(1.0, width / paper.width, MOST_HIGH / paper.height)
        if scale < 1:
            paper = paper.resize([max(1, round(scale * side)) for side in paper.size], Image.Resampling.LANCZOS)
        file = io.BytesIO()
        paper.save(file, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}", paper.width, paper.height
