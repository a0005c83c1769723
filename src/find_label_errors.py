"""Labels to look at again:  python src/find_label_errors.py --experiment lite0

Confident learning on out-of-fold predictions, of a run or a blend: every label that is probably wrong, the worst first,
in label_errors.csv, and a sheet of the worst, label_errors.png, in runs/<competition>/<experiment>/. Where it is known
which labels are wrong (the demo's), it also tells how many of them were found. Nothing is changed: a person decides.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from auditing.confident_learning import judge_cells, measure_against, rank_suspects
from commandline import add_experiment, load_competition, load_folded_table, make_parser, run_names
from common.console import make_console, percent, short_id
from common.figures import save_figure
from common.files import write_csv
from common.image_grid import Tile, draw_tiles
from competition import Competition
from data.labels import scoring_targets
from data.pixel_store import open_store, pixel_settings
from data.tables import label_cells
from experiment import Experiment
from results.runs import Oof, read_oof, run_folder, train_command

SHOWN, IN_A_LINE = 40, 8  # suspects on the sheet


def main(argv: list[str] | None = None) -> dict[str, pd.DataFrame]:
    """Ranks every experiment's suspects; returns them by run."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    args = parser.parse_args(argv)
    competition, data_dir = load_competition(args)
    table, folds = load_folded_table(competition, data_dir)
    return {name: find_errors(competition, data_dir, read_oof(competition, name, table, folds.hash), table)
            for name in run_names(args)}


def find_errors(competition: Competition, data_dir: Path, oof: Oof, table: pd.DataFrame) -> pd.DataFrame:
    """Writes a run's or blend's suspects as a table and a sheet; returns them, the worst first.

    Black images are left out: they are predicted by the prior, which knows nothing about them.
    """
    if np.isnan(oof.probs).all():
        raise FileNotFoundError(f"run {oof.name!r} has no finished fold; run: python src/train.py --competition "
                                f"{competition.name} --experiment {oof.name}")
    if not oof.is_whole:
        print(f"{oof.name}: the folds {', '.join(map(str, oof.folds_missing))} are not trained, their images are not "
              f"judged; run: {train_command(competition, oof)}")
    targets = scoring_targets(label_cells(competition, table))
    targets[table["constant"].to_numpy()] = np.nan
    quality, wrong = judge_cells(targets, oof.probs, competition.task)
    suspects = rank_suspects(targets, oof.probs, quality, wrong, competition.task)
    frame = _name(competition, table, suspects)
    path = write_csv(run_folder(competition, oof.name) / "label_errors.csv", frame, float_format="%.6g")
    judged = int((~np.isnan(quality)).sum())
    print(f"{oof.name}: {len(frame):,} of {judged:,} labels are probably wrong: {path}")
    if len(frame):
        print(f"look at {_draw(competition, oof, table, suspects, frame)}")
    if (planted := read_planted(competition, data_dir, table["image_id"])) is not None:
        show_found(oof.name, measure_against(planted, quality, wrong, competition.labels))
    return frame


def read_planted(competition: Competition, data_dir: Path, image_ids: pd.Series) -> np.ndarray | None:
    """(N, K) bool, which labels the demo's truth says were flipped; None for any other competition."""
    if competition.name != "demo" or not (data_dir / "truth" / "truth.csv").exists():
        return None
    from data.demo import read_truth

    truth = read_truth(data_dir).set_index("image_id").loc[image_ids]
    return truth[[f"flipped_{label}" for label in competition.labels]].to_numpy() == 1


def _name(competition: Competition, table: pd.DataFrame, suspects: pd.DataFrame) -> pd.DataFrame:
    """The suspects as a person reads them."""
    rows, labels = suspects["row"].to_numpy(), np.array(competition.labels)
    names = {"image_id": table["image_id"].to_numpy(str)[rows], "group": table["group"].to_numpy(str)[rows]}
    if competition.task == "multiclass":
        names |= {"given": labels[suspects["given"]], "suggested": labels[suspects["suggested"]]}
    else:
        names |= {"label": labels[suspects["label"]], "given": suspects["given"], "suggested": suspects["suggested"]}
    return pd.DataFrame({**names, "prob_of_given": suspects["prob"], "quality": suspects["quality"]})


def _draw(competition: Competition, oof: Oof, table: pd.DataFrame, suspects: pd.DataFrame, frame: pd.DataFrame) -> Path:
    experiment = oof.runs[0].experiment if oof.runs else Experiment()
    store = open_store(f"{competition.name}-train", table, pixel_settings(competition, experiment))
    tiles = []
    for each, said in zip(suspects.head(SHOWN).itertuples(), frame.head(SHOWN).itertuples(), strict=True):
        image = store.read(store.rows([table["image_id"].iloc[each.row]]))[0]
        given = (f"{said.given}, not {said.suggested}?" if competition.task == "multiclass" else
                 f"{said.label}: {'absent' if each.given == 0 else 'present'}?")
        tiles.append(Tile(f"{short_id(said.image_id)}\n{given}\np of that {each.prob:.3f}", image))
    lines = [tiles[first:first + IN_A_LINE] for first in range(0, len(tiles), IN_A_LINE)]
    figure = draw_tiles(f"{competition.name} / {oof.name}: labels to look at again",
                        f"The {len(tiles)} worst of {len(frame):,}: what is given, and how probable that is to the "
                        "model that was not trained on the image.", lines)
    path = run_folder(competition, oof.name) / "label_errors.png"
    return save_figure(figure, path)


def show_found(name: str, found: pd.DataFrame) -> None:
    """Prints what was found of the labels that are known to be wrong."""
    board = Table("label", "labels", "wrong", "suspected", "of them wrong", "recall", "95 %", "by chance", "precision",
                  "base rate", "first as many", "average precision", title=f"{name}: planted label noise")
    for row in found.to_dict("records"):
        board.add_row(row["label"], f"{row['labels']:,}", str(row["wrong"]), str(row["suspected"]), str(row["hits"]),
                      percent(row["recall"]), f"{percent(row['low'])} - {percent(row['high'])}",
                      percent(row["by_chance"]), percent(row["precision"]), percent(row["base_rate"]),
                      percent(row["first"]), f"{row['average_precision']:.3f}")
    make_console().print(board)
    print("By chance: the recall of as many suspects drawn at random; base rate: their precision. First as many: the "
          "share that is wrong among as many of the worst as there are wrong labels.")


if __name__ == "__main__":
    main()
