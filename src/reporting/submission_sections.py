"""Parts of a report about what is submitted: the scores to expect, the files with their manifests, the ledger."""

from pathlib import Path

from common.console import interval, number
from common.files import home, read_json, sha256
from reporting.context import SAME, SHA_SHOWN, ReportContext, add_picture, noting, read_rows
from reporting.html import Figure, Markup, Part, check_picture, heading, table
from submitting.cv_lb import scored_entries
from submitting.ledger import ledger_path, read_ledger


def forecast_part(shown: ReportContext) -> Part | None:
    """The public and private scores to expect."""
    path = shown.folder() / "forecast.csv"
    if not path.exists() and not path.with_suffix(".png").exists():
        return None
    part, command = Part("forecast", "Shake-up forecast", "Which public and private scores to expect by the noise of "
                         "sampling alone, were the test images like the training images."), (
        shown.command("leaderboard", "--forecast"))
    add_picture(part, path.with_suffix(".png"), "Left: where public and private scores will lie, thick in half, thin "
                "in 95 % of all cases. Right: private minus public; a gap inside the line is no shake-up.", command)
    with noting(part, path, command):
        forecast = read_rows(path, ("run", "cv", "public_low", "private_low", "gap_low", "is_best"))
        known = [column for column in ("public_was", "private_was") if column in forecast[0]]
        rows = [[row["run"], number(row["cv"]), interval(row["public_low"], row["public_high"]),
                 interval(row["private_low"], row["private_high"]), interval(row["gap_low"], row["gap_high"], sign="+"),
                 f"{float(row['is_best']):.0%}", *(number(row[column]) for column in known)]
                for row in forecast]
        part.blocks.append(table(["run", f"CV {shown.metric}", "public, 95 %", "private, 95 %", "private - public",
                                  "best of all", *(column.replace("_", " ") for column in known)], rows))
        old = [row["run"] for row in forecast if row["run"] in shown.scores
               and not abs(float(row["cv"]) - shown.scores[row["run"]][0]) <= SAME]
        if old:
            part.notes.append(f"The forecast is about older predictions of {', '.join(old)}. Make it again: {command}")
    return part


def submissions_part(shown: ReportContext) -> Part | None:
    """Every submission with its manifest, checked against its file, and what was scored."""
    folder, competition = home() / "submissions", shown.competition
    manifests = sorted(folder.glob(f"{competition.name}-*.json"))
    ledger = ledger_path(competition)
    if not manifests and not ledger.exists():
        return None
    part = Part("submissions", "Submissions", "What lies in submissions/ for this competition, and what each file was "
                "made from. Each manifest beside a file names all its inputs by hash.")
    rows, styles = [], []
    for path in manifests:
        name = path.stem.removeprefix(f"{competition.name}-")
        with noting(part, path, shown.command("predict", f"--experiment {name}")):
            said = read_json(path)
            if said.get("competition", competition.name) != competition.name:
                continue
            state = _submission_state(shown, path, said)
            warned = [str(each) for each in said.get("warnings", [])]
            inputs = said["inputs"]
            rows.append([name, number(said.get("oof", {}).get(competition.metric)), inputs.get("kind", "-"),
                         ", ".join(map(str, inputs.get("members") or [])) or "-",
                         sum("/" in key for key in inputs.get("weights", {})),
                         said["sha256"][:SHA_SHOWN], state, "; ".join(warned) or "none"])
            styles.append("" if state == "as made" else "bad")
    if rows:
        part.blocks.append(Figure(table(["submission", f"CV {shown.metric}", "kind", "members", "models", "SHA-256",
                                         "file", "warnings"], rows, styles),
                                  "File: whether it is still the one that the manifest describes, made from the "
                                  "weights that the runs have now.", (shown.command("predict", "--experiment "
                                                                            + " ".join(shown.folds_of)),)))
        if odd := [row[0] for row, style in zip(rows, styles, strict=True) if style]:
            part.notes.append(f"Not as their manifests say: {', '.join(odd)}. See the table; predict or blend again.")
    if ledger.exists():
        with noting(part, ledger):
            part.blocks += _ledger_blocks(shown)
    return part


def _submission_state(shown: ReportContext, path: Path, said: dict) -> str:
    file = path.with_suffix(".csv")
    if not file.exists():
        return "the file is gone"
    if sha256(file.read_bytes()) != said["sha256"]:
        return "changed since it was made"
    if said["inputs"].get("folds") not in (None, shown.folds.hash):
        return "made on other folds"
    for model, digest in said["inputs"].get("weights", {}).items():  # cnn_e/fold0, or what a blend was fitted to
        result = shown.folder(model) / "result.json"
        if "/" in model and (not result.exists() or read_json(result).get("weights_sha256") != digest):
            return "made from other weights"
    return "as made"


def _ledger_blocks(shown: ReportContext) -> list[Markup | Figure]:
    entries = read_ledger(shown.competition)
    rows = [[each.date, each.run, each.state, number(each.cv), interval(each.low, each.high), number(each.public),
             number(each.private), each.message] for each in entries]
    blocks = [heading("What was submitted"), Figure(
        table(["UTC", "run", "state", "CV", "95 % interval", "public", "private", "message"], rows),
        "Every submission, in the order in which they were sent.", (shown.command("submit", "--help"),))]
    picture = shown.folder() / "cv_lb.png"
    if picture.exists() and scored_entries(shown.competition):
        blocks.append(Figure(check_picture(picture), "Does the leaderboard follow cross-validation? Points far from "
                             "the line did better or worse than CV said.", (shown.command("leaderboard"),)))
    return blocks
