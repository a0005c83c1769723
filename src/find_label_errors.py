"""List labels that are probably wrong:  python src/find_label_errors.py --experiment lite0

Confident learning on the out-of-fold predictions of a run or a blend. Writes the suspected labels, the worst first, to
label_errors.csv and draws the worst in label_errors.png, in runs/<competition>/<experiment>/. For the demo, whose label
errors are known, it also prints how many were found. No label is changed: a person decides.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from auditing.confident_learning import judge_cells, measure_against, rank_suspects
from commandline import (
    add_experiment,
    load_workspace,
    make_parser,
    run_script,
    trained_names,
)
from common.console import make_console, number, percent, plural, short_id
from common.figures import save_figure
from common.files import write_csv
from common.image_grid import Tile, draw_tiles
from competition import Competition
from data.folds import fold_numbers
from data.labels import scoring_targets
from data.pixel_store import open_store, pixel_settings
from experiment import Experiment
from results.runs import Oof, run_folder, train_command
from results.workspace import Workspace

SHOWN, IN_A_LINE = 40, 8  # suspects on the sheet


def main(argv: list[str] | None = None) -> dict[str, pd.DataFrame]:
    """Lists the suspected labels of each experiment; returns them by run."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    args = parser.parse_args(argv)
    workspace = load_workspace(args)
    return {name: find_errors(workspace, workspace.oof(name)) for name in trained_names(args)}


def find_errors(workspace: Workspace, oof: Oof) -> pd.DataFrame:
    """Writes the suspected labels of a run or a blend as a table and a sheet; returns them, the worst first.

    Constant images are left out, because they are predicted by the prior. So are the images of folds that did not
    beat a constant prediction: there, disagreement with the label means nothing.
    Raises FileNotFoundError if no fold is trained.
    """
    competition = workspace.competition
    if np.isnan(oof.probs).all():
        raise FileNotFoundError(f"run {oof.name!r} has no finished fold; run: "
                                f"{train_command(competition, oof.name)}")
    if not oof.is_whole:
        print(f"{oof.name}: folds {', '.join(map(str, oof.folds_missing))} are not trained, so the labels of their "
              f"images are not checked; run: {train_command(competition, oof.name, oof.folds_missing)}")
    targets = scoring_targets(workspace.cells)
    targets[workspace.table["constant"].to_numpy()] = np.nan
    if (failed := rows_without_learning(oof, workspace.table)).any():
        print(f"{oof.name}: {'no' if failed.all() else 'not every'} fold beats a constant prediction, so the labels of "
              f"{plural(int(failed.sum()), 'image', 'are')} not checked.")
        targets[failed] = np.nan
    quality, wrong = judge_cells(targets, oof.probs, competition.task)
    suspects = rank_suspects(targets, oof.probs, quality, wrong, competition.task)
    frame = _name(competition, workspace.table, suspects)
    path = write_csv(run_folder(competition, oof.name) / "label_errors.csv", frame, float_format="%.6g")
    sheet = path.with_suffix(".png")
    checked = int((~np.isnan(quality)).sum())
    if checked:
        print(f"{oof.name}: {len(frame):,} of {checked:,} labels are probably wrong: {path}")
    if len(frame):
        print(f"look at {_draw(competition, oof, workspace.table, suspects, frame, sheet)}")
    else:
        sheet.unlink(missing_ok=True)
    planted = read_planted(workspace, workspace.table["image_id"])
    if checked and planted is not None:
        show_found(oof.name, measure_against(planted, quality, wrong, competition.labels))
    return frame


def rows_without_learning(oof: Oof, table: pd.DataFrame) -> np.ndarray:
    """(N,) bool: images of folds whose network did not beat a constant prediction; of a blend, if no network did."""
    failed = [run for run in oof.runs if not run.result["learned"]]
    if len(failed) == len(oof.runs):
        return np.ones(len(table), bool)
    if oof.members:
        return np.zeros(len(table), bool)
    return np.isin(fold_numbers(table, oof.split), [run.recipe["fold"] for run in failed])


def read_planted(workspace: Workspace, image_ids: pd.Series) -> np.ndarray | None:
    """(N, K) bool: the labels that the demo flipped on purpose; None for any other competition."""
    competition = workspace.competition
    if competition.name != "demo" or not (workspace.data_dir / "truth" / "truth.csv").exists():
        return None
    from data.demo import read_truth

    truth = read_truth(workspace.data_dir).set_index("image_id").loc[image_ids]
    return truth[[f"flipped_{label}" for label in competition.labels]].to_numpy() == 1


def _name(competition: Competition, table: pd.DataFrame, suspects: pd.DataFrame) -> pd.DataFrame:
    """The suspects with names instead of positions."""
    rows, labels = suspects["row"].to_numpy(), np.array(competition.labels)
    names = {"image_id": table["image_id"].to_numpy(str)[rows], "group": table["group"].to_numpy(str)[rows]}
    if competition.task == "multiclass":
        names |= {"given": labels[suspects["given"]], "suggested": labels[suspects["suggested"]]}
    else:
        names |= {"label": labels[suspects["label"]], "given": suspects["given"], "suggested": suspects["suggested"]}
    return pd.DataFrame({**names, "prob_of_given": suspects["prob"], "quality": suspects["quality"]})


def _draw(competition: Competition, oof: Oof, table: pd.DataFrame, suspects: pd.DataFrame, frame: pd.DataFrame,
          path: Path) -> Path:
    experiment = oof.runs[0].experiment if oof.runs else Experiment()
    store = open_store(f"{competition.name}-train", table, pixel_settings(competition, experiment))
    tiles = []
    for each, named in zip(suspects.head(SHOWN).itertuples(), frame.head(SHOWN).itertuples(), strict=True):
        image = store.read(store.rows([table["image_id"].iloc[each.row]]))[0]
        given = (f"{named.given}, not {named.suggested}?" if competition.task == "multiclass" else
                 f"{named.label}: {'absent' if each.given == 0 else 'present'}?")
        tiles.append(Tile(f"{short_id(named.image_id)}\n{given}\nprobability {each.prob:.3f}", image))
    lines = [tiles[first:first + IN_A_LINE] for first in range(0, len(tiles), IN_A_LINE)]
    figure = draw_tiles(f"{competition.name} / {oof.name}: labels that are probably wrong",
                        f"The {len(tiles)} worst of {len(frame):,}: the given label, and its probability according to "
                        "a model that was not trained on the image.", lines)
    return save_figure(figure, path)


def show_found(name: str, found: pd.DataFrame) -> None:
    """Prints how many of the label errors that are known were found."""
    board = Table("label", "wrong", "suspected", "both", "recall (95 %)", "precision", "by chance", "AP",
                  title=f"{name}: known label errors")
    for row in found.to_dict("records"):
        board.add_row(row["label"], f"{row['wrong']:,} of {row['labels']:,}", f"{row['suspected']:,}",
                      f"{row['hits']:,}",
                      f"{percent(row['recall'], 0)} ({percent(row['low'], 0)} to {percent(row['high'], 0)})",
                      percent(row["precision"], 0), f"{percent(row['by_chance'], 0)}, {percent(row['base_rate'], 0)}",
                      number(row["average_precision"], 3))
    make_console().print(board)
    print("By chance: recall and precision of as many suspects drawn at random. AP: average precision of the ranking.")


if __name__ == "__main__":
    run_script(main)
