"""Average runs, joined by id:  python src/blend.py --experiment lite0 cnn_e lstm

Without --experiment, the two best of the competition's own experiments, by their out-of-fold scores. Makes two blends,
NAME_mean of probabilities and NAME_rank_mean of ranks, scores them on the out-of-fold predictions and
writes a submission of each where every member has predicted the images.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from blending import BLENDS
from commandline import add_experiment, load_competition, load_folded_table, make_console, make_parser, run_names
from competition import Competition
from files import sha256
from folds import Folds, fold_numbers, read_predicted_parts
from labels import scoring_targets
from metrics import METRICS, score
from runs import Oof, read_oof, read_predictions, train_command, write_blend, write_predictions
from submission import is_written, read_template, submission_path, submit_probs, template_inputs
from tables import headline_targets, label_cells, submitted_part
from thresholds import judged_values
from uncertainty import paired_interval, paired_roc_auc_interval


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Writes the blends' runs and submissions; returns their oof scores."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    parser.set_defaults(experiment=["best"])
    parser.add_argument("--name", default="blend", help="default: blend")
    args = parser.parse_args(argv)
    competition, data_dir = load_competition(args)
    table, folds = load_folded_table(competition, data_dir)
    members = pick_best(competition, table, folds.hash) if args.experiment == ["best"] else run_names(args)
    if len(members) < 2:
        print("one run is no blend; name two or more: --experiment lite0 cnn_e")
        return {}
    return blend_runs(competition, data_dir, table, folds, members, args.name)


def pick_best(competition: Competition, table: pd.DataFrame, folds_hash: str) -> list[str]:
    """The two of the competition's own experiments with the best oof scores: weak members drag a plain mean down."""
    targets, sign = _headline(competition, table), METRICS[competition.metric].greater_is_better
    oofs = [read_oof(competition, name, table, folds_hash) for name in competition.experiments]
    scores = {oof.name: score(competition.metric, targets, oof.probs, competition.task) for oof in oofs if oof.is_whole}
    return sorted(scores, key=scores.get, reverse=sign)[:2]


def _headline(competition: Competition, table: pd.DataFrame) -> np.ndarray:
    return headline_targets(competition, scoring_targets(label_cells(competition, table)))


def blend_runs(competition: Competition, data_dir: Path, table: pd.DataFrame, folds: Folds, members: list[str],
               name: str) -> dict[str, float]:
    """Every blend in BLENDS of the members' predictions, of the training table and of all other parts.

    Members may be runs on several splits: each predicted an image with a model that never saw its group. Thresholds
    that are fitted on other folds then go by the first split: that no image is judged by thresholds fitted on its own
    group is true of any split of whole groups.
    Returns the oof scores. Raises ValueError where a member lacks folds or would be a blend of itself.
    """
    if own := {f"{name}_{kind}" for kind in BLENDS} & set(members):
        raise ValueError(f"{own.pop()!r} would be a member of itself; give the new blends another --name")
    oofs = [read_oof(competition, member, table, folds.hash) for member in members]
    for oof in oofs:
        if not oof.is_whole:
            raise ValueError(f"run {oof.name!r} lacks the folds {list(oof.folds_missing)}; a blend of other images "
                             f"than its members' cannot be compared. Run: {train_command(competition, oof)}")
    targets, values, blends = _headline(competition, table), {}, []
    for oof in oofs:
        values[oof.name] = judged_values(competition.metric, targets, oof.probs, fold_numbers(table, oof.split),
                                         competition.task)
    for kind in BLENDS:
        probs = blend_oofs(kind, oofs, table, competition.task)
        blended = Oof(f"{name}_{kind}", probs, tuple(run for oof in oofs for run in oof.runs), (), tuple(members), kind)
        write_blend(competition, blended, table["image_id"], folds.hash)
        values[blended.name] = judged_values(competition.metric, targets, probs, fold_numbers(table, blended.split),
                                             competition.task)
        blends.append(blended)
    for part, images in read_predicted_parts(competition, data_dir, folds).items():
        predict_blends(competition, data_dir, table, folds.hash, oofs, blends, part, images["image_id"])
    return _show(competition, targets, values, [oof.name for oof in blends], table["group"].to_numpy(str))


def blend_oofs(kind: str, oofs: list[Oof], table: pd.DataFrame, task: str) -> np.ndarray:
    """(N, K) one of BLENDS of the members' out-of-fold predictions; ranks are taken within each member's own folds."""
    blend = BLENDS[kind]
    if len({oof.split for oof in oofs}) == 1:
        return blend(np.stack([oof.probs for oof in oofs]), fold_numbers(table, oofs[0].split), task)
    return np.mean([blend(oof.probs[None], fold_numbers(table, oof.split), task) for oof in oofs], axis=0)


def predict_blends(competition: Competition, data_dir: Path, table: pd.DataFrame, folds_hash: str, oofs: list[Oof],
                   blends: list[Oof], part: str, image_ids: pd.Series) -> None:
    """Blends the members' predictions of a part where every member has them, and writes the submissions of it."""
    members = {oof.name: read_predictions(competition, oof, part, image_ids) for oof in oofs}
    is_submitted = part == submitted_part(competition)
    if lacking := [name for name, probs in members.items() if probs is None]:
        print(f"{'no submission' if is_submitted else f'no blend of the {part} part'}: {', '.join(lacking)} has not "
              f"predicted the {part} images; run: python src/predict.py --competition {competition.name} --experiment "
              f"{' '.join(lacking)}")
        return
    template = read_template(competition, data_dir) if is_submitted else None
    for blended in blends:
        probs = BLENDS[blended.kind](np.stack(list(members.values())), None, competition.task)
        write_predictions(competition, blended, part, image_ids, probs)
        if not is_submitted:
            continue
        inputs = template_inputs(competition, template) | {
            "folds": folds_hash, "members": list(blended.members), "weights": blended.made_of,
            part: sha256(np.ascontiguousarray(probs).tobytes())}
        if is_written(competition, blended.name, inputs):
            print(f"{submission_path(competition, blended.name)} is there already, made from these very predictions")
        else:
            submit_probs(competition, template, blended.name, image_ids, probs, blended.probs, table, inputs)


def _show(competition: Competition, targets: np.ndarray, values: dict[str, np.ndarray], blends: list[str],
          groups: np.ndarray) -> dict[str, float]:
    """Prints members and blends, each blend with its gain over the best member; returns the blends' scores."""
    metric, task = METRICS[competition.metric], competition.task
    scores = {name: metric.score(targets, judged, task) for name, judged in values.items()}
    ordered = sorted(scores, key=scores.get, reverse=metric.greater_is_better)
    best = next(name for name in ordered if name not in blends)
    table = Table("run", f"oof {metric.title}", f"minus {best}", "95 % interval",
                  title=f"{competition.name}: blends and their members")
    for name in ordered:
        gain = ("", "")
        if name in blends:
            low, high = gain_interval(competition, targets, values[name], values[best], groups)
            gain = (f"{scores[name] - scores[best]:+.4f}", f"{low:+.4f} to {high:+.4f}")
        table.add_row(name, f"{scores[name]:.4f}", *gain, style="bold" if name in blends else None)
    make_console().print(table)
    return {name: scores[name] for name in blends}


def gain_interval(competition: Competition, targets: np.ndarray, values: np.ndarray, baseline: np.ndarray,
                  groups: np.ndarray) -> tuple[float, float]:
    """95 % interval of the metric of `values` minus that of `baseline`, both on the same drawn groups."""
    if competition.metric == "roc_auc":
        return paired_roc_auc_interval(targets, values, baseline, groups)
    metric = METRICS[competition.metric]
    ours, theirs = (partial(metric.score, targets, each, competition.task) for each in (values, baseline))
    return paired_interval(ours, theirs, groups)


if __name__ == "__main__":
    main()
