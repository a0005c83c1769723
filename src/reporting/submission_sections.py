"""Sections of a report on submissions: expected scores, files with their manifests, the ledger."""

from pathlib import Path

from common.console import interval, number
from common.files import home, read_json, sha256
from reporting.context import SAME, SHA_SHOWN, ReportContext, add_picture, note_errors, read_rows
from reporting.html import Markup, ReportFigure, Section, check_picture, heading, table
from submitting.cv_lb import scored_entries
from submitting.ledger import ledger_path, read_ledger


def forecast_section(context: ReportContext) -> Section | None:
    """The expected public and private scores; None if there is no forecast."""
    path = context.folder() / "forecast.csv"
    if not path.exists() and not path.with_suffix(".png").exists():
        return None
    section, command = Section("forecast", "Shake-up forecast", "Expected public and private scores from sampling "
                               "noise alone, if the test images are like the training images."), (
        context.command("leaderboard", "--forecast"))
    add_picture(section, path.with_suffix(".png"), "Left: 50 % (thick) and 95 % (thin) intervals of public and private "
                "scores. Right: private minus public; a gap inside the line is noise, not a shake-up.", command)
    with note_errors(section, path, command):
        forecast = read_rows(path, ("run", "cv", "public_low", "private_low", "gap_low", "is_best"))
        known = [column for column in ("public_was", "private_was") if column in forecast[0]]
        rows = [[row["run"], number(row["cv"]), interval(row["public_low"], row["public_high"]),
                 interval(row["private_low"], row["private_high"]), interval(row["gap_low"], row["gap_high"], sign="+"),
                 f"{float(row['is_best']):.0%}", *(number(row[column]) for column in known)]
                for row in forecast]
        section.blocks.append(table(["run", f"CV {context.metric}", "public, 95 %", "private, 95 %", "private - public",
                                     "best of all", *(column.replace("_", " ") for column in known)], rows))
        old = [row["run"] for row in forecast if row["run"] in context.scores
               and not abs(float(row["cv"]) - context.scores[row["run"]][0]) <= SAME]
        if old:
            section.notes.append(f"The forecast is from older predictions of {', '.join(old)}. To recreate it: "
                                 f"{command}")
    return section


def submissions_section(context: ReportContext) -> Section | None:
    """Every submission with its manifest, checked against its file, and the ledger; None if there are none."""
    folder, competition = home() / "submissions", context.competition
    manifests = sorted(folder.glob(f"{competition.name}-*.json"))
    ledger = ledger_path(competition)
    if not manifests and not ledger.exists():
        return None
    section = Section("submissions", "Submissions", "The files in submissions/ for this competition and their "
                      "inputs, which each file's manifest lists by hash.")
    rows, styles = [], []
    for path in manifests:
        name = path.stem.removeprefix(f"{competition.name}-")
        with note_errors(section, path, context.command("predict", f"--experiment {name}")):
            record = read_json(path)
            if record.get("competition", competition.name) != competition.name:
                continue
            state = _submission_state(context, path, record)
            warned = [str(each) for each in record.get("warnings", [])]
            inputs = record["inputs"]
            rows.append([name, number(record.get("oof", {}).get(competition.metric)), inputs.get("kind", "-"),
                         ", ".join(map(str, inputs.get("members") or [])) or "-",
                         sum("/" in key for key in inputs.get("weights", {})),
                         record["sha256"][:SHA_SHOWN], state, "; ".join(warned) or "none"])
            styles.append("" if state == "as made" else "bad")
    if rows:
        section.blocks.append(ReportFigure(table(["submission", f"CV {context.metric}", "kind", "members", "models",
                                                  "SHA-256", "file", "warnings"], rows, styles),
                                           "File: whether it still agrees with its manifest and the runs' weights.",
                                           (context.command("predict", "--experiment " + " ".join(context.folds_of)),)))
        if changed := [row[0] for row, style in zip(rows, styles, strict=True) if style]:
            section.notes.append(f"Different from their manifests: {', '.join(changed)}. See the table; repeat "
                                 "predict.py or blend.py.")
    if ledger.exists():
        with note_errors(section, ledger):
            section.blocks += _ledger_blocks(context)
    return section


def _submission_state(context: ReportContext, path: Path, record: dict) -> str:
    file = path.with_suffix(".csv")
    if not file.exists():
        return "the file is missing"
    if sha256(file.read_bytes()) != record["sha256"]:
        return "changed since it was made"
    if record["inputs"].get("folds") not in (None, context.folds.hash):
        return "made on other folds"
    for model, digest in record["inputs"].get("weights", {}).items():  # cnn_e/fold0, or what a blend was fitted to
        result = context.folder(model) / "result.json"
        if "/" in model and (not result.exists() or read_json(result).get("weights_sha256") != digest):
            return "made from other weights"
    return "as made"


def _ledger_blocks(context: ReportContext) -> list[Markup | ReportFigure]:
    entries = read_ledger(context.competition)
    rows = [[each.date, each.run, each.state, number(each.cv), interval(each.low, each.high), number(each.public),
             number(each.private), each.message] for each in entries]
    blocks = [heading("Ledger"), ReportFigure(
        table(["UTC", "run", "state", "CV", "95 % interval", "public", "private", "message"], rows),
        "Every submission, in chronological order.", (context.command("submit", "--help"),))]
    picture = context.folder() / "cv_lb.png"
    if picture.exists() and scored_entries(context.competition):
        blocks.append(ReportFigure(check_picture(picture), "Agreement of cross-validation and leaderboard. Points far "
                                   "from the line scored better or worse than in cross-validation.",
                                   (context.command("leaderboard"),)))
    return blocks
