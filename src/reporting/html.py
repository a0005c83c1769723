"""A report as one HTML file that needs nothing else: parts, tables, figures with their commands, and how they look.

Text is escaped wherever it comes in; only Markup, which the functions here make, goes into the page as it is. The page
forbids itself the network and every script but its own.
"""

import base64
import hashlib
import html
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

MOST_BYTES = 9_500_000                  # of the page
WIDTHS = (1800, 1300, 900, 600, 0)      # pixels of a picture at most, the first whose page is small enough; 0: none
AS_IT_IS = 120_000                      # bytes of a PNG that is taken as it is
MOST_HIGH = 16_000                      # pixels; WebP has no more than 16,383
MANY_PANELS = 6                         # beyond which panels are smaller
QUALITY = 82                            # of the larger ones, as WebP
AMOUNT = r"[-+]?[\d,]+(?:\.\d+)?(?: ?[%kM])?"
NUMBER = re.compile(rf"{AMOUNT}(?: (?:to|of|±) {AMOUNT})?(?: \({AMOUNT} to {AMOUNT}\))?$")


class Markup(str):
    """HTML: text that is in no more need of escaping."""


@dataclass(frozen=True)
class Picture:
    """A PNG file that goes into the page."""

    path: Path
    text: str  # what it shows, for who cannot see it


@dataclass(frozen=True)
class Figure:
    """Something to look at, a sentence on how to read it, and the commands that make it."""

    content: Markup | Picture
    caption: str
    commands: tuple[str, ...] = ()


@dataclass
class Part:
    """A chapter of the report. notes: what could not be read or is old;  warning: what the summary says of it."""

    name: str  # in the address of the part
    title: str
    lead: str = ""
    blocks: list[Markup | Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warning: str = ""


@dataclass(frozen=True)
class Tile:
    """One figure of the summary: what it is, how much, and a few words more."""

    name: str
    value: str
    more: str = ""


def text(value: object) -> Markup:
    """What can stand in the page: Markup as it is, all else escaped."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def join(pieces: Iterable[object], between: str = "") -> Markup:
    """Several pieces one after the other."""
    return Markup(between.join(text(piece) for piece in pieces))


def paragraph(*pieces: object, style: str = "") -> Markup:
    """A paragraph."""
    return Markup(f'<p class="{style}">{join(pieces)}</p>' if style else f"<p>{join(pieces)}</p>")


def heading(title: str) -> Markup:
    """A heading within a part."""
    return Markup(f"<h3>{text(title)}</h3>")


def link(address: str, words: str) -> Markup:
    """A link to a place in the page or to a file beside it."""
    return Markup(f'<a href="{html.escape(address)}">{text(words)}</a>')


def table(headers: Sequence[object], rows: Sequence[Sequence[object]], styles: Sequence[str] = ()) -> Markup:
    """A table that scrolls within its own box; columns of numbers stand to the right. styles: a class a row, or none.

    Without any header the table has no head.
    """
    kinds = [' class="n"' if _are_numbers(column) else "" for column in zip(*rows, strict=True)] or [""] * len(headers)
    lines = []
    for number, row in enumerate(rows):
        style = f' class="{styles[number]}"' if styles and styles[number] else ""
        cells = "".join(f"<td{kind}>{text(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        lines.append(f"<tr{style}>{cells}</tr>")
    head = "".join(f'<th scope="col"{kind}>{text(header)}</th>' for kind, header in zip(kinds, headers, strict=True))
    head = f"<thead><tr>{head}</tr></thead>" if any(headers) else ""
    return Markup(f'<div class="scroll" tabindex="0"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>')


def _are_numbers(cells: Sequence[object]) -> bool:
    """True where every cell that says anything is a number, an interval or the like."""
    said = [str(cell) for cell in cells if str(cell) not in ("", "-")]
    return bool(said) and all(NUMBER.match(cell) for cell in said)


def panels(each: Sequence[tuple[str, str, Markup | str]], size: str = "") -> Markup:
    """Small multiples: title, a few words under it, and an SVG or table each; where they are many they are smaller.

    size: "wide" for broader ones, "tight" for small tables.
    """
    size = size or ("small" if len(each) > MANY_PANELS else "")
    boxes = [f'<div class="panel"><h4>{text(title)}</h4><p>{text(words)}</p>{content}</div>'
             for title, words, content in each]
    return Markup(f'<div class="panels {size}">{"".join(boxes)}</div>')


def legend(entries: Iterable[tuple[str, str]]) -> Markup:
    """Which colour is what: pairs of a style, "c0", and its name."""
    return Markup('<p class="legend">' + "".join(
        f'<span><i class="{style}"></i>{text(name)}</span>' for style, name in entries) + "</p>")


def commands(*lines: str) -> Markup:
    """Commands to copy; of several only their number until they are opened."""
    if not lines:
        return Markup("")
    box = (f'<div class="command"><code>{text(chr(10).join(lines))}</code>'
           '<button type="button" hidden>copy</button></div>')
    return Markup(box if len(lines) == 1 else
                  f'<details class="how"><summary>made by {len(lines)} commands</summary>{box}</details>')


def matrix(corner: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """A confusion matrix, rows the truth: counts, and the share of the row as its shade."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in names)
    lines = []
    for name, row in zip(names, counts, strict=True):
        total = max(1, sum(row))
        cells = "".join(f'<td style="--share:{value / total:.3f}">{value:,}<small>{value / total:.0%}</small></td>'
                        for value in row)
        lines.append(f'<tr><th scope="row">{text(name)}</th>{cells}</tr>')
    return Markup(f'<div class="scroll"><table class="matrix"><thead><tr><td>{text(corner)}</td>{head}</tr></thead>'
                  f"<tbody>{''.join(lines)}</tbody></table></div>")


def folded(title: str, blocks: Iterable[Markup | Figure]) -> tuple[Markup, ...]:
    """Blocks that open on a click, and in print always."""
    return (Markup(f"<details><summary>{text(title)}</summary>"), *blocks, Markup("</details>"))


def check_picture(path: Path) -> Picture:
    """The picture in a file. Raises FileNotFoundError where there is none, ValueError where it is damaged."""
    try:
        with Image.open(path) as image:
            image.load()
    except (UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's for broken chunks
        raise ValueError(f"{path} is no picture: {error}") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} is cut off or damaged: {error}") from error
    return Picture(path, path.name)


def render(title: str, lead: Markup, tiles: Sequence[Tile], warnings: Sequence[Markup], parts: Sequence[Part],
           rest: Markup) -> str:
    """The page. Pictures shrink until it has at most MOST_BYTES; the last resort is to name them only, and say so.

    warnings: what to know first;  rest: what stands after the parts.
    """
    for width in WIDTHS:
        page = _fill(title, lead, tiles, warnings, parts, rest, width)
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def _fill(title: str, lead: Markup, tiles: Sequence[Tile], warnings: Sequence[Markup], parts: Sequence[Part],
          rest: Markup, width: int) -> str:
    shown = "".join(f'<div class="tile"><span>{text(tile.name)}</span>{_value(tile.value)}'
                    f"<small>{text(tile.more)}</small></div>" for tile in tiles)
    warned = f'<ul class="warnings">{"".join(f"<li>{text(each)}</li>" for each in warnings)}</ul>' if warnings else ""
    contents = "".join(f'<li>{link("#" + part.name, part.title)}'
                       f'{" <i>!</i>" if part.notes else ""}</li>' for part in parts)
    body = "".join(_part(part, width) for part in parts)
    script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    values = {"SCRIPT_HASH": script, "STYLE": STYLE, "TITLE": html.escape(title), "LEAD": lead, "TILES": shown,
              "WARNINGS": warned, "CONTENTS": contents, "BODY": body, "REST": rest, "SCRIPT": SCRIPT}
    return re.sub("@@([A-Z_]+)@@", lambda mark: values[mark[1]], PAGE)  # in one go: a mark in a label stays a word


def _value(value: str) -> str:
    """A tile's value; a name is smaller than a number and may break after an underscore."""
    if NUMBER.match(value):
        return f"<b>{text(value)}</b>"
    return f'<b class="words">{text(value).replace("_", "_<wbr>")}</b>'


def _part(part: Part, width: int) -> str:
    notes = "".join(f'<p class="note">{text(note)}</p>' for note in part.notes)
    lead = paragraph(_prose(part.lead), style="lead") if part.lead else ""
    blocks = "".join(_figure(block, width) if isinstance(block, Figure) else block for block in part.blocks)
    return f'<section id="{html.escape(part.name)}"><h2>{text(part.title)}</h2>{lead}{notes}{blocks}</section>'


def _prose(words: str) -> str:
    """A sentence in which no line ends between a number and its per cent sign."""
    return words.replace(" %", "\u00a0%")


def _figure(figure: Figure, width: int) -> str:
    if not isinstance(figure.content, Picture):
        content, kind = figure.content, "drawn"
    elif not width:
        content, kind = f'<p class="note">left out, the page would be too large: {text(figure.content.path)}</p>', ""
    else:
        data, wide, high = _encode(figure.content.path, width)
        content = (f'<div class="card" tabindex="0"><img src="{data}" width="{wide}" height="{high}" '
                   f'alt="{html.escape(figure.content.text)}"></div>')
        kind = "picture tall" if high > wide else "picture"
    return (f'<figure class="{kind}">{content}<figcaption>{paragraph(_prose(figure.caption))}'
            f"{commands(*figure.commands)}</figcaption></figure>")


def _encode(path: Path, width: int) -> tuple[str, int, int]:
    """A PNG file as a data address, and the width and height it then has."""
    raw = path.read_bytes()
    with Image.open(io.BytesIO(raw)) as image:
        if image.width <= width and len(raw) <= AS_IT_IS:
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


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'sha256-@@SCRIPT_HASH@@'">
<link rel="icon" href="data:,">
<title>@@TITLE@@</title>
<style>@@STYLE@@</style>
<div id="page">
<nav aria-label="contents"><p>Contents</p><ol>@@CONTENTS@@</ol></nav>
<main>
<header><h1>@@TITLE@@</h1>@@LEAD@@<div class="tiles">@@TILES@@</div>@@WARNINGS@@</header>
@@BODY@@
@@REST@@
</main>
</div>
<script>@@SCRIPT@@</script>
</html>
"""

LIGHT = ("color-scheme: light; --back: #fff; --raised: #f6f7f8; --text: #1d2024; --dim: #5d646c; --line: #dde0e4; "
         "--c0: #0b6cb8; --c1: #c9530b; --c2: #0a8a63; --c3: #a34f85; --c4: #77808a; --warn: #8a5300; "
         "--warned: #fff6e2; --wrong: #c4281c; --bright: 1;")
DARK = ("color-scheme: dark; --back: #15171a; --raised: #1d2024; --text: #e4e6e9; --dim: #9aa2ab; --line: #33383e; "
        "--c0: #5fb0ee; --c1: #f59152; --c2: #3fc797; --c3: #dc93c0; --c4: #8b949e; --warn: #f0c064; "
        "--warned: #2a2416; --wrong: #ff8077; --bright: .86;")
COLOURS = ("c0", "c1", "c2", "c3", "c4")

COLOUR_RULES = "\n".join(
    f".line.{c}, .whisker.{c}, .ring.{c} {{ stroke: var(--{c}) }} .band.{c}, .dot.{c} {{ fill: var(--{c}) }} "
    f"i.{c} {{ background: var(--{c}) }}" for c in COLOURS)
STYLE = ":root {" + LIGHT + "}\n@media (prefers-color-scheme: dark) { :root {" + DARK + """} }
* { box-sizing: border-box }
html { scroll-behavior: smooth; scroll-padding-top: 12px; -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--back); color: var(--text); font: 15.5px/1.55 system-ui, -apple-system, "Segoe UI",
       Roboto, "Helvetica Neue", sans-serif; overflow-wrap: break-word }
#page { max-width: 1320px; margin: 0 auto; padding: 0 20px; display: grid; grid-template-columns: minmax(0, 1fr) }
main { min-width: 0; max-width: 1080px; padding-bottom: 60px }
nav { font-size: 14px; padding-top: 18px }
nav p { margin: 0 0 4px; color: var(--dim); font-size: 12.5px }
nav ol { margin: 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px }
nav a { color: var(--text); text-decoration: none }
nav a:hover, nav a:focus { color: var(--c0); text-decoration: underline }
nav i { color: var(--warn); font-style: normal; font-weight: 700 }
@media (min-width: 1100px) {
  #page { grid-template-columns: 178px minmax(0, 1fr); gap: 44px }
  nav { position: sticky; top: 0; align-self: start; max-height: 100vh; overflow-y: auto; padding: 46px 0 20px }
  nav ol { display: block }
  nav li { margin: 0; padding: 3px 0 }
}
header { padding-top: 34px }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.015em; font-weight: 650; margin: 0 0 8px }
h2 { font-size: 21px; letter-spacing: -.01em; font-weight: 620; margin: 0 0 6px }
h3 { font-size: 16px; font-weight: 620; margin: 26px 0 8px }
h4 { font-size: 13.5px; font-weight: 600; margin: 0; line-height: 1.35 }
section { margin-top: 52px; padding-top: 22px; border-top: 1px solid var(--line) }
p { margin: 0 0 12px; max-width: 74ch }
a { color: var(--c0) }
code { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
.lead, .about { color: var(--dim) }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 12px; margin: 22px 0 }
.tile { background: var(--raised); border-radius: 10px; padding: 12px 16px 13px; display: flex; flex-direction: column;
        min-width: 0 }
.tile span { font-size: 12.5px; color: var(--dim) }
.tile b { font-size: 22px; line-height: 30px; font-weight: 640; letter-spacing: -.01em; overflow-wrap: anywhere;
          font-variant-numeric: tabular-nums }
.tile b.words { font-size: 17px; line-height: 20px; padding: 5px 0; letter-spacing: 0 }
.tile small { font-size: 12.5px; color: var(--dim); font-variant-numeric: tabular-nums }
.warnings { margin: 0 0 10px; padding: 11px 16px 11px 34px; background: var(--warned); border-radius: 10px;
            font-size: 14.5px }
.warnings li { margin: 2px 0; overflow-wrap: anywhere }
.warnings li::marker { color: var(--warn) }
p.note { background: var(--warned); border-left: 3px solid var(--warn); padding: 8px 14px; border-radius: 0 8px 8px 0;
        font-size: 14px; max-width: none; overflow-wrap: anywhere }
.scroll { overflow-x: auto; margin: 12px 0 16px; max-width: 100% }
table { border-collapse: collapse; font-size: 13.5px; line-height: 1.4; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 5px 11px 5px 0; vertical-align: top; border-bottom: 1px solid var(--line) }
th { font-weight: 560; color: var(--dim); font-size: 12.5px; vertical-align: bottom }
td:last-child, th:last-child { padding-right: 0 }
.n { text-align: right }
td.n { white-space: nowrap }
td { min-width: 3ch; max-width: 62ch }
tr.best td { font-weight: 640 }
tr.quiet td { color: var(--dim) }
tr.bad td { color: var(--warn) }
figure { margin: 14px 0 26px }
figcaption { font-size: 13.5px; color: var(--dim); margin-top: 8px }
figcaption p { max-width: 92ch; margin: 0 }
.rest td { max-width: none }
.rest .command { margin: 0 }
.card { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 8px; overflow: auto;
        filter: brightness(var(--bright)) }
.card img { display: block; width: auto; max-width: 100%; height: auto; cursor: zoom-in; margin: 0 auto }
.card.near { max-height: 92vh }
.card.near img { max-width: none; cursor: zoom-out }
.command { display: flex; gap: 12px; align-items: center; margin: 5px 0 0; max-width: 100% }
.command code { min-width: 0; overflow-x: auto; white-space: pre; user-select: all; color: var(--dim); font-size: 12px }
header .command code { background: var(--raised); border-radius: 7px; padding: 5px 10px; color: var(--text) }
details.how { border: 0; padding: 0; margin: 4px 0 0 }
details.how summary { font-size: 12.5px; font-weight: 400; padding: 0; color: var(--dim) }
details.how .command { align-items: flex-start; margin-left: 13px }
button { font: inherit; font-size: 12px; color: var(--dim); background: none; border: 1px solid var(--line);
         border-radius: 6px; padding: 1px 9px; cursor: pointer }
button:hover { color: var(--text); border-color: var(--dim) }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(240px, 100%), 1fr)); gap: 18px 22px;
          margin: 12px 0 8px }
.panels.small, .panels.tight { grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)) }
.panels.wide { grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)) }
.panel { min-width: 0; max-width: 380px }
.panel p { font-size: 12.5px; color: var(--dim); margin: 0 0 4px; white-space: pre-line; line-height: 1.4;
           font-variant-numeric: tabular-nums }
.panel .scroll { margin: 4px 0 }
svg { display: block; width: 100%; height: auto; overflow: visible }
svg text { font: 9.5px system-ui, sans-serif; fill: var(--dim); font-variant-numeric: tabular-nums }
svg .grid { stroke: var(--line); stroke-width: .6 }
svg .guide { stroke: var(--dim); stroke-width: .8; stroke-dasharray: 3 3 }
svg .line { fill: none; stroke-width: 1.6; stroke-linejoin: round }
svg .thin { stroke-width: .9; opacity: .75 }
svg .band { stroke: none; opacity: .17 }
svg .ring { fill: none; stroke-width: 1.6 }
svg .whisker { stroke-width: 2.4; stroke-linecap: round }
svg.bar { width: 136px; height: 16px; margin-top: 2px }
""" + COLOUR_RULES + """
.legend { font-size: 13px; color: var(--dim); display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 8px 0 }
.legend i { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 7px;
            vertical-align: 3px }
table.matrix { font-size: 13px }
table.matrix th, table.matrix td { border: 0; padding: 6px 10px; text-align: center; vertical-align: middle }
table.matrix thead td { font-size: 11px; color: var(--dim); padding-left: 0 }
table.matrix tbody th { text-align: right; padding-left: 0; font-weight: 500 }
table.matrix tbody td { border: 2px solid var(--back); border-radius: 6px; min-width: 66px;
                        background: color-mix(in srgb, var(--c0) calc(var(--share) * 46%), var(--raised)) }
table.matrix small { display: block; font-size: 11px; color: var(--text); opacity: .72 }
details { margin: 12px 0; border: 1px solid var(--line); border-radius: 10px; padding: 0 14px }
summary { cursor: pointer; padding: 9px 0; font-size: 14.5px; font-weight: 560 }
ul.findings { padding: 0; margin: 10px 0 18px; list-style: none }
ul.findings li { padding: 7px 0 7px 84px; position: relative; border-bottom: 1px solid var(--line); font-size: 14.5px;
                 overflow-wrap: anywhere }
ul.findings b { position: absolute; left: 0; font-size: 12px; font-weight: 620; line-height: 22px; color: var(--dim) }
ul.findings .error b { color: var(--wrong) } ul.findings .warning b { color: var(--warn) }
ul.findings small { display: block; color: var(--dim); font-size: 13px }
.rest { font-size: 14px }
@media (max-width: 600px) {
  #page { padding: 0 14px }
  h1 { font-size: 25px }
  .tiles { grid-template-columns: 1fr 1fr }
  .tile { padding: 10px 12px }
  .tile b { font-size: 18px }
  ul.findings li { padding-left: 0 }
  ul.findings b { position: static; display: block }
  .panels.small, .panels.tight { grid-template-columns: 1fr 1fr; gap: 16px 12px }
  .panels.small svg text { font-size: 12px }
  table { width: max-content }
  td { max-width: 30ch }
  .panel table.matrix { font-size: 12px }
  .panel table.matrix th, .panel table.matrix td { padding: 5px 3px; font-size: 11.5px }
  .panel table.matrix tbody td { min-width: 46px }
  .card img { width: 600px; max-width: none }
  .card.near img { width: auto }
}
@page { size: A4; margin: 14mm 13mm }
@media print {
  :root {""" + LIGHT + """}
  body { font-size: 10pt }
  #page { display: block; padding: 0; max-width: none }
  nav { position: static; max-height: none; padding: 0 0 6mm }
  nav ol { display: block; columns: 3 }
  main { max-width: none }
  header { padding-top: 0 }
  section { margin-top: 8mm; padding-top: 4mm }
  h1, h2, h3, summary, h2 + .lead, .legend { break-after: avoid }
  p { orphans: 3; widows: 3 }
  .lead, .scroll:not(:has(tr:nth-child(16))) { break-inside: avoid }
  figure.picture, .panel, tr, .tile, .command, .note, ul.findings li { break-inside: avoid }
  .card { overflow: visible; max-height: none; padding: 0; border: 0; filter: none }
  .card img { width: auto; max-width: 100%; max-height: 112mm }
  .tall .card img { max-height: 198mm }
  .scroll { overflow: visible }
  table { font-size: 7.5pt }
  th { font-size: 7pt }
  th, td { padding-right: 7px }
  .panels { grid-template-columns: repeat(3, 1fr) }
  .panels.wide { grid-template-columns: repeat(2, 1fr) }
  .panels.small, .panels.tight { grid-template-columns: repeat(4, 1fr) }
  .panels:not(.small, .wide) svg text { font-size: 13px }
  svg.bar { width: 100px }
  .command code { white-space: pre-wrap; font-size: 8pt }
  button { display: none }
  details { border: 0; padding: 0 }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""

SCRIPT = """"use strict";
for (const box of document.querySelectorAll(".command")) {
  const button = box.querySelector("button");
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", () => navigator.clipboard.writeText(box.querySelector("code").textContent).then(
    () => { button.textContent = "copied"; setTimeout(() => { button.textContent = "copy"; }, 1500); },
    () => { button.hidden = true; }));
}
for (const card of document.querySelectorAll(".card"))
  card.addEventListener("click", event => {
    const box = card.getBoundingClientRect(), image = card.firstElementChild, before = image.getBoundingClientRect();
    const across = (event.clientX - before.left) / before.width, down = (event.clientY - before.top) / before.height;
    card.classList.toggle("near");
    const after = image.getBoundingClientRect();
    card.scrollLeft = across * after.width - (event.clientX - box.left);
    card.scrollTop = down * after.height - (event.clientY - box.top);
  });
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const each of opened) each.open = true;
});
addEventListener("afterprint", () => { for (const each of opened) each.open = false; });
"""
