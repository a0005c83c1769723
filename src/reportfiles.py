"""Parts of a report about data, folds and runs, read from what audit, make_folds, train, blend and submit have left."""

from pathlib import Path

import numpy as np
import pandas as pd

from agreement import scored_entries
from competition import Competition
from files import home, read_csv, read_json, sha256
from labels import scored_counts
from ledger import ledger_path, read_ledger
from metrics import METRICS
from reported import Reported, add_picture, noting, number, shorten, span
from reportpage import (
    COLOURS,
    Figure,
    Markup,
    Part,
    check_picture,
    folded,
    heading,
    join,
    legend,
    panels,
    paragraph,
    table,
    text,
)
from svgcharts import Chart, interval_bar, nice_ticks
from tables import label_cells

SEVERITIES = ("error", "warning", "note")
FIRST_PLOTS = ("label_prevalence.png", "images.png", "mean_images.png", "suspects.png")  # the others are folded
GAP = 1e-5  # by which a score may differ from leaderboard.csv's, which has six digits
SHA_SHOWN = 12


def read_board(competition: Competition) -> pd.DataFrame | None:
    """leaderboard.csv, every cell as text; None where there is none. Raises ValueError where it is damaged."""
    path = home() / "runs" / competition.name / "leaderboard.csv"
    if not path.exists():
        return None
    board = read_csv(path)
    if missing := [column for column in ("run", "status", "cv", "low", "high") if column not in board]:
        raise ValueError(f"{path} has no column {missing[0]!r}; make it again: python src/leaderboard.py")
    return board


def audit_part(competition: Competition, command: str) -> Part | None:
    """What audit.py found. command: the one that audits."""
    folder = home() / "runs" / competition.name / "audit"
    if not folder.exists():
        return None
    part = Part("audit", "Data audit", "What is wrong with images and labels, before a network sees them: the worst "
                "first.")
    path = folder / "audit.json"
    with noting(part, path, command):
        account = read_json(path)
        findings = sorted(account["findings"], key=lambda finding: SEVERITIES.index(finding["severity"]))
        items = []
        for finding in findings:
            shown = "; ".join(map(str, finding["examples"]))
            more = join(Markup(f"<small>{text(each)}</small>") for each in (shown, finding["todo"]) if each)
            items.append(f'<li class="{text(finding["severity"])}"><b>{text(finding["severity"])}</b>'
                         f'{text(finding["what"])}{more}</li>')
        part.blocks.append(Markup(f'<ul class="findings">{"".join(items)}</ul>') if items
                           else paragraph("Nothing was found."))
        rows = [[name, f"{each['images']:,}"] for name, each in account["inputs"]["parts"].items()]
        part.blocks.append(table(["part", "images"], rows))
        plots = [str(name) for name in account["plots"]]
        _add_plots(part, folder, plots, command)
    return part


def _add_plots(part: Part, folder: Path, plots: list[str], command: str) -> None:
    first = [name for name in FIRST_PLOTS if name in plots]
    for name in first:
        add_picture(part, folder / name, _say_plot(name), command)
    more = Part("", "")
    for name in plots:
        if name not in first:
            add_picture(more, folder / name, _say_plot(name), command)
    part.notes += more.notes
    if more.blocks:
        part.blocks += folded(f"{len(more.blocks)} more plots of the audit", more.blocks)


PLOTS = {
    "images": "Brightness, contrast, size and shape of the images by part: parts that differ here come from elsewhere.",
    "label_cells": "What the cells say of each label: present, absent, uncertain, not stated.",
    "label_prevalence": "How common each label is, by part: where parts differ, thresholds that fit one do not fit the "
                        "other.",
    "images_per_patient": "How many images a patient has: the longer the tail, the more folds by image would leak.",
    "mean_images": "The mean image of each label, and by how much it differs from the mean of the others.",
    "label_findings": "How many labels an image has.",
    "label_combinations": "Which labels come together most often.",
    "label_correlation": "Correlation (phi) of each pair of labels: near 1 they say the same.",
    "suspects": "Images to look at first: of one colour, unreadable, twins, odd in size.",
    "probe_metadata": "AUC of telling each label from other columns alone, without the picture: right of the line is "
                      "more than chance.",
    "probe_order": "AUC of telling each label from the order of the files alone.",
    "probe_border": "AUC of telling each label from the picture's border and corners alone: a network may learn this.",
    "probe_test": "AUC of telling test from training images: away from 0.5 they are others.",
    "price_of_a_leak": "What splitting by image instead of by patient would add to a score that is not there.",
}


def _say_plot(name: str) -> str:
    stem = name.removesuffix(".png")
    return PLOTS.get(stem, f"{stem.removeprefix('column_').replace('_', ' ')}: against the labels.")


def folds_part(shown: Reported) -> Part:
    """How images, groups and labels lie in the folds, and how these came about."""
    competition, account = shown.competition, shown.folds.account
    made = account.get("made_by", {})
    part = Part("folds", "Folds", "Each fold is predicted by a model trained on the others. All images of a patient or "
                "group, exact twins among them, lie in one fold.")
    cells, folds = label_cells(competition, shown.table), shown.table["fold"].to_numpy()
    counts = {fold: scored_counts(cells[folds == fold]) for fold in sorted(set(folds.tolist()))}
    rows = [[fold, f"{(folds == fold).sum():,}", f"{len(np.unique(shown.groups[folds == fold])):,}",
             *(f"{positive:,} of {certain:,}" for certain, positive in each)] for fold, each in counts.items()]
    rows.append(["all", f"{len(folds):,}", f"{len(np.unique(shown.groups)):,}",
                 *(f"{positive:,} of {certain:,}" for certain, positive in scored_counts(cells))])
    command = shown.command("make_folds")
    part.blocks += [
        Figure(table(["fold", "images", "groups", *competition.labels], rows, [""] * (len(rows) - 1) + ["best"]),
               "Positives of the cells that are certain. A label that is missing in a fold has no score there.",
               (command,)),
        Figure(_fold_chart(counts, competition.labels), "Each dot is a fold, each line the whole: the closer the dots, "
               "the more alike the folds.", (command,))]
    facts = [["rule", made.get("rule", "-"), "given by hand, not drawn" if not made.get("rule") else ""]] if isinstance(
        made, dict) else [["rule", str(made), ""]]
    if isinstance(made, dict) and "seed" in made:
        facts.append(["seed", made["seed"], ""])
        if made.get("stratify"):
            facts.append(["even in", ", ".join(made["stratify"]), "beside the labels"])
    facts += [["splits", shown.folds.splits, "of the same images, folds drawn anew"],
              ["held out altogether", f"{shown.folds.held_out:,}", "images, never trained on"],
              ["sets of equal images", f"{len(account.get('duplicates', [])):,}", "each in one fold"],
              ["black images", f"{len(account.get('black', [])):,}", "of one colour, predicted by the prior"],
              ["hash", shown.folds.hash[:SHA_SHOWN], "of folds, labels and images; stands on every run"]]
    if account.get("split_groups_allowed"):
        part.notes.append("Groups that lie in several folds were allowed: scores may be too good.")
    part.blocks.append(table(["", "", ""], facts))
    return part


def _fold_chart(counts: dict[int, np.ndarray], labels: tuple[str, ...]) -> Markup:
    shares = np.array([each[:, 1] / np.maximum(each[:, 0], 1) for each in counts.values()])
    whole = sum(each[:, 1] for each in counts.values()) / np.maximum(sum(each[:, 0] for each in counts.values()), 1)
    top = max(0.02, float(shares.max()) * 1.05)
    rows = [[label, number(whole[k], 3), Markup(interval_bar(
        shares[:, k].min(), whole[k], shares[:, k].max(), (0, top), [(share, "c0") for share in shares[:, k]])),
        span(shares[:, k].min(), shares[:, k].max(), 3)] for k, label in enumerate(labels)]
    return table(["label", "share", f"by fold, 0 to {top:.2f}", "lowest to highest"], rows)


# ---- runs


def board_part(shown: Reported) -> Part:
    """The leaderboard with intervals, read from leaderboard.csv and checked against the predictions."""
    part = Part("leaderboard", "Leaderboard", "Out-of-fold scores of all runs and blends, with 95 % intervals that draw "
                "whole groups. Two runs whose intervals overlap may still differ: both err on the same patients.")
    command = shown.command("leaderboard")
    part.notes += [f"{name} is not shown: {why}" for name, why in shown.failed.items()]
    if shown.board is None:
        if shown.scores:
            rows = [[name, number(cv), span(low, high)] for name, (cv, low, high) in shown.scores.items()]
            part.blocks.append(table(["run", f"CV {shown.metric}", "95 % interval"], rows))
        part.blocks.append(paragraph("There is no leaderboard.csv yet; it has all runs and more columns: ",
                                     Markup("<code>"), command, Markup("</code>")))
        return part
    part.notes += _check_board(shown, command)
    board = shown.board.to_dict("records")
    whole = [row for row in board if row["status"] == "whole"]
    if whole:
        part.blocks += _board_table(shown, whole, command)
    if incomplete := [row for row in board if row["status"] != "whole"]:
        part.blocks += [heading("Not counted"), table(["run", "why"], [[row["run"], row["status"]]
                                                                       for row in incomplete])]
    return part


def _board_table(shown: Reported, rows: list[dict], command: str) -> list[Markup | Figure]:
    metric = METRICS[shown.competition.metric]
    usages = [usage for usage in ("public", "private", "test", "expert", "holdout")
              if any(row.get(usage) for row in rows)]
    colours = dict(zip(usages, COLOURS[1:], strict=False))
    ends = np.array([[float(row[key] or "nan") for key in ("low", "high", "cv", *usages)] for row in rows
                     if not row["run"].startswith("floor")] or [[0.0, 1.0]])
    low, high = (float(np.nanmin(ends)), float(np.nanmax(ends))) if not np.isnan(ends).all() else (0.0, 1.0)
    lines, styles = [], []
    for row in rows:
        ranked = row.get("rank", "") != ""
        values = [float(row[key] or "nan") for key in ("low", "cv", "high")]
        bar = "" if row["run"].startswith("floor") else Markup(interval_bar(
            *values, (low, high), [(float(row[usage] or "nan"), colours[usage]) for usage in usages],
            "c0" if ranked else "c4"))
        failed = row.get("not_learned", "")
        remark = f" ({float(failed):.0f} folds did not learn)" if failed not in ("", "0") else ""
        lines.append([row.get("rank", ""), row["run"] + remark, number(row["cv"]), bar, span(row["low"], row["high"]),
                      *(number(row.get(usage)) for usage in usages),
                      f"{number(row.get('fold_mean'))} ± {number(row.get('fold_sd'), 3)}",
                      number(row.get("f1_crossfit")), number(row.get("brier")), number(row.get("seconds"), 0),
                      number(row.get("parameters"), 0)])
        styles.append("bad" if remark else "best" if row["run"] in shown.oofs else "" if ranked else "quiet")
    usage_text = " Rings: " + ", ".join(usages) + ", reported only." if usages else ""
    better = "Right is better" if metric.greater_is_better else "Left is better"
    return [
        legend([("c0", "CV and its 95 % interval"), *((colours[usage], usage) for usage in usages)]),
        Figure(table(["", "run", f"CV {metric.title}", f"{low:.3f} to {high:.3f}", "95 % interval", *usages,
                      "mean of folds", "F1 cross-fitted", "Brier", "s a fold", "parameters"], lines, styles),
               f"{better}; bold runs are those that this page is about; grey lines are no runs but bounds.{usage_text}",
               (command,))]


def _check_board(shown: Reported, command: str) -> list[str]:
    """What shows that leaderboard.csv is older than the runs."""
    known = dict(zip(shown.board["run"], shown.board["cv"], strict=True))
    notes = []
    if missing := [name for name in shown.ranked if name not in known]:
        notes.append(f"leaderboard.csv does not know {', '.join(missing[:5])}{' and more' * (len(missing) > 5)}. Make "
                     f"it again: {command}")
    if gone := [name for name in known if name not in shown.ranked and not name.startswith(("floor: ", "ceiling: "))]:
        notes.append(f"leaderboard.csv has {', '.join(gone[:5])}, which are no longer there. Make it again: {command}")
    for name, (cv, _, _) in shown.scores.items():
        if known.get(name) and not abs(float(known[name]) - cv) <= GAP * max(1, abs(cv)):
            notes.append(f"leaderboard.csv says {number(known[name])} of {name}, whose predictions now score "
                         f"{number(cv)}. Make it again: {command}")
    return notes


def learning_part(shown: Reported) -> Part | None:
    """The losses of every fold of the runs shown, and of the blends' members."""
    if not shown.networks:
        return None
    part = Part("learning", "Learning curves", "Training loss by epoch, a line a fold.")
    boxes, rows, drawn = [], [], []
    for name, oof in shown.networks.items():
        logs = []
        for run in oof.runs:
            path = run.folder / "log.csv"
            if path.exists():
                with noting(part, path, "train this fold again"):
                    log = read_csv(path)[["loss", "inner_score"]].replace("", "nan").astype(float)
                    if len(log):
                        logs.append(log)
        with noting(part, shown.folder(name)):
            results = [run.result for run in oof.runs]
            scores = [float("nan") if each.get("score") is None else float(each["score"]) for each in results]
            rows.append([name, len(results), f"{max((len(log) for log in logs), default=0):,}" if logs else "-",
                         span(min(scores), max(scores)), number(np.mean([each["seconds"] for each in results]), 0),
                         number(results[0]["parameters"], 0),
                         ", ".join(str(run.recipe["fold"]) for run, each in zip(oof.runs, results, strict=True)
                                   if not each["learned"]) or "none"])
        if logs:
            boxes.append((name, f"last loss {span(*_ends([log['loss'].iloc[-1] for log in logs]), 3)}",
                          _learning_chart(name, logs)))
            drawn.append(name)
    if boxes:
        has_inner = any("inner" in content for _, _, content in boxes)
        part.blocks.append(Figure(panels(boxes, "wide"), "A line that is still falling at the right asks for more "
                                  "epochs; one that lies apart from the others is a fold that learned otherwise."
                                  + (" Orange: the score on images kept aside within the training folds, on the "
                                     "same axis." if has_inner else ""),
                                  tuple(dict.fromkeys(shown.makers(drawn)))))
    if rows:
        part.blocks.append(table(["run", "folds", "epochs", "scores of the folds", "s a fold", "parameters",
                                  "folds that did not learn"], rows))
    return part


def _ends(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


def _learning_chart(name: str, logs: list[pd.DataFrame]) -> str:
    longest = max(map(len, logs))
    inner = np.concatenate([log["inner_score"].to_numpy() for log in logs])
    top = float(np.nanmax([np.nanmax(log["loss"]) if log["loss"].notna().any() else 1.0 for log in logs]))
    top = max(top, 0.0 if np.isnan(inner).all() else float(np.nanmax(inner))) * 1.04 or 1.0
    chart = Chart((1, max(2, longest)), (0, top), width=290, height=150)
    for log in logs:
        epochs = np.arange(1, len(log) + 1, dtype=float)
        chart.line(epochs, log["loss"].to_numpy(), "c0 thin")
        chart.line(epochs, log["inner_score"].to_numpy(), "c1 thin inner")
    return chart.svg(f"training loss over epochs, {name}", "epoch", "loss", nice_ticks(1, max(2, longest), 6),
                     nice_ticks(0, top, 5))


def gains_part(shown: Reported) -> Part | None:
    """What blending gains: the drawings of blend.py, and every blend beside its best member."""
    pictures = sorted(shown.folder().glob("*_gains.png"))
    blends = [name for name in shown.ranked if (shown.folder(name) / "blend.json").exists()]
    if not pictures and not blends:
        return None
    part = Part("ensembles", "Ensemble gains", "Whether runs made into one are better than the plain mean of them and "
                "than the best of them, on images that the blend was not fitted on.")
    for path in pictures:
        stem = path.name.removesuffix("_gains.png")
        add_picture(part, path, "Filled: the gain on folds that were not fitted on, with its 95 % interval; red diamond: "
                    "the gain on the images fitted on, which is too good. Only a green one is credible.",
                    _blend_command(shown, stem, blends))
    rows = []
    cv = {} if shown.board is None else dict(zip(shown.board["run"], shown.board["cv"], strict=True))
    better = max if METRICS[shown.competition.metric].greater_is_better else min
    for name in blends:
        path = shown.folder(name) / "blend.json"
        with noting(part, path, "delete that folder and blend again"):
            said = read_json(path)
            members = [str(member) for member in said["members"]]
            if said["folds_sha256"] != shown.folds.hash:
                part.notes.append(f"{name} was blended on another folds file than the one that is there now")
            known = {member: float(cv[member]) for member in members if cv.get(member)}
            best = better(known, key=known.get) if known else "-"
            own = float(cv.get(name) or "nan")
            rows.append([name, said["kind"], ", ".join(members), number(own), best, number(known.get(best)),
                         number(own - known.get(best, np.nan), sign="+")])
    if rows:
        part.blocks.append(table(["blend", "method", "members", f"CV {shown.metric}", "best member", "its CV",
                                  "difference"], rows))
    return part


def _blend_command(shown: Reported, stem: str, blends: list[str]) -> str:
    for name in blends:
        if name.startswith(f"{stem}_"):
            members = read_json(shown.folder(name) / "blend.json").get("members", [])
            return shown.command("blend", f"--experiment {' '.join(members)}" + (
                "" if stem == "blend" else f" --name {stem}"))
    return shown.command("blend", "" if stem == "blend" else f"--name {stem}")


# ---- what is submitted


def forecast_part(shown: Reported) -> Part | None:
    """The public and private scores to expect."""
    path = shown.folder() / "forecast.csv"
    if not path.exists() and not path.with_suffix(".png").exists():
        return None
    part, command = Part("forecast", "Shake-up forecast", "Which public and private scores to expect by the noise of "
                         "sampling alone, were the test images like the training images."), (
        shown.command("leaderboard", "--forecast"))
    add_picture(part, path.with_suffix(".png"), "Left: where public and private scores will lie, thick in half, thin in "
                "95 % of all cases. Right: private minus public; a gap inside the line is no shake-up.", command)
    with noting(part, path, command):
        frame = read_csv(path)
        known = [column for column in ("public_was", "private_was") if column in frame]
        rows = [[row["run"], number(row["cv"]), span(row["public_low"], row["public_high"]),
                 span(row["private_low"], row["private_high"]), span(row["gap_low"], row["gap_high"], sign="+"),
                 f"{float(row['is_best']):.0%}", *(number(row[column]) for column in known)]
                for row in frame.to_dict("records")]
        part.blocks.append(table(["run", f"CV {shown.metric}", "public, 95 %", "private, 95 %", "private - public",
                                  "best of all", *(column.replace("_", " ") for column in known)], rows))
        old = [row["run"] for row in frame.to_dict("records") if row["run"] in shown.scores
               and not abs(float(row["cv"]) - shown.scores[row["run"]][0]) <= GAP]
        if old:
            part.notes.append(f"The forecast is about older predictions of {', '.join(old)}. Make it again: {command}")
    return part


def submissions_part(shown: Reported) -> Part | None:
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
                         ", ".join(map(str, inputs.get("members") or [])) or "-", len(inputs.get("weights", {})),
                         said["sha256"][:SHA_SHOWN], state, "; ".join(warned) or "none"])
            styles.append("" if state == "as made" else "bad")
    if rows:
        part.blocks.append(Figure(table(["submission", f"CV {shown.metric}", "kind", "members", "models", "SHA-256",
                                         "file", "warnings"], rows, styles),
                                  "File: whether it is still the one that the manifest describes, made from the weights "
                                  "that the runs have now.", (shown.command("predict", "--experiment "
                                                                            + " ".join(shown.networks)),)))
        if odd := [row[0] for row, style in zip(rows, styles, strict=True) if style]:
            part.notes.append(f"Not as their manifests say: {', '.join(odd)}. See the table; predict or blend again.")
    if ledger.exists():
        with noting(part, ledger):
            part.blocks += _ledger_blocks(shown)
    return part


def _submission_state(shown: Reported, path: Path, said: dict) -> str:
    file = path.with_suffix(".csv")
    if not file.exists():
        return "the file is gone"
    if sha256(file.read_bytes()) != said["sha256"]:
        return "changed since it was made"
    if said["inputs"].get("folds") not in (None, shown.folds.hash):
        return "made on other folds"
    weights = {}
    for name in {key.partition("/")[0] for key in said["inputs"].get("weights", {}) if "/" in key}:
        for fold in shown.folder(name).glob("fold*/result.json"):
            with fold.open(encoding="utf-8"):
                weights[f"{name}/{fold.parent.name}"] = read_json(fold).get("weights_sha256")
    if any(weights.get(key) != value for key, value in said["inputs"].get("weights", {}).items() if "/" in key):
        return "made from other weights"
    return "as made"


def _ledger_blocks(shown: Reported) -> list[Markup | Figure]:
    entries = read_ledger(shown.competition)
    rows = [[each.date, each.run, each.state, number(each.cv), span(each.low, each.high), number(each.public),
             number(each.private), each.message] for each in entries]
    blocks = [heading("What was submitted"), Figure(
        table(["UTC", "run", "state", "CV", "95 % interval", "public", "private", "message"], rows),
        "Every submission, in the order in which they were sent.", (shown.command("submit", "--help"),))]
    picture = shown.folder() / "cv_lb.png"
    if picture.exists() and scored_entries(shown.competition):
        blocks.append(Figure(check_picture(picture), "Does the leaderboard follow cross-validation? Points far from the "
                             "line did better or worse than CV said.", (shown.command("leaderboard"),)))
    return blocks
