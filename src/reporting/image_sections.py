"""Parts of a report that show images: spot checks, the map of neighbours, label errors, anomalies, shortcuts."""

from collections.abc import Callable
from pathlib import Path

from common.console import interval, number, percent
from common.files import read_json
from explaining.methods import METHODS
from reporting.context import ReportContext, add_picture, note_errors, other_runs, read_rows
from reporting.html import Markup, ReportFigure, Section, heading, paragraph, table

NOTHING = {"attribution": 1.0, "alone": 0.5}  # what signals of a shortcut are where there is none; others 0
MEASURES = {"inside": "hottest inside", "share_inside": "heat inside", "deletion": "deletion ↓",
            "insertion": "insertion ↑", "randomised": "like random weights' ↓"}
POINTING = ("label", "images", "inside", "low", "high", "chance", "best_guess", "empty")
SHORTCUTS = ("label", "signal", "where", "value", "low", "high", "images", "threshold", "alarm")
MOST_LOOKED_AT = 3  # sheets of single images
NEAR = 8            # signals of a shortcut that are nearest to an alarm
WORST = 12          # labels to look at again


def explain_section(context: ReportContext) -> Section | None:
    """Where the networks look: the sheets of explain.py, the pointing game and the measures of its methods."""
    patterns = (*(f"{method}.json" for method in METHODS), "measures.csv", "look_*.png")
    found = [context.runs_with(pattern) for pattern in patterns]
    names = list(dict.fromkeys(name for each, _ in found for name in each))
    if not names:
        return None
    others = list(dict.fromkeys(name for _, each in found for name in each if name not in names))
    section = Section("explanations", "Spot checks", "Where the networks look, in out-of-fold images, each explained "
                      "by the one model that never saw its group. A map says where, not why; and no map proves that a "
                      "network looks at the right thing everywhere.")
    for name in names:
        section.blocks.append(heading(name))
        for method in METHODS:
            if (context.folder(name) / f"{method}.json").exists():
                _add_sheets(context, section, name, method)
        _add_measures(context, section, name)
        sheets = sorted(context.folder(name).glob("look_*.png"))
        for path in sheets[:MOST_LOOKED_AT]:
            image_id = path.stem.removeprefix("look_")
            add_picture(section, path, f"{image_id}: by every method and every fold's model. Where they disagree, none "
                        "of them is to be believed alone.", context.command(
                            "explain", f"--experiment {name} --image {image_id}"))
        if more := [path.name for path in sheets[MOST_LOOKED_AT:]]:
            section.blocks.append(paragraph(f"Also in {name}/: {', '.join(more)}", style="lead"))
    section.blocks += other_runs(others, context)
    return section


def _add_sheets(context: ReportContext, section: Section, name: str, method: str) -> None:
    folder, command = context.folder(name), context.command("explain", f"--experiment {name}" + (
        "" if method == "gradcam" else f" --method {method}"))
    with note_errors(section, folder / f"{method}.json", command):
        record = read_json(folder / f"{method}.json")
        if record["made_from"]["weights"] != context.read(name).made_of:
            section.notes.append(f"{name}: the {METHODS[method].title} sheets are of other models than the run has "
                                 f"now. Make them anew: {command}")
        files = [str(file) for file in record["files"]]
        for file in files:
            if file.endswith(".png"):
                add_picture(section, folder / file, f"{METHODS[method].title}, the most confident cases of each "
                            "outcome. Warm: what raises the label's probability, relative to the map's own maximum. "
                            "Look whether true positives are warm on the finding and false ones on something that they "
                            "share.", command)
        for file in files:
            if file.endswith(".csv"):
                with note_errors(section, folder / file, command):
                    section.blocks.append(_pointing(folder / file, command))


def _pointing(path: Path, command: str) -> ReportFigure:
    rows = [[row["label"], row["images"], percent(row["inside"], 0),
             f"{percent(row['low'], 0)} to {percent(row['high'], 0)}", percent(row["chance"], 0),
             percent(row["best_guess"], 0), row["empty"]]
            for row in read_rows(path, POINTING)]
    return ReportFigure(table(["label", "images", "inside", "95 % interval", "by chance", "best guess",
                               "empty maps"], rows),
                        "The pointing game: how often the map's hottest pixel lies inside the finding as it was drawn. "
                        "Best guess: one pixel for all images, learned from the other folds; a map worth having beats "
                        "it.",
                        (command,))


def _add_measures(context: ReportContext, section: Section, name: str) -> None:
    path = context.folder(name) / "measures.csv"
    command = context.command("explain", f"--experiment {name} --evaluate-maps 24")
    if not path.exists():
        return
    with note_errors(section, path, command):
        most = max(int(row["images"]) for row in read_rows(path, ("images",)))
        each = -(-most // len(context.competition.labels))  # so many of every label
        command = context.command("explain", f"--experiment {name} --evaluate-maps {each}")
        titles = {method: METHODS[method].title for method in METHODS}
        rows = [[titles.get(row["method"], row["method"]), row["images"], row["empty"],
                 *(f"{number(row[key], 2)} ({interval(row[f'{key}_low'], row[f'{key}_high'], 2)})" if row[key] else "-"
                   for key in MEASURES)] for row in read_rows(path, ("method", "images", "empty", *MEASURES))]
        section.blocks.append(ReportFigure(
            table(["method", "images", "empty", *MEASURES.values()], rows),
            "How good the maps are: how often the hottest pixel, and how much of the heat, lies inside the finding; "
            "the label's probability as the hottest pixels are blurred first (deletion, low is good) or all others "
            "(insertion, high is good); and how like the map is to that of a network with random weights (high is bad: "
            "the map then shows the image). 95 % intervals over images.", (command,)))


def _by_run(context: ReportContext, section: Section, script: str, pattern: str,
            add: Callable[[ReportContext, Section, str, Path, str], None]) -> Section | None:
    """The section with what `add` adds of every run that has such a file; None where no run has one."""
    names, others = context.runs_with(pattern)
    if not names:
        return None
    for name in names:
        section.blocks.append(heading(name))
        add(context, section, name, context.folder(name), context.command(script, f"--experiment {name}"))
    section.blocks += other_runs(others, context)
    return section


def map_section(context: ReportContext) -> Section | None:
    """The map of similar images of every run that has one."""
    section = Section("map", "Map of neighbours", "All out-of-fold images by what the one model that did not see each "
                      "makes of it; near points are alike to the network. How far apart groups lie means little.")
    return _by_run(context, section, "show_neighbours", "neighbours.png", _add_map)


def _add_map(context: ReportContext, section: Section, name: str, folder: Path, command: str) -> None:
    if (account := folder / "neighbours.json").exists():
        with note_errors(section, account, command):
            if read_json(account)["made_from"]["weights"] != context.read(name).made_of:
                section.notes.append(f"{name}: the map is of other models than the run has now. Make it anew: "
                                     f"{command}")
    add_picture(section, folder / "neighbours.png", "t-SNE of the run's features, a panel a colouring. Labels that "
                "form no region are not told apart; errors that lie together have a common cause; folds that lie "
                "apart mean that their models see differently.", command)
    if (folder / "neighbours_of_images.png").exists():
        add_picture(section, folder / "neighbours_of_images.png", "Single images, framed, and their nearest training "
                    "cases: neighbours with other labels show what the network confuses.",
                    f"{command} --image ID")


def errors_section(context: ReportContext) -> Section | None:
    """Labels that are probably wrong, the worst first."""
    section = Section("label-errors", "Labels to look at again", "Labels that out-of-fold predictions contradict, by "
                      "confident learning. Nothing is changed: a person decides, and a confident network can be wrong.")
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
                                               f"The {len(rows)} worst. How probable the given label is to the model "
                                               "that was not trained on the image.", (command,)))
            add_picture(section, folder / "label_errors.png", "The worst of them: look whether the picture shows what "
                        "the label says.", command)


def anomalies_section(context: ReportContext) -> Section | None:
    """How well images unlike the normal ones are found, and the pictures of it."""
    folder, command = context.folder("anomaly"), context.command("find_anomalies")
    if not folder.exists():
        return None
    section = Section("anomalies", "Anomalies", "Learned from normal images alone: which others are unlike them, by "
                      "four methods.")
    with note_errors(section, folder / "detection.json", command):
        record = read_json(folder / "detection.json")
        if record["folds"] != context.folds.hash:
            section.notes.append(f"The anomaly scores were computed on other folds. Make them anew: {command}")
        rows = []
        for row in record["rows"]:
            cells = [f"{number(row[key], 3)} ({interval(row[f'{key}_low'], row[f'{key}_high'], 3)})"
                     if row[key] is not None else "-"
                     for key in ("roc_auc", "average_precision", "sensitivity", "specificity")]
            rows.append([row["part"], row["method"], f"{row['images']:,}", f"{row['anomalies']:,}", *cells])
        section.blocks += [paragraph(f"{record['normal']}.", style="lead"), ReportFigure(
            table(["part", "method", "images", "not normal", "AUROC", "AUPRC", "sensitivity", "specificity"],
                  rows),
            "An AUROC of 0.5, and an AUPRC equal to the share that is not normal, are had by guessing. 95 % intervals "
            "over groups.", (command,))]
    for path, caption in ((folder / "scores_train.png", "Scores of held-out normal and other images: the less the two "
                           "overlap, the better; right of the dashed line is called an anomaly."),
                          (folder / "scores_test.png", "The same for the test images."),
                          (folder / "reconstructions.png", "What the autoencoder rebuilds best and worst, and the "
                           "error: it should fail where the finding is.")):
        if path.exists() or path.name != "scores_test.png":
            add_picture(section, path, caption, command)
    return section


def shortcuts_section(context: ReportContext) -> Section | None:
    """What the alarm for shortcuts says of each run, alarms first, and the images whose answers a corner changes."""
    section = Section("shortcuts", "Shortcut alarm", "Whether a run seems to tell labels by what is no anatomy: "
                      "corners, border, site, view. An alarm names what to look at. No alarm does not mean no "
                      "shortcut.")
    return _by_run(context, section, "find_shortcuts", "shortcuts.*", _add_shortcuts)


def _add_shortcuts(context: ReportContext, section: Section, name: str, folder: Path, command: str) -> None:
    with note_errors(section, folder / "shortcuts.csv", command):
        rows = read_rows(folder / "shortcuts.csv", SHORTCUTS)
        alarms = [row for row in rows if row["alarm"] == "True"]
        summary = f"{len(alarms) or 'none'} of {len(rows)} signals {'raise' if len(alarms) > 1 else 'raises'} an alarm"
        near = sorted((row for row in rows if row not in alarms), key=_nearness, reverse=True)
        section.blocks.append(ReportFigure(_signals(alarms + near[:NEAR]), f"{name}: {summary}. Coloured: alarms; then "
                                           f"the {NEAR} that come nearest to one; all are in shortcuts.csv. "
                                           "Attribution: heat there by its share of the area. Alone: AUC of that and "
                                           "nothing else. Filled in: AUC lost when it is painted over. Follows: how "
                                           "well the scores tell that column, AUC from 0.5.", (command,)))
        if alarms:
            section.warning += f"{', ' if section.warning else ''}{name}: {summary}"
    if (folder / "shortcuts.png").exists():
        add_picture(section, folder / "shortcuts.png", "Images whose answers change most when a corner is painted "
                    "over: what stands in it is what the run may go by.", command)


def _nearness(row: dict) -> float:
    """How near the lower end of a signal comes to an alarm, which it is from 1 on; lowest where that is unknown."""
    low, threshold = float(row["low"] or "nan"), float(row["threshold"] or "nan")
    nothing = NOTHING.get(row["signal"], 0.0)
    return (low - nothing) / (threshold - nothing) if low == low and threshold > nothing else float("-inf")


def _signals(rows: list[dict]) -> Markup:
    return table(["label", "signal", "where", "value", "95 % interval", "alarm from", "images"], [
        [row["label"], row["signal"], row["where"], number(row["value"], 3), interval(row["low"], row["high"], 3),
         number(row["threshold"], 3), row["images"]] for row in rows],
                 ["bad" if row["alarm"] == "True" else "" for row in rows])
