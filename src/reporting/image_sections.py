"""Parts of a report that show images: spot checks, the map of neighbours, label errors, anomalies, shortcuts."""

from collections.abc import Callable
from pathlib import Path

from common.console import interval, number, percent
from common.files import read_json
from explaining.methods import METHODS
from reporting.context import ReportContext, add_picture, noting, others_too, read_rows
from reporting.html import Figure, Markup, Part, heading, paragraph, table

NOTHING = {"attribution": 1.0, "alone": 0.5}  # what signals of a shortcut are where there is none; others 0
MEASURES = {"inside": "hottest inside", "share_inside": "heat inside", "deletion": "deletion ↓",
            "insertion": "insertion ↑", "randomised": "like random weights' ↓"}
POINTING = ("label", "images", "inside", "low", "high", "chance", "best_guess", "nearly", "nearly_chance", "empty")
SHORTCUTS = ("label", "signal", "where", "value", "low", "high", "images", "threshold", "alarm")
MOST_LOOKED_AT = 3  # sheets of single images
NEAR = 8            # signals of a shortcut that are nearest to an alarm
WORST = 12          # labels to look at again


def explain_part(shown: ReportContext) -> Part | None:
    """Where the networks look: the sheets of explain.py, the pointing game and the measures of its methods."""
    patterns = (*(f"{method}.json" for method in METHODS), "measures.csv", "look_*.png")
    found = [shown.holders(pattern) for pattern in patterns]
    names = list(dict.fromkeys(name for each, _ in found for name in each))
    if not names:
        return None
    others = list(dict.fromkeys(name for _, each in found for name in each if name not in names))
    part = Part("explanations", "Spot checks", "Where the networks look, in out-of-fold images, each explained by the "
                "one model that never saw its group. A map says where, not why; and no map proves that a network looks "
                "at the right thing everywhere.")
    for name in names:
        part.blocks.append(heading(name))
        for method in METHODS:
            if (shown.folder(name) / f"{method}.json").exists():
                _add_sheets(shown, part, name, method)
        _add_measures(shown, part, name)
        sheets = sorted(shown.folder(name).glob("look_*.png"))
        for path in sheets[:MOST_LOOKED_AT]:
            image_id = path.stem.removeprefix("look_")
            add_picture(part, path, f"{image_id}: by every method and every fold's model. Where they disagree, none of "
                        "them is to be believed alone.", shown.command(
                            "explain", f"--experiment {name} --image {image_id}"))
        if more := [path.name for path in sheets[MOST_LOOKED_AT:]]:
            part.blocks.append(paragraph(f"Also in {name}/: {', '.join(more)}", style="lead"))
    part.blocks += others_too(others, shown)
    return part


def _add_sheets(shown: ReportContext, part: Part, name: str, method: str) -> None:
    folder, command = shown.folder(name), shown.command("explain", f"--experiment {name}" + (
        "" if method == "gradcam" else f" --method {method}"))
    with noting(part, folder / f"{method}.json", command):
        said = read_json(folder / f"{method}.json")
        if said["made_from"]["weights"] != shown.read(name).made_of:
            part.notes.append(f"{name}: the {METHODS[method].title} sheets are of other models than the run has now. "
                              f"Make them again: {command}")
        files = [str(file) for file in said["files"]]
        for file in files:
            if file.endswith(".png"):
                add_picture(part, folder / file, f"{METHODS[method].title}, the most confident cases of each outcome. "
                            "Warm: what raises the label's probability, relative to the map's own maximum. Look "
                            "whether true positives are warm on the finding and false ones on something that they "
                            "share.", command)
        for file in files:
            if file.endswith(".csv"):
                with noting(part, folder / file, command):
                    part.blocks.append(_pointing(folder / file, command))


def _pointing(path: Path, command: str) -> Figure:
    rows = [[row["label"], row["images"], percent(row["inside"], 0),
             f"{percent(row['low'], 0)} to {percent(row['high'], 0)}", percent(row["chance"], 0),
             percent(row["best_guess"], 0),
             percent(row["nearly"], 0), percent(row["nearly_chance"], 0), row["empty"]]
            for row in read_rows(path, POINTING)]
    return Figure(table(["label", "images", "inside", "95 % interval", "by chance", "best guess", "nearly", "by chance",
                         "empty maps"], rows),
                  "The pointing game: how often the map's hottest pixel lies inside the finding as it was drawn. Best "
                  "guess: one pixel for all images, learned from the other folds; a map worth having beats it.",
                  (command,))


def _add_measures(shown: ReportContext, part: Part, name: str) -> None:
    path = shown.folder(name) / "measures.csv"
    command = shown.command("explain", f"--experiment {name} --evaluate-maps 24")
    if not path.exists():
        return
    with noting(part, path, command):
        most = max(int(row["images"]) for row in read_rows(path, ("images",)))
        each = -(-most // len(shown.competition.labels))  # so many of every label
        command = shown.command("explain", f"--experiment {name} --evaluate-maps {each}")
        titles = {method: METHODS[method].title for method in METHODS}
        rows = [[titles.get(row["method"], row["method"]), row["images"], row["empty"],
                 *(f"{number(row[key], 2)} ({interval(row[f'{key}_low'], row[f'{key}_high'], 2)})" if row[key] else "-"
                   for key in MEASURES)] for row in read_rows(path, ("method", "images", "empty", *MEASURES))]
        part.blocks.append(Figure(
            table(["method", "images", "empty", *MEASURES.values()], rows),
            "How good the maps are: how often the hottest pixel, and how much of the heat, lies inside the finding; "
            "the label's probability as the hottest pixels are blurred first (deletion, low is good) or all others "
            "(insertion, high is good); and how like the map is to that of a network with random weights (high is bad: "
            "the map then shows the image). 95 % intervals over images.", (command,)))


def _by_run(shown: ReportContext, part: Part, script: str, pattern: str,
            add: Callable[[ReportContext, Part, str, Path, str], None]) -> Part | None:
    """The part, with what `add(shown, part, name, folder, command)` adds of every run that has such a file; else None.
    """
    names, others = shown.holders(pattern)
    if not names:
        return None
    for name in names:
        part.blocks.append(heading(name))
        add(shown, part, name, shown.folder(name), shown.command(script, f"--experiment {name}"))
    part.blocks += others_too(others, shown)
    return part


def map_part(shown: ReportContext) -> Part | None:
    """The map of similar images of every run that has one."""
    part = Part("map", "Map of neighbours", "All out-of-fold images by what the one model that did not see each makes "
                "of it; near points are alike to the network. How far apart groups lie means little.")
    return _by_run(shown, part, "neighbours", "neighbours.png", _add_map)


def _add_map(shown: ReportContext, part: Part, name: str, folder: Path, command: str) -> None:
    if (account := folder / "neighbours.json").exists():
        with noting(part, account, command):
            if read_json(account)["made_from"]["weights"] != shown.read(name).made_of:
                part.notes.append(f"{name}: the map is of other models than the run has now. Make it again: "
                                  f"{command}")
    add_picture(part, folder / "neighbours.png", "t-SNE of the run's features, a panel a colouring. Labels that "
                "form no region are not told apart; errors that lie together have a common cause; folds that lie "
                "apart mean that their models see differently.", command)
    if (folder / "neighbours_of_images.png").exists():
        add_picture(part, folder / "neighbours_of_images.png", "Single images, framed, and their nearest training "
                    "cases: neighbours with other labels show what the network confuses.",
                    f"{command} --image ID")


def errors_part(shown: ReportContext) -> Part | None:
    """Labels that are probably wrong, the worst first."""
    part = Part("label-errors", "Labels to look at again", "Labels that out-of-fold predictions contradict, by "
                "confident learning. Nothing is changed: a person decides, and a confident network can be wrong.")
    return _by_run(shown, part, "label_errors", "label_errors.csv", _add_errors)


def _add_errors(shown: ReportContext, part: Part, name: str, folder: Path, command: str) -> None:
    with noting(part, folder / "label_errors.csv", command):
        found = read_rows(folder / "label_errors.csv", ("image_id", "given", "suggested", "prob_of_given"), True)
        part.blocks.append(paragraph(f"{len(found):,} labels are probably wrong, of {len(shown.table):,} images."))
        headers = [column for column in ("image_id", "label", "given", "suggested", "prob_of_given")
                   if found and column in found[0]]  # the classes of a multiclass task need no label
        rows = [[number(row[column], 4) if column == "prob_of_given" else row[column] for column in headers]
                for row in found[:WORST]]
        if rows:
            part.blocks.append(Figure(table([header.replace("_", " ") for header in headers], rows),
                                      f"The {len(rows)} worst. How probable the given label is to the model that "
                                      "was not trained on the image.", (command,)))
            add_picture(part, folder / "label_errors.png", "The worst of them: look whether the picture shows what "
                        "the label says.", command)


def anomalies_part(shown: ReportContext) -> Part | None:
    """How well images unlike the normal ones are found, and the pictures of it."""
    folder, command = shown.folder("anomaly"), shown.command("anomaly")
    if not folder.exists():
        return None
    part = Part("anomalies", "Anomalies", "Learned from normal images alone: which others are unlike them, by four "
                "methods.")
    with noting(part, folder / "detection.json", command):
        said = read_json(folder / "detection.json")
        if said["folds"] != shown.folds.hash:
            part.notes.append(f"The anomaly scores were computed on other folds. Make them again: {command}")
        rows = []
        for row in said["rows"]:
            cells = [f"{number(row[key], 3)} ({interval(row[f'{key}_low'], row[f'{key}_high'], 3)})"
                     if row[key] is not None else "-"
                     for key in ("roc_auc", "average_precision", "sensitivity", "specificity")]
            rows.append([row["part"], row["method"], f"{row['images']:,}", f"{row['anomalies']:,}", *cells])
        part.blocks += [paragraph(f"{said['normal']}.", style="lead"), Figure(
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
            add_picture(part, path, caption, command)
    return part


def shortcuts_part(shown: ReportContext) -> Part | None:
    """What the alarm for shortcuts says of each run, alarms first, and the images whose answers a corner changes."""
    part = Part("shortcuts", "Shortcut alarm", "Whether a run seems to tell labels by what is no anatomy: corners, "
                "border, site, view. An alarm names what to look at. No alarm is no clearance.")
    return _by_run(shown, part, "shortcuts", "shortcuts.*", _add_shortcuts)


def _add_shortcuts(shown: ReportContext, part: Part, name: str, folder: Path, command: str) -> None:
    with noting(part, folder / "shortcuts.csv", command):
        rows = read_rows(folder / "shortcuts.csv", SHORTCUTS)
        alarms = [row for row in rows if row["alarm"] == "True"]
        said = f"{len(alarms) or 'none'} of {len(rows)} signals {'raise' if len(alarms) > 1 else 'raises'} an alarm"
        near = sorted((row for row in rows if row not in alarms), key=_nearness, reverse=True)
        part.blocks.append(Figure(_signals(alarms + near[:NEAR]), f"{name}: {said}. Coloured: alarms; then the "
                                  f"{NEAR} that come nearest to one; all are in shortcuts.csv. Attribution: heat "
                                  "there by its share of the area. Alone: AUC of that and nothing else. Filled in: "
                                  "AUC lost when it is painted over. Follows: how well the scores tell that "
                                  "column, AUC from 0.5.", (command,)))
        if alarms:
            part.warning += f"{', ' if part.warning else ''}{name}: {said}"
    if (folder / "shortcuts.png").exists():
        add_picture(part, folder / "shortcuts.png", "Images whose answers change most when a corner is painted "
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
