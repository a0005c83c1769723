"""Describe a downloaded competition:  python src/describe.py DATA_DIR --name NAME

Lists what the folder holds, what was decided and why, and the questions that only a person can answer; then
writes the Competition literal to paste into competition.py. Of the images, the headers of fifty and the pixels of
eight are read, and the pixels of those with an unusual header; of files without a known ending, the first bytes of
some, since they may be DICOM.
"""

import re
import textwrap
from dataclasses import MISSING, fields
from pathlib import Path

from rich.markup import escape
from rich.table import Table

import competition as competition_module
from commandline import make_parser, run_script
from common.commands import command_line
from common.console import make_console
from common.files import write_text
from competition import COMPETITIONS, Competition, Part
from data.tables import described_parts, label_cells, part_exists, read_part, read_sample, read_train
from describing.findings import Findings
from describing.infer import infer_competition
from describing.inventory import Inventory, read_inventory

WIDTH = 120


def main(argv: list[str] | None = None) -> tuple[Competition, list[str]]:
    """Prints findings, decisions, questions and the literal; returns the competition and the questions."""
    parser = make_parser(__doc__, competition=False)
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR", nargs="?",  # or it would hide what else is wrong
                        help="the folder that holds the downloaded files")
    parser.add_argument("--name", help="the competition's name here; default: after the folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the questions and the literal there too")
    args = parser.parse_args(argv)
    if args.data_dir is None:
        parser.error("DATA_DIR is missing: the folder that holds the downloaded files")
    inventory = read_inventory(args.data_dir)
    competition, findings = infer_competition(inventory, make_name(args.name or args.data_dir.resolve().name))
    if competition.name in COMPETITIONS:
        findings.ask(f"A competition {competition.name!r} exists already. What should this one be called (--name)?")
    trial = try_reading(competition, args.data_dir, findings)
    known = find_known(args.data_dir)
    text = write_literal(competition)
    show(inventory, findings, trial, known)
    print(text)
    print(f"\nPaste it into src/competition.py, answer the questions there, and name {constant(competition)} in "
          f"COMPETITIONS; then look it over, and split it:")
    for script in ("audit", "make_folds"):
        print(command_line(script, competition, data_dir=args.data_dir))
    if args.out:
        questions = "\n".join(textwrap.indent(question, "# ") for question in findings.questions)
        print(f"{write_text(args.out, f'{questions}{chr(10) * 2}{text}{chr(10)}')} written")
    return competition, findings.questions


def make_name(text: str) -> str:
    """A folder's name as a competition's: small letters, digits and _."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return name if re.match(r"[a-z]", name) else f"set_{name}".rstrip("_")


def try_reading(competition: Competition, data_dir: Path, findings: Findings) -> list[tuple[str, str]]:
    """What reading with the description gives, part by part; where it fails, the error becomes a question."""
    trial = []
    if findings.needs_preparation:
        return [("nothing yet", "the files that the description is about must be made first")]
    for part in described_parts(competition):
        try:
            table = read_train(competition, data_dir)[0] if part == "train" else read_part(competition, data_dir, part)
        except (ValueError, OSError) as error:
            findings.ask(f"The {part} part cannot be read as described: {error}. How should the description change?")
            continue
        summary = f"{len(table)} images, {table['group'].nunique()} groups"
        if set(competition.labels) <= set(table):
            counts = (label_cells(competition, table) == 1).sum(axis=0)
            summary += "".join(f", {label} {count}" for label, count in zip(competition.labels, counts, strict=True))
        trial.append((part, summary))
    try:
        sample = read_sample(competition, data_dir)
    except (ValueError, OSError) as error:
        findings.ask(f"The sample submission cannot be read as described: {error}. How should the description change?")
    else:
        trial += [] if sample is None else [("sample submission", f"{len(sample)} rows")]
    return trial


def find_known(data_dir: Path) -> list[str]:
    """The ready-made descriptions that read this folder as it is."""
    known = []
    for name, competition in COMPETITIONS.items():
        if not all(part_exists(part, data_dir) for part in competition.train_parts if not part.optional):
            continue
        try:
            for part in described_parts(competition):
                read_part(competition, data_dir, part)
        except (ValueError, OSError):
            continue
        known.append(name)
    return known


def show(inventory: Inventory, findings: Findings, trial: list[tuple[str, str]], known: list[str]) -> None:
    """Prints what was found, decided, read and asked."""
    console = make_console()
    found = Table("found", "what", title=escape(str(inventory.folder)))
    folders = sorted(inventory.images.items(), key=lambda item: -len(item[1]))
    for folder, names in folders[:10]:
        found.add_row(escape(f"{folder or '.'}/"), escape(f"{len(names)} images, {names[0]} to {names[-1]}"))
    if len(folders) > 10:
        found.add_row(f"{len(folders) - 10} folders more", f"{sum(len(names) for _, names in folders[10:])} images")
    for table in inventory.tables:
        found.add_row(escape(table.path), escape(f"{len(table.rows)}{'' if table.whole else '+'} rows: "
                                                 f"{', '.join(table.rows.columns[:12])}"))
    for path, words in inventory.lists.items():
        found.add_row(escape(path), escape(f"{len(words)} lines of one word, {words[0]} to {words[-1]}"))
    for path, arrays in inventory.arrays.items():
        found.add_row(escape(path), escape(", ".join(f"{key} {getattr(array, 'shape', array)}"
                                                     for key, array in arrays.items())))
    for path in inventory.code_names:
        found.add_row(escape(path), "codes and their meaning")
    for ending, count in inventory.others.items():
        found.add_row(f"{count} {f'x .{escape(ending)}' if ending else 'without an ending'}", "not looked at")
    console.print(found)
    decided = Table("decided", "as", "because")
    for what, value, why in findings.decisions:
        decided.add_row(escape(what), escape(textwrap.shorten(value, 300)), escape(why))
    console.print(decided)
    read = Table("read as described", "gives")
    for part, summary in trial:
        read.add_row(part, escape(textwrap.shorten(summary, 600)))
    console.print(read)
    if known:
        console.print(f"There is a description that reads this folder already: --competition {' or '.join(known)}",
                      style="green")
    console.print(f"\n{len(findings.questions)} questions", style="bold")
    for number, question in enumerate(findings.questions, start=1):
        console.print(f"{number:2}. {escape(question)}", style="yellow", highlight=False)
    console.print()


# ---- the literal


def constant(competition: Competition) -> str:
    """The name that the literal gets in Python."""
    name = competition.name.upper()
    return f"{name}_SET" if name in vars(competition_module) else name  # or the paste would overwrite another


def write_literal(competition: Competition) -> str:
    """Python that makes this competition, in lines of at most 120 characters: NAME = Competition(...)."""
    return f"{constant(competition)} = {_call(competition, 0)}"


def _call(description: Competition | Part, indent: int) -> str:
    given = []
    for field in fields(description):
        value = getattr(description, field.name)
        if field.default is MISSING or value != field.default:
            given.append((field.name, value))
    kind = type(description).__name__
    if kind == "Part":
        given.sort(key=lambda pair: pair[0] not in ("table", "header", "separator"))  # stable: table before images
        line = f"Part({', '.join(f'{name}={_value(value, 0)}' for name, value in given)})"
        if "\n" not in line and indent + len(line) < WIDTH - 16:
            return line
    inner = " " * (indent + 4)
    lines = [f"{inner}{name}={_value(value, indent + 4, len(name) + 1)}," for name, value in given]
    return "\n".join([f"{kind}(", *lines, f"{' ' * indent})"])


def _value(value: object, indent: int, offset: int = 0) -> str:
    """A value as Python, broken into lines where it starts at column indent + offset and is too long."""
    if isinstance(value, Part):
        return _call(value, indent)
    if isinstance(value, str):
        return _text(value, indent + offset)
    if not isinstance(value, tuple):
        return repr(value)
    items = [_value(item, indent + 4) for item in value]
    line = f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if "\n" not in line and indent + offset + len(line) < WIDTH - 1:
        return line
    inner = " " * (indent + 4)
    if any(isinstance(item, (Part, tuple)) for item in value):
        return "\n".join(["(", *(f"{inner}{item}," for item in items), f"{' ' * indent})"])
    lines, room = [""], WIDTH - indent - 4
    for item in items:
        if lines[-1] and len(lines[-1]) + len(item) + 2 > room:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{item},"
    return "\n".join(["(", *(inner + line for line in lines), f"{' ' * indent})"])


def _text(value: str, column: int) -> str:
    words = re.findall(r"[^\s|]+[\s|]*|[\s|]+", value)
    if column + len(value) > WIDTH - 6 and len(words) > 1 and column:
        pieces, room = [""], max(20, WIDTH - column - 6)
        for word in words:
            if pieces[-1] and len(pieces[-1]) + len(word) > room:
                pieces.append("")
            pieces[-1] += word
        return ("\n" + " " * column).join(map(_quote, pieces))
    return _quote(value)


def _quote(value: str) -> str:
    plain = repr(value)
    if "\\" in value and '"' not in value and not value.endswith("\\") and value.isprintable():
        return f'r"{value}"'
    return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in value and "\\'" not in plain else plain


if __name__ == "__main__":
    run_script(main)
