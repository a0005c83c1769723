"""Sections of a report on runs: leaderboard, learning curves, gains of blending."""

import numpy as np
import pandas as pd

from common.console import interval, number
from common.files import home, read_json
from competition import Competition
from reporting.context import SAME, ReportContext, compact, note_errors, read_rows
from reporting.html import COLOURS, Markup, ReportFigure, Section, code, heading, legend, panels, paragraph, table
from reporting.svg import Chart, interval_bar, nice_ticks
from results.evaluation import REPORTED_SCORES
from scoring.metrics import METRICS


def read_board(competition: Competition) -> pd.DataFrame | None:
    """leaderboard.csv, every cell as text; None if there is none. Raises ValueError if it is damaged."""
    path = home() / "runs" / competition.name / "leaderboard.csv"
    if not path.exists():
        return None
    return pd.DataFrame(read_rows(path, ("run", "status", "cv", "low", "high")))


def board_section(context: ReportContext) -> Section:
    """The leaderboard with intervals, read from leaderboard.csv and checked against the predictions."""
    section = Section("leaderboard", "Leaderboard", "Out-of-fold scores of all runs and blends, with 95 % intervals "
                      "from a bootstrap over groups. Two runs with overlapping intervals may still differ "
                      "significantly, because both are scored on the same patients.")
    command = context.command("leaderboard")
    section.notes += [f"{name} is not shown: {why}" for name, why in context.failed.items()]
    if context.board is None:
        if context.scores:
            rows = [[name, number(cv), interval(low, high)] for name, (cv, low, high) in context.scores.items()]
            section.blocks.append(table(["run", f"CV {context.metric}", "95 % interval"], rows))
        section.blocks.append(paragraph("There is no leaderboard.csv yet, which lists all runs with more columns: ",
                                        code(command)))
        return section
    section.notes += _check_board(context, command)
    board = context.board.to_dict("records")
    whole = [row for row in board if row["status"] == "whole"]
    if whole:
        section.blocks += _board_table(context, whole, command)
    if incomplete := [row for row in board if row["status"] != "whole"]:
        section.blocks += [heading("Not ranked"), table(["run", "reason"], [[row["run"], row["status"]]
                                                                          for row in incomplete])]
    return section


def _board_table(context: ReportContext, rows: list[dict], command: str) -> list[Markup | ReportFigure]:
    metric = METRICS[context.competition.metric]
    usages = [usage for usage in REPORTED_SCORES if any(row.get(usage) for row in rows)]
    colours = dict(zip(usages, COLOURS[1:], strict=False))
    ends = np.array([[float(row[key] or "nan") for key in ("low", "high", "cv", *usages)] for row in rows
                     if not row["run"].startswith("floor")] or [[0.0, 1.0]])
    low, high = (float(np.nanmin(ends)), float(np.nanmax(ends))) if not np.isnan(ends).all() else (0.0, 1.0)
    lines, styles = [], []
    for row in rows:
        ranked = row.get("rank", "") != ""
        values = [float(row[key] or "nan") for key in ("low", "cv", "high")]
        bar = "" if row["run"].startswith("floor") else interval_bar(
            *values, (low, high), [(float(row[usage] or "nan"), colours[usage]) for usage in usages],
            "c0" if ranked else "c4")
        failed = row.get("not_learned", "")
        remark = f" ({float(failed):.0f} folds did not learn)" if failed not in ("", "0") else ""
        lines.append([row.get("rank", ""), row["run"] + remark, number(row["cv"]), bar, interval(row["low"],
                                                                                                 row["high"]),
                      *(number(row.get(usage)) for usage in usages),
                      f"{number(row.get('fold_mean'))} ± {number(row.get('fold_sd'), 3)}",
                      number(row.get("f1_crossfit")), number(row.get("brier")), number(row.get("seconds"), 0),
                      compact(row.get("parameters"))])
        styles.append("bad" if remark else "best" if row["run"] in context.oofs else "" if ranked else "quiet")
    usage_text = " Rings: " + ", ".join(usages) + ", reported only." if usages else ""
    better = "Right is better" if metric.greater_is_better else "Left is better"
    return [
        legend([("c0", "CV and its 95 % interval"), *((colours[usage], usage) for usage in usages)]),
        ReportFigure(table(["", "run", f"CV {metric.title}", f"{low:.3f} to {high:.3f}", "95 % interval", *usages,
                            "mean of folds", "F1 cross-fitted", "Brier", "s a fold", "parameters"], lines, styles),
                     f"{better}. Bold: the runs shown on this page. Grey: lower and upper bounds, not "
                     f"runs.{usage_text}",
                     (command,))]


def _check_board(context: ReportContext, command: str) -> list[str]:
    """Notes on differences between leaderboard.csv and the current runs."""
    known = dict(zip(context.board["run"], context.board["cv"], strict=True))
    notes = []
    if missing := [name for name in context.ranked if name not in known]:
        notes.append(f"leaderboard.csv lacks {', '.join(missing[:5])}{' and more' * (len(missing) > 5)}. To "
                     f"recreate it: {command}")
    if gone := [name for name in known if name not in context.ranked and not name.startswith(("floor: ", "ceiling: "))]:
        notes.append(f"leaderboard.csv has {', '.join(gone[:5])}, which no longer exist. To recreate it: {command}")
    for name, (cv, _, _) in context.scores.items():
        if known.get(name) and not abs(float(known[name]) - cv) <= SAME * max(1, abs(cv)):
            notes.append(f"leaderboard.csv has {number(known[name])} for {name}, whose predictions now score "
                         f"{number(cv)}. To recreate it: {command}")
    return notes


def learning_section(context: ReportContext) -> Section | None:
    """Training losses of each fold of the runs shown and of the blends' members; None without runs."""
    if not context.folds_of:
        return None
    section = Section("learning", "Learning curves", "Training loss by epoch, one line for each fold.")
    boxes, rows, drawn = [], [], []
    for name, runs in context.folds_of.items():
        logs = []
        for run in runs:
            path = run.folder / "log.csv"
            if path.exists():
                with note_errors(section, path, "delete the fold and retrain it"):
                    log = pd.DataFrame(read_rows(path, ("loss", "val_score")))[["loss", "val_score"]]
                    logs.append(log.replace("", "nan").astype(float))
        with note_errors(section, context.folder(name)):
            results = [run.result for run in runs]
            scores = [float("nan") if each.get("score") is None else float(each["score"]) for each in results]
            rows.append([name, len(results), f"{results[0]['epochs']:,}" if "epochs" in results[0] else "-",
                         interval(min(scores), max(scores)), number(np.mean([each["seconds"] for each in results]), 0),
                         compact(results[0]["parameters"]),
                         ", ".join(str(run.recipe["fold"]) for run, each in zip(runs, results, strict=True)
                                   if not each["learned"]) or "none"])
        if logs:
            last = [log["loss"].iloc[-1] for log in logs]
            boxes.append((name, f"last loss {interval(min(last), max(last), 3)}",
                          _learning_chart(name, logs)))
            drawn.append(name)
    if boxes:
        has_validation = any('thin validation"' in content for _, _, content in boxes)
        section.blocks.append(ReportFigure(panels(boxes, "wide"), "If a line still falls at the right, more epochs may "
                                           "help; a line far from the others is a fold that trained differently."
                                           + (" Orange: the score on the validation split of the training folds, on "
                                              "the same axis." if has_validation else ""),
                                           context.commands_of(drawn)))
    if rows:
        section.blocks.append(table(["run", "folds", "epochs", "scores of the folds", "s a fold", "parameters",
                                     "folds that did not learn"], rows))
    return section


def _learning_chart(name: str, logs: list[pd.DataFrame]) -> str:
    longest = max(map(len, logs))
    validation = np.concatenate([log["val_score"].to_numpy() for log in logs])
    top = float(np.nanmax([np.nanmax(log["loss"]) if log["loss"].notna().any() else 1.0 for log in logs]))
    top = max(top, 0.0 if np.isnan(validation).all() else float(np.nanmax(validation))) * 1.04 or 1.0
    chart = Chart((1, max(2, longest)), (0, top), width=290, height=150)
    for log in logs:
        epochs = np.arange(1, len(log) + 1, dtype=float)
        chart.line(epochs, log["loss"].to_numpy(), "c0 thin")
        chart.line(epochs, log["val_score"].to_numpy(), "c1 thin validation")
    epochs = [tick for tick in nice_ticks(1, max(2, longest), 6) if tick == int(tick)]
    return chart.svg(f"training loss over epochs, {name}", "epoch", "loss", epochs, nice_ticks(0, top, 5))


def gains_section(context: ReportContext) -> Section | None:
    """The CV score of each blend next to that of its best member; None without blends."""
    blends = [name for name in context.ranked if (context.folder(name) / "blend.json").exists()]
    if not blends:
        return None
    section = Section("ensembles", "Ensemble gains", "Whether a blend is better than its best member, on images that "
                      "the blend was not fitted on.")
    read = {}
    for name in blends:
        path = context.folder(name) / "blend.json"
        with note_errors(section, path, "delete that folder and blend the runs anew"):
            record = read_json(path)
            if record["folds_sha256"] != context.folds.hash:
                section.notes.append(f"{name} was blended on another folds file than the current one")
            read[name] = record["kind"], [str(member) for member in record["members"]]
    cv = {} if context.board is None else {row["run"]: float(row["cv"]) for row in context.board.to_dict("records")
                                           if row["cv"]}
    better, rows = (max if METRICS[context.competition.metric].greater_is_better else min), []
    for name, (kind, members) in read.items():
        best = better((member for member in members if member in cv), key=cv.get, default="-")
        rows.append([name, kind, ", ".join(members), number(cv.get(name)), best, number(cv.get(best)),
                     number(cv.get(name, np.nan) - cv.get(best, np.nan), sign="+")])
    if rows:
        section.blocks.append(table(["blend", "method", "members", f"CV {context.metric}", "best member", "its CV",
                                     "difference"], rows))
    return section
