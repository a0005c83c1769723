"""Do the networks answer by what is no anatomy?  python src/find_shortcuts.py --experiment cnn_b

Four signals of a shortcut, of held-out images by the model that never saw their group: attribution in the corners and
on the border; the AUC of nothing but a corner or the border; what the AUC loses when they are painted over; do the
scores follow site, view, sex or age, where the table has such columns. All of it in shortcuts.csv, in
runs/<competition>/<experiment>/, and in shortcuts.png the images whose answers a corner changes most. Alarms name what
a person should look at. No alarm is no clearance: a shortcut in the middle of the image, or one that nobody looked for,
raises none.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from commandline import add_experiment, load_competition, load_folded_table, make_parser, run_names
from common.console import make_console, short_id
from common.figures import save_figure
from common.files import write_csv
from common.hardware import tune_process
from common.image_grid import Tile, draw_tiles
from competition import Competition
from data.folds import Folds, fold_numbers
from data.labels import scoring_targets
from data.metadata import parse_columns
from data.tables import label_cells, read_columns
from explaining.held_out_maps import BlendMember, explained_by, held_out_maps, open_members
from results.runs import Oof, read_oof, run_folder, train_command

MOST = 3000      # images that are probed, about
EACH = (50, 300)  # of them with a label, and as many without: at least and at most
MAPS = {"gradcam": 100, "occlusion": 24}  # of a label at most, one a group
COLUMNS = frozenset("""site hospital institution center centre scanner device machine manufacturer ward view position
                    projection frontal lateral ap pa sex gender age""".split())  # words of their names
MOST_VALUES = 8  # of a column
ROWS, PAIRS = 6, 4  # of the sheet: labels, and pairs of images of each
GAPS = 5         # that are printed
SIGNALS = {"attribution": "heat by area's share", "alone": "AUC of it alone", "filled in": "AUC lost without it",
           "follows": "scores tell, AUC from 0.5"}
CLEAR = ("No alarm is NO CLEARANCE: these signals know of corners, the border and the columns named here, and of "
         "nothing else. A tube in the lung\nthat tells the label, a hospital that no column names, or a shortcut too "
         "weak to be seen raises none.")


def main(argv: list[str] | None = None) -> dict[str, pd.DataFrame]:
    """Looks for shortcuts of every experiment's run, of a blend's members; returns the signals by run."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    args = parser.parse_args(argv)
    tune_process()
    competition, data_dir = load_competition(args)
    table, folds = load_folded_table(competition, data_dir)
    columns = subgroup_columns(competition, data_dir, table)
    names = [member for name in run_names(args) for member in single_runs(competition, name, table, folds)]
    found = {name: look_for_shortcuts(competition, name, table, folds, columns) for name in dict.fromkeys(names)}
    print(CLEAR)
    return found


def single_runs(competition: Competition, name: str, table: pd.DataFrame, folds: Folds) -> tuple[str, ...]:
    """The run, or the members of a blend: a blend has what its members have, each in its own corner."""
    oof = read_oof(competition, name, table, folds.hash)
    if oof.members:
        print(f"{name} is a blend; its members are looked at one by one: {', '.join(oof.members)}")
    return oof.members or (name,)


def subgroup_columns(competition: Competition, data_dir: Path, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Columns (N,) of text that name a site, view, sex or age, the most frequent values, ages by their median; else "".
    """
    others = read_columns(competition, data_dir, "train").reindex(table["image_id"]).fillna("")
    named = [column for column in others
             if column != competition.group_column and is_about_people_or_machines(column)]
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
                print(f"{column} has {len(counts)} values; looked at are the {MOST_VALUES} most frequent")
            columns[column] = texts.where(texts.isin(counts.index[:MOST_VALUES]), "").to_numpy(str)
    if competition.name == "demo" and (data_dir / "truth" / "truth.csv").exists():
        from data.demo import read_truth

        columns["site"] = read_truth(data_dir).set_index("image_id").loc[table["image_id"], "site"].to_numpy(str)
    return columns


def is_about_people_or_machines(column: str) -> bool:
    """True for a column such as Patient Sex, site_id, AP/PA."""
    return not COLUMNS.isdisjoint(_words(column))


def _words(column: str) -> list[str]:
    return re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", column).lower())


def look_for_shortcuts(competition: Competition, name: str, table: pd.DataFrame, folds: Folds,
                       columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """Writes a run's signals and its sheet; returns a row a label and signal, as `alarms.raise_alarms` gives them.

    Raises FileNotFoundError where no fold is finished.
    """
    from explaining.shortcut_signals import judge_answers, judge_column, mark_alarms, probe_held_out, raise_alarms

    oof = read_oof(competition, name, table, folds.hash)
    if not oof.runs:
        raise FileNotFoundError(f"run {name!r} has no finished fold; run: {train_command(competition, oof)}")
    if not oof.is_whole:
        print(f"{name}: the folds {', '.join(map(str, oof.folds_missing))} are not trained, their images are not "
              f"looked at; run: {train_command(competition, oof)}")
    targets = scoring_targets(label_cells(competition, table))
    targets[table["constant"].to_numpy()] = np.nan  # they have no corners to look at
    targets = np.where(np.isnan(oof.probs), np.nan, targets)
    numbers, groups = fold_numbers(table, oof.split), pd.factorize(table["group"])[0]
    member, = open_members(competition, oof, table)
    drawn = draw_rows(targets)
    if not drawn.any():
        raise ValueError(f"no label of {competition.name!r} is stated in a trained fold; there is nothing to look at")
    rows = np.flatnonzero(drawn.any(axis=1))
    answers = probe_held_out(member, table, rows)
    asked = np.where(drawn, targets, np.nan)[rows]
    evidence = judge_answers(competition.labels, asked, answers, numbers[rows], groups[rows])
    evidence += judge_heat(competition, member, table, targets, groups)
    for column, values in tqdm(columns.items(), desc="subgroups", unit="column", leave=False, disable=None):
        evidence += judge_column(competition.labels, targets, oof.probs, numbers, groups, column, values)
    frame = mark_alarms(evidence)
    path = write_csv(run_folder(competition, name) / "shortcuts.csv", frame, float_format="%.6g")
    judged = raise_alarms(frame)
    show(competition, name, judged, columns, len(rows))
    show_gaps(frame)
    print(f"every zone and column: {path}")
    if sheet := draw_changes(competition, oof, member, table, rows, asked, answers, judged):
        print(f"look at {sheet}")
    return judged


def draw_rows(targets: np.ndarray, seed: int = 0) -> np.ndarray:
    """(N, K) bool: the images by which a label is judged, drawn at random of those with it, and of those without."""
    least, most = EACH
    each = int(np.clip(MOST // (2 * targets.shape[1]), least, most))
    drawn, dice = np.zeros(targets.shape, bool), np.random.default_rng(seed)
    for k in range(targets.shape[1]):
        for side in (1, 0):
            drawn[dice.permutation(np.flatnonzero(targets[:, k] == side))[:each], k] = True
    return drawn


def judge_heat(competition: Competition, member: BlendMember, table: pd.DataFrame, targets: np.ndarray,
               groups: np.ndarray) -> list:
    """The signal "attribution" of every label: of images that have it, one a group, drawn at random."""
    from explaining.shortcut_signals import judge_maps, zone_excess

    method = "gradcam" if explained_by([member], "gradcam")[0] else "occlusion"
    dice, wanted = np.random.default_rng(0), set()
    for k in range(len(competition.labels)):
        there = dice.permutation(np.flatnonzero(targets[:, k] == 1))
        first = np.sort(np.unique(groups[there], return_index=True)[1])[:MAPS[method]]
        wanted |= {(k, row) for row in there[first].tolist()}
    excess = [[] for _ in competition.labels]
    for k, _, heat, _ in held_out_maps([member], table, wanted, method):
        excess[k].append(zone_excess(heat))
    return [each for k, label in enumerate(competition.labels)
            for each in judge_maps(label, np.array(excess[k]).reshape(-1, 5))]


def show(competition: Competition, name: str, judged: pd.DataFrame, columns: dict[str, np.ndarray],
         images: int) -> None:
    """Prints a row a label: of every signal the zone or column where it is surest, red where it is an alarm."""
    from explaining.shortcut_signals import FALSE_ALARMS

    board = Table("label", *SIGNALS.values(), title=f"{name}: signs of a shortcut, 95 % intervals; alarms in red")
    for label in competition.labels:
        mine = judged[judged["label"] == label].set_index("signal")
        board.add_row(label, *(_cell(mine.loc[signal]) if signal in mine.index else "no such column"
                               for signal in SIGNALS))
    make_console().print(board)
    used = judged.drop_duplicates("signal").set_index("signal")["threshold"]
    thresholds = ", ".join(f"{words} {used[signal]:g}" for signal, words in SIGNALS.items() if signal in used)
    alarms = judged[judged["alarm"]]
    said = "; ".join(f"{row.label}: {SIGNALS[row.signal]}, {row.where}" for row in alarms.itertuples())
    print(f"{images:,} held-out images, columns: {', '.join(columns) or 'none that names a site, view, sex or age'}.\n"
          f"An alarm: the interval lies above {thresholds}.\nOf labels of clean simulated competitions "
          f"{100 * FALSE_ALARMS:.1f} % raised one, which would be {FALSE_ALARMS * len(competition.labels):.1f} of "
          f"{len(competition.labels)} here; of other networks and images that share is not known.\n"
          f"{name}: {'ALARM. ' + said if said else 'no alarm.'}")


def show_gaps(frame: pd.DataFrame) -> None:
    """Prints the gaps between subgroups that are beyond their own noise, the surest first, and what chance would give.
    """
    looked_at = frame[frame["signal"].str.endswith("gap") & frame["low"].notna()]
    gaps = looked_at[looked_at["low"] > 0].sort_values("low", ascending=False)
    if len(gaps):
        print(f"{len(gaps)} of {len(looked_at)} gaps between subgroups are beyond noise, {0.05 * len(looked_at):.1f} "
              "would be by chance alone; no alarm by themselves:")
    for row in gaps.head(GAPS).itertuples():
        print(f"    {row.label}: {row.signal} {row.value:.2f} ({row.low:.2f} to {row.high:.2f}), {row.where}")


def _cell(row: pd.Series) -> str:
    if np.isnan(row["value"]):
        return "undefined"
    colour = "red" if row["alarm"] else "default"
    return f"[{colour}]{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})[/]\n{escape(row['where'])}"


def draw_changes(competition: Competition, oof: Oof, member: BlendMember, table: pd.DataFrame, rows: np.ndarray,
                 targets: np.ndarray, answers: dict, judged: pd.DataFrame) -> Path | None:
    """Draws the images whose answers the surest zone of a label changes most, as they are and painted over.

    The labels that owe their zone most come first. None where no label is defined.
    """
    from scipy.special import expit

    from explaining.shortcut_signals import zone_masks

    surest = judged[(judged["signal"] == "filled in") & judged["value"].notna()]
    lines = []
    for label, zone in surest.sort_values("low", ascending=False)[["label", "where"]].head(ROWS).to_numpy():
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
                        "Of every label the zone whose loss costs most, and the held-out images whose answer it "
                        "changes most:\nas they are, the zone outlined; and painted over. p: the probability of the "
                        "label.",
                        lines)
    path = run_folder(competition, oof.name) / "shortcuts.png"
    return save_figure(figure, path)


def _pair(text: str, zone: str, image: np.ndarray, mask: np.ndarray, before: float,
          after: float) -> list[Tile]:
    """An image (1, S, S[, 3]) with its zone outlined, and with it painted over."""
    from explaining.shortcut_signals import fill_in

    inside = mask.copy()
    inside[1:-1, 1:-1] &= ~(mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:])
    outlined = image[0].copy() if image.ndim == 4 else np.repeat(image[0][..., None], 3, axis=2)
    outlined[inside & mask] = (0, 229, 255)
    filled = fill_in(image, mask)[0]
    return [Tile(f"{text}\np {before:.3f}", outlined), Tile(f"without the\n{zone}\np {after:.3f}", filled)]


if __name__ == "__main__":
    main()
