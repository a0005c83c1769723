"""Looks for shortcuts outside the anatomy:  python src/find_shortcuts.py --experiment cnn_b

Computes four signals per label on held-out images, each by the model that did not train on its group: heat in the
corners and on the border; the AUC of images of which only a corner or the border is left; the AUC that is lost when
they are inpainted; and whether the scores follow site, view, sex or age, if the table has such columns. All of them go
to shortcuts.csv in runs/<competition>/<experiment>/, and the images that a corner changes most to shortcuts.png. An
alarm names what to look at. No alarm does not mean no shortcut: one in the middle of the image, or one that follows
another column, raises none.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from commandline import (
    add_experiment,
    load_workspace,
    make_parser,
    run_script,
    trained_names,
)
from common.console import make_console, short_id
from common.figures import save_figure
from common.files import write_csv
from common.hardware import tune_process
from common.image_grid import Tile, draw_tiles
from competition import Competition
from data.folds import fold_numbers
from data.metadata import parse_columns
from data.tables import read_columns
from explaining.held_out_maps import BlendMember, explained_by, held_out_maps, open_members, read_trained
from results.runs import Oof, run_folder
from results.workspace import Workspace

MOST_IMAGES = 3000         # about, over all labels
PER_SIDE = (50, 300)       # least and most images with a label, and without it
MAPS = {"gradcam": 100, "occlusion": 24}  # most maps per label, one per group
COLUMNS = frozenset("""site hospital institution center centre scanner device machine manufacturer ward view position
                    projection frontal lateral ap pa sex gender age""".split())  # words in names of columns
MOST_VALUES = 8            # of a column, the most frequent
ROWS, PAIRS = 6, 4         # of the figure: labels, and pairs of images per label
MOST_GAPS = 5              # printed
SIGNALS = {"attribution": "heat / area", "alone": "AUC alone", "filled in": "AUC lost",
           "follows": "|AUC - 0.5| of column"}
LIMITS = ("No alarm does not mean no shortcut: only corners, the border and the columns named here were tested. A tube "
          "in the lung, a hospital\nthat no column names, or a weak shortcut raises no alarm.")


def main(argv: list[str] | None = None) -> dict[str, pd.DataFrame]:
    """Checks every run, and every member of a blend; returns the strongest signals by run."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    args = parser.parse_args(argv)
    tune_process()
    workspace = load_workspace(args)
    columns = subgroup_columns(workspace.competition, workspace.data_dir, workspace.table)
    names = [member for name in trained_names(args) for member in single_runs(workspace, name)]
    found = {name: check_run(workspace, name, columns) for name in dict.fromkeys(names)}
    print(LIMITS)
    return found


def single_runs(workspace: Workspace, name: str) -> tuple[str, ...]:
    """The run, or the members of a blend: it has the shortcuts of its members."""
    oof = workspace.oof(name)
    if oof.members:
        print(f"{name} is a blend; its members are checked: {', '.join(oof.members)}")
    return oof.members or (name,)


def subgroup_columns(competition: Competition, data_dir: Path, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Columns (N,) of text that name a site, view, sex or age: the most frequent values, ages by their median; else "".
    """
    others = read_columns(competition, data_dir, "train").reindex(table["image_id"]).fillna("")
    named = [column for column in others
             if column != competition.group_column and is_subgroup_column(column)]
    numeric, columns = parse_columns(others[named]).numeric, {}
    for column in named:
        texts = others[column].astype(str).str.strip()
        counts = texts[texts != ""].value_counts()
        if column in numeric and "age" in _words(column):
            numbers, middle = numeric[column].to_numpy(float), numeric[column].median()
            sides = np.where(numbers > middle, f"above {middle:g}", f"at most {middle:g}")
            columns[column] = np.where(np.isnan(numbers), "", sides)
        elif len(counts) > 1:  # a hospital's number is a name
            if len(counts) > MOST_VALUES:
                print(f"{column} has {len(counts)} values; the {MOST_VALUES} most frequent are checked")
            columns[column] = texts.where(texts.isin(counts.index[:MOST_VALUES]), "").to_numpy(str)
    if competition.name == "demo" and (data_dir / "truth" / "truth.csv").exists():
        from data.demo import read_truth

        columns["site"] = read_truth(data_dir).set_index("image_id").loc[table["image_id"], "site"].to_numpy(str)
    return columns


def is_subgroup_column(column: str) -> bool:
    """True for a column such as Patient Sex, site_id, AP/PA."""
    return not COLUMNS.isdisjoint(_words(column))


def _words(column: str) -> list[str]:
    return re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", column).lower())


def check_run(workspace: Workspace, name: str, columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """Writes a run's signals and its figure; returns a row per label and signal, the strongest.

    columns: (N,) text of `subgroup_columns`. Raises FileNotFoundError if no fold is finished, ValueError if no label is
    known in a trained fold.
    """
    from explaining.shortcut_signals import (
        column_evidence,
        held_out_log_odds,
        mark_alarms,
        strongest_signals,
        zone_evidence,
    )

    competition, table, oof = workspace.competition, workspace.table, read_trained(workspace, name)
    targets = workspace.label_targets.copy()
    targets[table["constant"].to_numpy()] = np.nan
    targets = np.where(np.isnan(oof.probs), np.nan, targets)
    numbers, groups = fold_numbers(table, oof.split), pd.factorize(table["group"])[0]
    member, = open_members(competition, oof, table)
    drawn = draw_rows(targets)
    if not drawn.any():
        raise ValueError(f"no label of {competition.name!r} is known in a trained fold; there is nothing to check")
    rows = np.flatnonzero(drawn.any(axis=1))
    answers = held_out_log_odds(member, table, rows)
    asked = np.where(drawn, targets, np.nan)[rows]
    evidence = zone_evidence(competition.labels, asked, answers, numbers[rows], groups[rows])
    evidence += heat_evidence(competition, member, table, targets, groups)
    for column, values in tqdm(columns.items(), desc="subgroups", unit="column", leave=False, disable=None):
        evidence += column_evidence(competition.labels, targets, oof.probs, numbers, groups, column, values)
    frame = mark_alarms(evidence)
    path = write_csv(run_folder(competition, name) / "shortcuts.csv", frame, float_format="%.6g")
    strongest = strongest_signals(frame)
    show(competition, name, strongest, columns, len(rows))
    show_gaps(frame)
    figure = draw_changes(competition, oof, member, table, rows, asked, answers, strongest)
    print(f"written: {path}" + (f", {figure}" if figure else ""))
    return strongest


def draw_rows(targets: np.ndarray, seed: int = 0) -> np.ndarray:
    """(N, K) bool, the images used for a label: a random choice of those with it, and of those without."""
    least, most = PER_SIDE
    each = int(np.clip(MOST_IMAGES // (2 * targets.shape[1]), least, most))
    drawn, rng = np.zeros(targets.shape, bool), np.random.default_rng(seed)
    for k in range(targets.shape[1]):
        for side in (1, 0):
            drawn[rng.permutation(np.flatnonzero(targets[:, k] == side))[:each], k] = True
    return drawn


def heat_evidence(competition: Competition, member: BlendMember, table: pd.DataFrame, targets: np.ndarray,
               groups: np.ndarray) -> list:
    """The signal "attribution" of every label, on a random choice of images with the label, one per group."""
    from explaining.shortcut_signals import attribution_evidence, zone_excess

    method = "gradcam" if explained_by([member], "gradcam")[0] else "occlusion"
    rng, wanted = np.random.default_rng(0), set()
    for k in range(len(competition.labels)):
        positive = rng.permutation(np.flatnonzero(targets[:, k] == 1))
        first = np.sort(np.unique(groups[positive], return_index=True)[1])[:MAPS[method]]
        wanted |= {(k, row) for row in positive[first].tolist()}
    excess = [[] for _ in competition.labels]
    for k, _, heat, _ in held_out_maps([member], table, wanted, method):
        excess[k].append(zone_excess(heat))
    return [each for k, label in enumerate(competition.labels)
            for each in attribution_evidence(label, np.array(excess[k]).reshape(-1, 5))]


def show(competition: Competition, name: str, judged: pd.DataFrame, columns: dict[str, np.ndarray],
         images: int) -> None:
    """Prints a row per label: every signal in the zone or column where it is strongest, alarms in red."""
    from explaining.shortcut_signals import FALSE_ALARMS

    used = judged.drop_duplicates("signal").set_index("signal")["threshold"]
    signals = {signal: title for signal, title in SIGNALS.items() if signal in used}
    board = Table("label", *signals.values(), title=f"{name}: signals of a shortcut, 95 % intervals; alarms in red")
    for label in competition.labels:
        mine = judged[judged["label"] == label].set_index("signal")
        board.add_row(label, *(_cell(mine.loc[signal]) for signal in signals))
    make_console().print(board)
    thresholds = ", ".join(f"{title} {used[signal]:g}" for signal, title in signals.items())
    alarms = "; ".join(f"{row.label}: {SIGNALS[row.signal]}, {row.where}"
                       for row in judged[judged["alarm"]].itertuples())
    print(f"{images:,} held-out images; columns: {', '.join(columns) or 'none names a site, view, sex or age'}.\n"
          f"Alarm: the interval lies above {thresholds}.\nOn clean simulated competitions {100 * FALSE_ALARMS:.1f} % "
          f"of the labels raised a false alarm, here that would be {FALSE_ALARMS * len(competition.labels):.1f} of "
          f"{len(competition.labels)}; the share for other networks and images is unknown.\n"
          f"{name}: {'ALARM. ' + alarms if alarms else 'no alarm.'}")


def show_gaps(frame: pd.DataFrame) -> None:
    """Prints the significant gaps between subgroups, the largest lower end first, and how many chance would give."""
    tested = frame[frame["signal"].str.endswith("gap") & frame["low"].notna()]
    gaps = tested[tested["low"] > 0].sort_values("low", ascending=False)
    if len(gaps):
        print(f"{len(gaps)} of {len(tested)} gaps between subgroups are significant at 5 %, {0.05 * len(tested):.1f} "
              "expected by chance; a gap alone is no alarm:")
    for row in gaps.head(MOST_GAPS).itertuples():
        print(f"    {row.label}: {row.signal} {row.value:.2f} ({row.low:.2f} to {row.high:.2f}), {row.where}")


def _cell(row: pd.Series) -> str:
    if np.isnan(row["value"]):
        return "undefined"
    colour = "red" if row["alarm"] else "default"
    return f"[{colour}]{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})[/]\n{escape(row['where'])}"


def draw_changes(competition: Competition, oof: Oof, member: BlendMember, table: pd.DataFrame, rows: np.ndarray,
                 targets: np.ndarray, answers: dict, judged: pd.DataFrame) -> Path | None:
    """Draws the images whose probability the strongest zone of a label changes most, as they are and inpainted.

    Returns the figure's path, None if the signal is undefined for every label.
    """
    from scipy.special import expit

    from explaining.shortcut_signals import zone_masks

    strongest = judged[(judged["signal"] == "filled in") & judged["value"].notna()]
    lines = []
    for label, zone in strongest.sort_values("low", ascending=False)[["label", "where"]].head(ROWS).to_numpy():
        k = competition.labels.index(label)
        before, after = expit(answers["whole"][:, k]), expit(answers["filled in", zone][:, k])
        change = np.where(np.isnan(targets[:, k]) | np.isnan(before), -1, np.abs(before - after))
        mask, line = zone_masks(member.store.settings.size)[zone], []
        for place in np.argsort(-change, kind="stable")[:PAIRS]:
            if change[place] < 0:
                continue
            image_id = table["image_id"].iloc[rows[place]]
            image = member.store.read(member.store.rows([image_id]))
            line += _pair(f"{short_id(image_id)}\n{label}: {'present' if targets[place, k] == 1 else 'absent'}", zone,
                          image, mask, before[place], after[place])
        lines.append(line)
    if not lines:
        return None
    figure = draw_tiles(f"{competition.name} / {oof.name}: what corners and borders change",
                        "For every label the zone whose loss costs the most AUC, and the held-out images whose "
                        "probability p it changes most:\nwith the zone outlined, and with it inpainted.",
                        lines)
    path = run_folder(competition, oof.name) / "shortcuts.png"
    return save_figure(figure, path)


def _pair(text: str, zone: str, image: np.ndarray, mask: np.ndarray, before: float,
          after: float) -> list[Tile]:
    """An image (1, S, S[, 3]) with its zone outlined, and with it inpainted."""
    from explaining.shortcut_signals import fill_in

    inside = mask.copy()
    inside[1:-1, 1:-1] &= ~(mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:])
    outlined = image[0].copy() if image.ndim == 4 else np.repeat(image[0][..., None], 3, axis=2)
    outlined[inside & mask] = (0, 229, 255)
    filled = fill_in(image, mask)[0]
    return [Tile(f"{text}\np {before:.3f}", outlined), Tile(f"without the\n{zone}\np {after:.3f}", filled)]


if __name__ == "__main__":
    run_script(main)
