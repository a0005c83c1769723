"""Sections of a report that show images: explanations, similar images, label errors, anomalies, shortcuts."""

from collections.abc import Callable
from pathlib import Path

from common.console import interval, number, percent
from common.files import read_json
from explaining.methods import METHODS
from reporting.context import ReportContext, add_picture, note_errors, other_runs, read_rows
from reporting.html import Markup, ReportFigure, Section, heading, paragraph, table

NOTHING = {"attribution": 1.0, "alone": 0.5}  # value of a signal without a shortcut; others 0
MEASURES = {"inside": "hottest inside", "share_inside": "heat inside", "deletion": "deletion ↓",
            "insertion": "insertion ↑", "randomised": "similarity to random weights ↓"}
POINTING = ("label", "images", "inside", "low", "high", "chance", "best_guess", "empty")
SHORTCUTS = ("label", "signal", "where", "value", "low", "high", "images", "threshold", "alarm")
MOST_SHEETS = 3  # sheets of single images
NEAR = 8         # number of signals shown that are nearest to an alarm
WORST = 12       # number of label errors shown


def explain_section(context: ReportContext) -> Section | None:
    """Heat maps, the pointing game and map quality, as explain.py wrote them; None if there are none."""
    patterns = (*(f"{method}.json" for method in METHODS), "measures.csv", "look_*.png")
    found = [context.runs_with(pattern) for pattern in patterns]
    names = list(dict.fromkeys(name for each, _ in found for name in each))
    if not names:
        return None
    others = list(dict.fromkeys(name for _, each in found for name in each if name not in names))
    section = Section("explanations", "Explanations", "Heat maps of out-of-fold images, each from the model that was "
                      "trained without its group. A map shows where, not why, and does not prove that a network uses "
                      "the right region in other images.")
    for name in names:
        section.blocks.append(heading(name))
        for method in METHODS:
            if (context.folder(name) / f"{method}.json").exists():
                _add_sheets(context, section, name, method)
        _add_measures(context, section, name)
        sheets = sorted(context.folder(name).glob("look_*.png"))
        for path in sheets[:MOST_SHEETS]:
            image_id = path.stem.removeprefix("look_")
            add_picture(section, path, f"{image_id}: maps of every method and every fold's model. If they disagree, "
                        "do not rely on a single one.", context.command(
                            "explain", f"--experiment {name} --image {image_id}"))
        if more := [path.name for path in sheets[MOST_SHEETS:]]:
            section.blocks.append(paragraph(f"Also in {name}/: {', '.join(more)}", style="lead"))
    section.blocks += other_runs(others, context)
    return section


def _add_sheets(context: ReportContext, section: Section, name: str, method: str) -> None:
    folder, command = context.folder(name), context.command("explain", f"--experiment {name}" + (
        "" if method == "gradcam" else f" --method {method}"))
    with note_errors(section, folder / f"{method}.json", command):
        record = read_json(folder / f"{method}.json")
        if record["made_from"]["weights"] != context.workspace.oof(name).made_of:
            section.notes.append(f"{name}: the {METHODS[method].title} sheets are from other models than the run has "
                                 f"now. To recreate them: {command}")
        files = [str(file) for file in record["files"]]
        for file in files:
            if file.endswith(".png"):
                add_picture(section, folder / file, f"{METHODS[method].title}, the most confident cases of each "
                            "outcome. Warm regions raise the label's probability, relative to the maximum of the map. "
                            "Check whether true positives are warm on the finding, and whether false positives share "
                            "a region.", command)
        for file in files:
            if file.endswith(".csv"):
                with note_errors(section, folder / file, command):
                    section.blocks.append(_pointing(folder / file, command))


def _pointing(path: Path, command: str) -> ReportFigure:
    rows = [[row["label"], row["images"], percent(row["inside"], 0),
             f"{percent(row['low'], 0)} to {percent(row['high'], 0)}", percent(row["chance"], 0),
             percent(row["best_guess"], 0), row["empty"]]
            for row in read_rows(path, POINTING)]
    return ReportFigure(table(["label", "images", "inside", "95 % interval", "by chance", "fixed pixel",
                               "empty maps"], rows),
                        "The pointing game: how often the map's maximum lies inside the annotated finding. Fixed "
                        "pixel: the best single pixel for all images, chosen on the other folds; a useful map is "
                        "better.",
                        (command,))


def _add_measures(context: ReportContext, section: Section, name: str) -> None:
    path = context.folder(name) / "measures.csv"
    command = context.command("explain", f"--experiment {name} --evaluate-maps 24")
    if not path.exists():
        return
    with note_errors(section, path, command):
        most = max(int(row["images"]) for row in read_rows(path, ("images",)))
        each = -(-most // len(context.competition.labels))  # images per label
        command = context.command("explain", f"--experiment {name} --evaluate-maps {each}")
        titles = {method: METHODS[method].title for method in METHODS}
        rows = [[titles.get(row["method"], row["method"]), row["images"], row["empty"],
                 *(f"{number(row[key], 2)} ({interval(row[f'{key}_low'], row[f'{key}_high'], 2)})" if row[key] else "-"
                   for key in MEASURES)] for row in read_rows(path, ("method", "images", "empty", *MEASURES))]
        section.blocks.append(ReportFigure(
            table(["method", "images", "empty", *MEASURES.values()], rows),
            "Quality of the maps: how often the maximum, and which share of the heat, lies inside the finding; the "
            "label's probability while the hottest pixels are blurred first (deletion, low is good) or revealed first "
            "(insertion, high is good); and the similarity to the map of a network with random weights (high is bad: "
            "the map then reflects the image, not the network). 95 % intervals over images.", (command,)))


def _by_run(context: ReportContext, section: Section, script: str, pattern: str,
            add: Callable[[ReportContext, Section, str, Path, str], None]) -> Section | None:
    """The section, to which `add` adds each run that has a file of this pattern; None if no run has one."""
    names, others = context.runs_with(pattern)
    if not names:
        return None
    for name in names:
        section.blocks.append(heading(name))
        add(context, section, name, context.folder(name), context.command(script, f"--experiment {name}"))
    section.blocks += other_runs(others, context)
    return section


def map_section(context: ReportContext) -> Section | None:
    """The map of similar images of each run that has one."""
    section = Section("map", "Similar images", "Out-of-fold features of all training images in two dimensions; near "
                      "points are similar to the network. Distances between clusters have little meaning.")
    return _by_run(context, section, "show_neighbours", "neighbours.png", _add_map)


def _add_map(context: ReportContext, section: Section, name: str, folder: Path, command: str) -> None:
    if (path := folder / "neighbours.json").exists():
        with note_errors(section, path, command):
            if read_json(path)["made_from"]["weights"] != context.workspace.oof(name).made_of:
                section.notes.append(f"{name}: the map is from other models than the run has now. To recreate it: "
                                     f"{command}")
    add_picture(section, folder / "neighbours.png", "t-SNE of the run's features, one panel for each colouring. The "
                "network does not separate labels that form no region; errors in one cluster may have a common cause; "
                "separate folds mean that the features of their models differ.", command)
    if (folder / "neighbours_of_images.png").exists():
        add_picture(section, folder / "neighbours_of_images.png", "Single images, framed, and their nearest training "
                    "images: neighbours with other labels show what the network confuses.",
                    f"{command} --image ID")


def errors_section(context: ReportContext) -> Section | None:
    """Labels that are probably wrong, the most suspicious first."""
    section = Section("label-errors", "Possible label errors", "Labels that contradict the out-of-fold predictions, by "
                      "confident learning. No label is changed: a person decides, and a network can be wrong.")
    return _by_run(context, section, "find_label_errors", "label_errors.csv", _add_errors)


def _add_errors(context: ReportContext, section: Section, name: str, folder: Path, command: str) -> None:
    with note_errors(section, folder / "label_errors.csv", command):
        found = read_rows(folder / "label_errors.csv", ("image_id", "given", "suggested", "prob_of_given"), True)
        section.blocks.append(paragraph(f"{len(found):,} labels are probably wrong, of {len(context.table):,} images."))
        headers = [column for column in ("image_id", "label", "given", "suggested", "prob_of_given")
                   if found and column in found[0]]  # the classes of a multiclass task need no label
        rows = [[number(row[column], 4) if column == "prob_of_given" else row[column] for column in headers]
                for row in found[:WORST]]
        if rows:
            section.blocks.append(ReportFigure(table([header.replace("_", " ") for header in headers], rows),
                                               f"The {len(rows)} most suspicious. prob of given: out-of-fold "
                                               "probability of the given label.", (command,)))
            add_picture(section, folder / "label_errors.png", "The most suspicious ones: check whether the image "
                        "agrees with its label.", command)


def anomalies_section(context: ReportContext) -> Section | None:
    """Anomaly detection: scores of each method, and its plots; None if there are none."""
    folder, command = context.folder("anomaly"), context.command("find_anomalies")
    if not folder.exists():
        return None
    section = Section("anomalies", "Anomalies", "Detection of abnormal images by four methods that are trained on "
                      "normal images alone.")
    with note_errors(section, folder / "detection.json", command):
        record = read_json(folder / "detection.json")
        if record["folds"] != context.folds.hash:
            section.notes.append(f"The anomaly scores were computed on other folds. To recreate them: {command}")
        rows = []
        for row in record["rows"]:
            cells = [f"{number(row[key], 3)} ({interval(row[f'{key}_low'], row[f'{key}_high'], 3)})"
                     if row[key] is not None else "-"
                     for key in ("roc_auc", "average_precision", "sensitivity", "specificity")]
            rows.append([row["part"], row["method"], f"{row['images']:,}", f"{row['anomalies']:,}", *cells])
        section.blocks += [paragraph(f"{record['normal']}.", style="lead"), ReportFigure(
            table(["part", "method", "images", "abnormal", "AUROC", "AUPRC", "sensitivity", "specificity"],
                  rows),
            "Chance level: an AUROC of 0.5, and an AUPRC equal to the share of abnormal images. 95 % intervals over "
            "groups.", (command,))]
    for path, caption in ((folder / "scores_train.png", "Scores of held-out normal and abnormal images: the less "
                           "overlap, the better. Images right of the dashed line are classified as abnormal."),
                          (folder / "scores_test.png", "The same for the test images."),
                          (folder / "reconstructions.png", "Best and worst reconstructions of the autoencoder, with "
                           "the error, which should be largest at the finding.")):
        if path.exists() or path.name != "scores_test.png":
            add_picture(section, path, caption, command)
    return section


def shortcuts_section(context: ReportContext) -> Section | None:
    """Shortcut signals of each run, alarms first, and the images whose predictions a corner changes most."""
    section = Section("shortcuts", "Shortcut signals", "Whether a run seems to predict labels from something other "
                      "than anatomy: corners, border, site, view. An alarm names what to check. No alarm does not "
                      "mean no shortcut.")
    return _by_run(context, section, "find_shortcuts", "shortcuts.*", _add_shortcuts)


def _add_shortcuts(context: ReportContext, section: Section, name: str, folder: Path, command: str) -> None:
    with note_errors(section, folder / "shortcuts.csv", command):
        rows = read_rows(folder / "shortcuts.csv", SHORTCUTS)
        alarms = [row for row in rows if row["alarm"] == "True"]
        summary = f"{len(alarms) or 'none'} of {len(rows)} signals {'raise' if len(alarms) > 1 else 'raises'} an alarm"
        near = sorted((row for row in rows if row not in alarms), key=_nearness, reverse=True)
        section.blocks.append(ReportFigure(_signals(alarms + near[:NEAR]), f"{name}: {summary}. Coloured: alarms, then "
                                           f"the {NEAR} signals nearest to one; shortcuts.csv has all. Attribution: "
                                           "share of heat divided by share of area. Alone: AUC of that region or "
                                           "column alone. Filled in: loss of AUC when the region is painted over. "
                                           "Follows: |AUC - 0.5| of predicting that column from the scores.",
                                           (command,)))
        if alarms:
            section.warning += f"{', ' if section.warning else ''}{name}: {summary}"
    if (folder / "shortcuts.png").exists():
        add_picture(section, folder / "shortcuts.png", "Images whose predictions change most when a corner is "
                    "painted over: the content of that corner may be a shortcut.", command)


def _nearness(row: dict) -> float:
    """The lower end of a signal relative to its threshold: 1 raises an alarm; -inf if it is unknown."""
    low, threshold = float(row["low"] or "nan"), float(row["threshold"] or "nan")
    nothing = NOTHING.get(row["signal"], 0.0)
    return (low - nothing) / (threshold - nothing) if low == low and threshold > nothing else float("-inf")


def _signals(rows: list[dict]) -> Markup:
    return table(["label", "signal", "where", "value", "95 % interval", "alarm from", "images"], [
        [row["label"], row["signal"], row["where"], number(row["value"], 3), interval(row["low"], row["high"], 3),
         number(row["threshold"], 3), row["images"]] for row in rows],
                 ["bad" if row["alarm"] == "True" else "" for row in rows])
