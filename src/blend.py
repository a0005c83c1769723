"""Average runs, joined by id:  python src/blend.py --experiment lite0 cnn_e lstm

Makes two blends, NAME_mean of probabilities and NAME_rank_mean of ranks, scores them on the out-of-fold predictions and
writes a submission of each where every member has predicted the test images.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from blending import BLENDS
from commandline import add_experiment, load_competition, load_folded_table, make_console, make_parser, run_names
from competition import Competition
from files import sha256, write_json
from labels import scoring_targets
from metrics import METRICS, score
from runs import probs_frame, read_oof, read_probs, run_folder, write_probs
from submission import is_written, submission_path, submit_probs
from tables import label_cells, read_part


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Writes the blends' runs and submissions; returns their oof scores."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    parser.add_argument("--name", default="blend", help="default: blend")
    args = parser.parse_args(argv)
    members = run_names(args)
    if len(members) < 2:
        print("one run is no blend; name two or more: --experiment lite0 cnn_e")
        return {}
    competition, data_dir = load_competition(args)
    table, folds = load_folded_table(competition, data_dir)
    return blend_runs(competition, data_dir, table, folds.hash, members, args.name)


def blend_runs(competition: Competition, data_dir: Path, table: pd.DataFrame, folds_hash: str, members: list[str],
               name: str) -> dict[str, float]:
    """Every blend in BLENDS of the members' oof and test predictions; returns the oof scores."""
    oofs = [read_oof(competition, member, table, folds_hash) for member in members]
    for oof in oofs:
        if not oof.is_whole:
            raise ValueError(f"run {oof.name!r} lacks the folds {list(oof.folds_missing)}; a blend of other images than its "
                             f"members' cannot be compared. Run: python src/train.py --competition {competition.name} "
                             f"--experiment {oof.name}")
    targets = scoring_targets(label_cells(competition, table))
    tests = [run_folder(competition, member) / "test.csv" for member in members]
    test_ids = read_part(competition, data_dir, "test")["image_id"] if all(path.exists() for path in tests) else None
    scores = {oof.name: score(competition.metric, targets, oof.probs, competition.task) for oof in oofs}
    for kind, blend in BLENDS.items():
        blended = f"{name}_{kind}"
        folder = run_folder(competition, blended)
        probs = blend(np.stack([oof.probs for oof in oofs]), table["fold"].to_numpy(), competition.task)
        write_probs(folder / "oof.csv", probs_frame(competition, table["image_id"], probs))
        write_json(folder / "blend.json", {"kind": kind, "members": members, "folds_sha256": folds_hash})
        scores[blended] = score(competition.metric, targets, probs, competition.task)
        if test_ids is not None:
            test_probs = blend(np.stack([read_probs(path, competition, test_ids) for path in tests]), None, competition.task)
            write_probs(folder / "test.csv", probs_frame(competition, test_ids, test_probs))
            inputs = {"kind": kind, "folds": folds_hash, "members": {path.parent.name: sha256(path.read_bytes()) for path in tests},
                      "oof": sha256((folder / "oof.csv").read_bytes())}
            if is_written(competition, blended, inputs):
                print(f"{submission_path(competition, blended)} is there already, made from these very predictions")
            else:
                submit_probs(competition, data_dir, blended, test_ids, test_probs, probs, table, inputs)
    if test_ids is None:
        print(f"no submission: not every member has predicted the test images; run: python src/predict.py --competition "
              f"{competition.name} --experiment {' '.join(members)}")
    _show(competition, scores, members)
    return {blended: value for blended, value in scores.items() if blended not in members}


def _show(competition: Competition, scores: dict[str, float], members: list[str]) -> None:
    metric = METRICS[competition.metric]
    table = Table("run", f"oof {metric.title}", title=f"{competition.name}: blends and their members")
    for name, value in sorted(scores.items(), key=lambda item: item[1], reverse=metric.greater_is_better):
        table.add_row(name, f"{value:.4f}", style=None if name in members else "bold")
    make_console().print(table)


if __name__ == "__main__":
    main()
