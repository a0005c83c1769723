"""Sections of a report from out-of-fold predictions: curves, confusion, calibration, thresholds."""

from collections.abc import Callable

import numpy as np

from common.console import interval, number
from common.files import read_json
from data.folds import fold_numbers
from reporting.context import ReportContext, note_errors, other_runs
from reporting.html import (
    MANY_PANELS,
    Folded,
    Markup,
    ReportFigure,
    Section,
    heading,
    legend,
    matrix,
    panels,
    paragraph,
    table,
)
from reporting.svg import Chart, nice_ticks
from results.adopted_rules import made_from, rule_for
from results.runs import Oof, decisions_path
from scoring.calibration import calibration_errors, reliability
from scoring.counts import confusion_matrices
from scoring.curves import GRID, Curve, f1_at, precision_recall_curves, roc_curves
from scoring.metrics import METRICS, prevalence, undefined_labels
from scoring.thresholds import criterion, fit_thresholds, held_out_rows

TENTHS, FIFTHS = [0, 0.5, 1], [0, 0.25, 0.5, 0.75, 1]
FEW_POSITIVES = 20  # with fewer positives, a label's curve is too uncertain


def curves_section(context: ReportContext) -> Section | None:
    """ROC and precision-recall curves of every label; the best run with its 95 % band, the others as lines."""
    if not context.oofs:
        return None
    section = Section("curves", "ROC and precision-recall curves", "Out-of-fold predictions: each image is predicted "
                      "by the model that was trained without its patient or group.")
    names, colours = list(context.oofs), context.colours
    side = _side(context)
    rates, positives = prevalence(context.targets), (context.targets == 1).sum(axis=0)
    section.blocks.append(legend([(colours[name], name) for name in colours]))
    if more := names[len(colours):]:
        section.blocks.append(paragraph(f"Not drawn, because there are too few colours: {', '.join(more)}.",
                                        style="lead"))
    for title, make, area, chance in (("ROC", roc_curves, "AUC", None),
                                      ("Precision and recall", precision_recall_curves, "AP", rates)):
        curves = {name: make(context.targets, context.oofs[name].probs, context.groups if name == names[0] else None)
                  for name in colours}
        boxes = []
        for k, label in enumerate(context.competition.labels):
            best = curves[names[0]][k]
            if np.isnan(best.area):
                boxes.append((label, "one class only: no curve", Markup("")))
                continue
            ends = "" if np.isnan(best.area_low) else f" ({interval(best.area_low, best.area_high, 3)})"
            words = f"{area} {best.area:.3f}{ends}\n{positives[k]:,} positives"
            boxes.append((label, words, _curve_chart(label, [(colours[name], curves[name][k]) for name in colours],
                                                     None if chance is None else chance[k], side)))
        more = ("A curve near the upper left corner is good; the dashed diagonal is chance. "
                if chance is None else
                "A curve near the upper right corner is good; the dashed line is chance, the label's prevalence. ")
        section.blocks += [heading(title), ReportFigure(
            panels(boxes), f"{more}Shaded: pointwise 95 % bootstrap band of {names[0]} over groups; {area} with its "
            "95 % interval. The difference of a curve inside the band may be noise.",
            context.commands_of(list(colours)))]
    if len(few := [label for label, count in zip(context.competition.labels, positives, strict=True)
                   if 0 < count < FEW_POSITIVES]):
        section.blocks.append(paragraph(f"Fewer than {FEW_POSITIVES} positives, so the curves are uncertain: "
                                        f"{', '.join(few)}.", style="lead"))
    return section


def _side(context: ReportContext) -> int:
    """The side of a chart in its own units: fewer units in small panels keep the text readable."""
    return 180 if len(context.competition.labels) > MANY_PANELS else 260


def _curve_chart(label: str, curves: list[tuple[str, Curve]], rate: float | None, side: int) -> str:
    chart = Chart((0, 1), (0, 1), side, side)
    chart.rule((0, 1), (0, 1) if rate is None else (rate, rate))
    style, best = curves[0]
    chart.band(GRID, best.low, best.high, style)
    for style, curve in reversed(curves):
        chart.line(curve.x, curve.y, style)
    x_name, y_name = (("false positive rate", "true positive rate") if rate is None else ("recall", "precision"))
    return chart.svg(f"{y_name} over {x_name}, {label}", x_name, y_name, TENTHS, FIFTHS)


def confusion_section(context: ReportContext) -> Section | None:
    """Confusion matrices of each run shown, decided by its rule fitted on the other folds."""
    if not context.oofs:
        return None
    competition = context.competition
    section = Section("confusion", "Confusion matrices", "Decisions on out-of-fold predictions, by rules that were "
                      "fitted on the other folds. Rows: the given labels; percentages are of the row.")
    counted = {}
    for name, oof in context.oofs.items():
        with note_errors(section, decisions_path(competition, name), context.command("decide", f"--experiment {name}")):
            decisions = rule_for(context.workspace, oof, "decisions").crossfit(
                context.targets, oof.probs, fold_numbers(context.table, oof.split))
            counted[name] = confusion_matrices(context.targets, decisions, competition.task)
    if competition.task == "multiclass":
        boxes = [(name, "", matrix("labelled", competition.labels, counts[0].tolist()))
                 for name, counts in counted.items()]
        section.blocks.append(ReportFigure(panels(boxes, "wide"), "Columns: decisions. The diagonal is correct; the "
                                           "darker another cell, the more images of the row's class are assigned to "
                                           "the column's class.",
                                           context.commands_of(list(counted))))
        return section
    for name, counts in counted.items():
        boxes = [(label, _rates(each), matrix("", ("absent", "present"), each.tolist()))
                 for label, each in zip(competition.labels, counts, strict=True)]
        figure = ReportFigure(panels(boxes, "tight"), f"{name}. Columns: decisions. Upper right: false positives; "
                              "lower left: false negatives. Thresholds trade one for the other; the best ones depend "
                              "on their costs.", context.commands_of([name]))
        section.blocks += [heading(name), figure] if name == next(iter(counted)) else [Folded(name, [figure])]
    return section


def _rates(counts: np.ndarray) -> str:
    (tn, fp), (fn, tp) = counts.tolist()
    rates = {"sensitivity": (tp, tp + fn), "specificity": (tn, tn + fp)}
    return "\n".join(f"{name} {above / below:.2f}" if below else f"{name} -" for name, (above, below) in rates.items())


def calibration_section(context: ReportContext) -> Section | None:
    """Reliability diagrams of the runs shown, and the effect of each calibration method."""
    known = {name: oof for name, oof in context.oofs.items() if oof.kind != "rank_mean"}
    if not context.oofs:
        return None
    section = Section("calibration", "Calibration", "Whether a label with a probability of 0.8 is present in eight of "
                      "ten images. Out-of-fold predictions, in 15 bins of equal numbers of images.")
    if ranks := [name for name in context.oofs if name not in known]:
        section.blocks.append(paragraph(f"{', '.join(ranks)}: a mean of ranks, which are not probabilities.",
                                        style="lead"))
    if not known:
        return section
    colours, side = {name: style for name, style in context.colours.items() if name in known}, _side(context)
    errors = {name: calibration_errors(context.targets, known[name].probs) for name in colours}
    boxes = []
    for k, label in enumerate(context.competition.labels):
        if np.isnan([errors[name][k] for name in colours]).any():
            boxes.append((label, "no certain cell", Markup("")))
            continue
        drawn = {name: reliability(context.targets[:, k], known[name].probs[:, k])[:2] for name in reversed(colours)}
        top = min(1.0, 1.08 * max(values.max() for each in drawn.values() for values in each))
        chart = Chart((0, top), (0, top), side, side)
        chart.rule((0, top), (0, top))
        for name, (predicted, observed) in drawn.items():
            chart.line(predicted, observed, f"{colours[name]} thin")
            chart.dots(predicted, observed, colours[name])
        boxes.append((label, "ECE " + ", ".join(f"{errors[name][k]:.3f}" for name in colours),
                      chart.svg(f"share of positives over mean probability, {label}", "mean probability of a bin",
                                "share of positives", nice_ticks(0, top, 4), nice_ticks(0, top, 5))))
    section.blocks += [legend([(colours[name], name) for name in colours]), ReportFigure(
        panels(boxes), "On the dashed diagonal, probabilities are calibrated; below it they are too high, above it too "
        "low. ECE: the mean distance from the diagonal, in the order of the colours; a few hundredths are noise.",
        context.commands_of(list(colours)))]
    section.blocks += _read_decisions(context, section, _calibration_rows, (
        "run", "probabilities", "log loss", "Brier", "ECE"), "Calibration methods fitted on the other folds: "
        "lower is better in all three columns. `as_is`: the run's own probabilities.")
    return section


def _calibration_rows(name: str, record: dict) -> list[list]:
    return [[name, way, number(row["log_loss"]), number(row["brier"]), number(row["ece"])]
            for way, row in record["calibration"].items() if isinstance(row, dict)]


def thresholds_section(context: ReportContext) -> Section | None:
    """F1 as a function of the threshold, and the scores of the decision rules that decide.py evaluated."""
    if not context.oofs:
        return None
    competition, (name, oof) = context.competition, next(iter(context.oofs.items()))
    section = Section("thresholds", "Thresholds", "The probability from which a label counts as present, and how well "
                      "thresholds fitted on these images work on new ones.")
    if competition.task != "multiclass" and oof.kind != "rank_mean":
        section.blocks.append(_threshold_figure(context, name, oof))
    section.blocks += _read_decisions(context, section, _rule_rows, (
        "run", "metric", "rule", "naive", "cross-fitted", "optimism", "gain over the first", "95 % interval"),
        "Naive: fitted and scored on the same images. Cross-fitted: on the other folds, which estimates the score on "
        "new images. Optimism: the difference. A gain is significant if its interval excludes 0.")
    return section if section.blocks or section.notes else None


def _threshold_figure(context: ReportContext, name: str, oof: Oof) -> ReportFigure:
    competition, folds = context.competition, fold_numbers(context.table, oof.split)
    metric, side = criterion(competition.metric), _side(context)
    fitted = fit_thresholds(context.targets, oof.probs, metric)
    by_fold = np.array([fit_thresholds(context.targets[~held], oof.probs[~held], metric)
                        for held in held_out_rows(folds)])
    cuts, undefined = np.linspace(0.005, 0.995, 100), undefined_labels(context.targets)
    boxes = []
    for k, label in enumerate(competition.labels):
        if undefined[k]:
            boxes.append((label, "one class only: no threshold", Markup("")))
            continue
        truth, probs = context.targets[:, k], oof.probs[:, k]
        chart = Chart((0, 1), (0, 1), side, side * 2 // 3)
        for threshold in by_fold[:, k]:
            chart.rule((threshold, threshold), (0, 1))
        chart.line(cuts, f1_at(cuts, truth, probs), "c0")
        chart.dots(fitted[[k]], f1_at(fitted[[k]], truth, probs), "c1", 3.5)
        boxes.append((label, f"{fitted[k]:.3f}, by fold {interval(by_fold[:, k].min(), by_fold[:, k].max(), 3)}",
                      chart.svg(f"F1 over threshold, {label}", "threshold", "F1", TENTHS, TENTHS)))
    return ReportFigure(panels(boxes), f"{name}: F1 of each label over its threshold. Dot: the best threshold for "
                        f"{METRICS[metric].title} on all folds; dashed: the best one without each fold. If the dashed "
                        "lines are far apart and the curve is steep, the threshold is unreliable.",
                        context.commands_of([name]))


def _rule_rows(name: str, record: dict) -> list[list]:
    rows = []
    for metric, rules in record["rules"].items():
        for rule, row in rules.items():
            gain = ["", ""] if row["gain"] is None else [number(row["gain"], sign="+"),
                                                         interval(row["gain_low"], row["gain_high"], sign="+")]
            rows.append([name, METRICS[metric].title, rule, number(row["naive"]), number(row["crossfit"]),
                         number(row["optimism"], sign="+"), *gain])
    return rows


def _read_decisions(context: ReportContext, section: Section, rows_of: Callable[[str, dict], list[list]],
                    headers: tuple, caption: str) -> list[Markup | ReportFigure]:
    """A table from the decisions.json of the runs shown; damaged or outdated files become notes."""
    names, others = context.runs_with("decisions.json")
    rows, read = [], []
    for name in names:
        path, command = decisions_path(context.competition, name), context.command("decide", f"--experiment {name}")
        with note_errors(section, path, command):
            record = read_json(path)
            found = rows_of(name, record)
            if record["made_from"] != made_from(context.competition, context.workspace.oof(name)):
                section.notes.append(f"{path.parent.name}/{path.name} is from other predictions than {name} has now. "
                                     f"To recreate it: {command}")
            rows += found
            read.append(name)
    if not rows:
        return []
    commands = tuple(context.command("decide", f"--experiment {name}") for name in read)
    return [ReportFigure(table(headers, rows), caption, commands), *other_runs(others, context)]
