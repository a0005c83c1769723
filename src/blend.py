"""Average runs, joined by id:  python src/blend.py --experiment lite0 cnn_e lstm

Makes two blends, NAME_mean of probabilities and NAME_rank_mean of ranks, scores them on the out-of-fold predictions and
writes a submission of each where every member has predicted the test images.
"""

from functools import partial
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
from runs import Oof, probs_frame, read_oof, read_test, run_folder, write_probs, write_test
from submission import is_written, submission_path, submit_probs
from tables import label_cells, read_part
from uncertainty import paired_interval, paired_roc_auc_interval


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
            raise ValueError(f"run {oof.name!r} lacks the folds {list(oof.folds_missing)}; a blend of other images "
                             f"than its members' cannot be compared. Run: python src/train.py --competition "
                             f"{competition.name} --experiment {oof.name}")
    targets, folds = scoring_targets(label_cells(competition, table)), table["fold"].to_numpy()
    test_ids = read_part(competition, data_dir, "test")["image_id"] if competition.test else None
    tests = [] if test_ids is None else [read_test(competition, oof, test_ids) for oof in oofs]
    unpredicted = [oof.name for oof, test in zip(oofs, tests, strict=False) if test is None]
    scores = {oof.name: score(competition.metric, targets, oof.probs, competition.task) for oof in oofs}
    sign = 1 if METRICS[competition.metric].greater_is_better else -1
    best = max(oofs, key=lambda oof: sign * scores[oof.name])
    gains = {}
    for kind, blend in BLENDS.items():
        probs = blend(np.stack([oof.probs for oof in oofs]), folds, competition.task)
        blended = Oof(f"{name}_{kind}", probs, tuple(run for oof in oofs for run in oof.runs), (), tuple(members))
        folder = run_folder(competition, blended.name)
        write_probs(folder / "oof.csv", probs_frame(competition, table["image_id"], probs))
        write_json(folder / "blend.json", {"kind": kind, "members": members, "folds_sha256": folds_hash,
                                           "made_of": blended.made_of})
        scores[blended.name] = score(competition.metric, targets, probs, competition.task)
        gains[blended.name] = gain_interval(competition, targets, probs, best.probs, table["group"].to_numpy(str))
        if test_ids is None or unpredicted:
            continue
        test_probs = blend(np.stack(tests), None, competition.task)
        write_test(competition, blended, test_ids, test_probs)
        inputs = {"kind": kind, "folds": folds_hash, "members": members, "weights": blended.made_of,
                  "test": sha256(np.ascontiguousarray(test_probs).tobytes())}
        if is_written(competition, blended.name, inputs):
            print(f"{submission_path(competition, blended.name)} is there already, made from these very predictions")
        else:
            submit_probs(competition, data_dir, blended.name, test_ids, test_probs, probs, table, inputs)
    if unpredicted:
        print(f"no submission: {', '.join(unpredicted)} has not predicted the test images; run: python src/predict.py "
              f"--competition {competition.name} --experiment {' '.join(unpredicted)}")
    _show(competition, scores, gains, best.name)
    return {blended: scores[blended] for blended in gains}


def gain_interval(competition: Competition, targets: np.ndarray, probs: np.ndarray, baseline: np.ndarray,
                  groups: np.ndarray) -> tuple[float, float]:
    """95 % interval of the metric of `probs` minus that of `baseline`, both on the same drawn groups."""
    if competition.metric == "roc_auc":
        return paired_roc_auc_interval(targets, probs, baseline, groups)
    ours, theirs = (partial(_weighted_score, competition, targets, values) for values in (probs, baseline))
    return paired_interval(ours, theirs, groups)


def _weighted_score(competition: Competition, targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> float:
    return score(competition.metric, targets, probs, competition.task, weights=weights)


def _show(competition: Competition, scores: dict[str, float], gains: dict[str, tuple[float, float]], best: str) -> None:
    metric = METRICS[competition.metric]
    table = Table("run", f"oof {metric.title}", f"minus {best}", "95 % interval",
                  title=f"{competition.name}: blends and their members")
    for name, value in sorted(scores.items(), key=lambda item: item[1], reverse=metric.greater_is_better):
        gain = ("", "")
        if name in gains:
            gain = (f"{value - scores[best]:+.4f}", "{:+.4f} to {:+.4f}".format(*gains[name]))
        table.add_row(name, f"{value:.4f}", *gain, style="bold" if name in gains else None)
    make_console().print(table)


if __name__ == "__main__":
    main()
