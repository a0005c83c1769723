"""Blend the predictions of several runs:  python src/blend.py --experiment lite0 cnn_e lstm

Without --experiment it blends the two of the competition's own experiments with the best out-of-fold scores. It tries
every method, fitted on the other folds, and shows the gain over the plain mean. It writes NAME_mean, NAME_rank_mean,
the methods named with --method, and the best other method if its gain is credible: their out-of-fold predictions, and a
submission of each if every member has predicted the test images.
"""

import numpy as np
import pandas as pd
from rich.table import Table
from tqdm import tqdm

from commandline import add_experiment, load_workspace, make_parser, run_names, run_script
from common.commands import command_line
from common.console import interval, make_console
from common.files import sha256
from competition import Competition
from data.folds import fold_numbers
from data.tables import submitted_part
from results.adopted_rules import adopted_inputs, rule_for
from results.runs import Oof, read_predictions, train_command, write_blend, write_predictions
from results.workspace import Workspace
from scoring.blend_gain import Gain, measure_gains
from scoring.blending import METHODS, crossfit_blend, fit_blend, mean_blend, rank_mean_blend
from scoring.metrics import METRICS, score
from scoring.thresholds import crossfit_values
from submitting.manifest import read_computed, read_images, run_inputs
from submitting.submission import (
    fill_submission,
    is_written,
    read_template,
    submission_path,
    submitted_kind,
    template_inputs,
    write_submission,
)

ALWAYS = ("mean", "rank_mean")  # methods that are always written


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Writes the blends and their submissions; returns the blends' cross-fitted scores."""
    parser = make_parser(__doc__)
    add_experiment(parser, default="the two best of the competition's own list")
    parser.add_argument("--name", default="blend", help="default: blend")
    parser.add_argument("--method", nargs="+", default=[], choices=(*METHODS, "all"), metavar="METHOD",
                        help="write these too: all, or some of " + ", ".join(
                            f"{name} ({method.about})" for name, method in METHODS.items()))
    args = parser.parse_args(argv)
    workspace = load_workspace(args)
    members = run_names(args) if args.experiment else pick_best(workspace)
    if len(members) < 2:
        print("a blend needs two runs or more: --experiment lite0 cnn_e")
        return {}
    methods = METHODS if "all" in args.method else args.method
    return blend_runs(workspace, members, args.name, methods)


def pick_best(workspace: Workspace) -> list[str]:
    """The two of the competition's own experiments with the best oof scores; weak members lower a plain mean.

    The choice makes the score of the mean optimistic. It is printed together with the score of the mean whose members
    were chosen on the other folds.
    """
    competition = workspace.competition
    targets = workspace.targets
    oofs = [oof for name in competition.experiments if (oof := workspace.oof(name)).is_whole]
    if len(oofs) < 3:
        return [oof.name for oof in oofs]
    members, folds = np.stack([oof.probs for oof in oofs]), fold_numbers(workspace.table, _split(oofs))
    picked, crossfit = _two_best(competition, targets, members), np.empty(members.shape[1:])
    for fold in np.unique(folds):
        held_out = folds == fold
        places = _two_best(competition, targets[~held_out], members[:, ~held_out])
        crossfit[held_out] = mean_blend(members[places][:, held_out])
    naive, crossfitted = (METRICS[competition.metric].score(targets, crossfit_values(
        competition.metric, targets, probs, folds, competition.task), competition.task)
        for probs in (mean_blend(members[picked]), crossfit))
    names = [oofs[place].name for place in picked]
    print(f"{' and '.join(names)} are the two best of {len(oofs)}: their mean scores {naive:.4f}, or "
          f"{crossfitted:.4f} with the two chosen on the other folds")
    return names


def _two_best(competition: Competition, targets: np.ndarray, members: np.ndarray) -> list[int]:
    sign = -METRICS[competition.metric].sign
    scores = [sign * score(competition.metric, targets, probs, competition.task) for probs in members]
    return np.argsort(scores, kind="stable")[:2].tolist()


def _split(oofs: list[Oof]) -> int:
    """The split whose folds are used to fit a blend: the members' own, or the first if they are runs on several."""
    splits = {oof.split for oof in oofs}
    return splits.pop() if len(splits) == 1 else 0


def blend_runs(workspace: Workspace, members: list[str], name: str,
               methods: tuple[str, ...] | list[str] = ()) -> dict[str, float]:
    """Tries all METHODS on the members' oof predictions, and writes ALWAYS, `methods` and the credibly best method.

    Members may be runs on several splits, because each image was predicted by a model that never saw its group. Weights
    and thresholds are then fitted on the folds of the first split; groups are whole in every split, so no image is
    scored by parameters fitted on its own group. Decisions are made with the metric's default rule, even if another
    rule was adopted for a run.
    Returns the cross-fitted scores of the written blends. Raises ValueError if a member lacks folds, is one of these
    blends, or is a fitted blend.
    """
    competition = workspace.competition
    oofs = read_members(workspace, members, name)
    targets, task, metric = workspace.targets, competition.task, competition.metric
    probs, split = np.stack([oof.probs for oof in oofs]), _split(oofs)
    numbers = fold_numbers(workspace.table, split)
    own_folds = np.stack([fold_numbers(workspace.table, oof.split) for oof in oofs])
    fits, crossfitted, naive = {}, {}, {}
    for method in tqdm(METHODS, desc="fitting", unit="method", leave=False, disable=None):
        fits[method] = fit_blend(method, probs, targets, task, metric)
        naive[method] = fits[method].apply(probs, own_folds, task)
        crossfitted[method] = crossfit_blend(method, probs, targets, numbers, task, metric, own_folds)
    member_values = {oof.name: crossfit_values(metric, targets, oof.probs, own, task)
                     for oof, own in zip(oofs, own_folds, strict=True)}
    scores = {member: METRICS[metric].score(targets, values, task) for member, values in member_values.items()}
    best = sorted(scores, key=scores.get, reverse=METRICS[metric].greater_is_better)[0]
    ranked = None
    if METRICS[metric].order_only or METRICS[metric].uses == "decisions":  # other metrics need probabilities, not ranks
        ranked = [crossfit_values(metric, targets, rank_mean_blend(each[None], own, task), own, task) for each, own in (
            (crossfitted["mean"], numbers), (probs[members.index(best)], own_folds[members.index(best)]))]
    gains = measure_gains(metric, task, targets, workspace.groups,
                          *({method: crossfit_values(metric, targets, each, numbers, task)
                             for method, each in kind.items()} for kind in (naive, crossfitted)),
                          member_values[best], ranked)
    better = max((gain for gain in gains if gain.is_credible), key=lambda gain: gain.gain, default=None)
    written = [method for method in METHODS
               if method in (*ALWAYS, *methods) or (better and method == better.method)]
    blends = [Oof(f"{name}_{method}", crossfitted[method], tuple(run for oof in oofs for run in oof.runs), (),
                  tuple(members), method, fits[method]) for method in written]
    for blended in blends:
        write_blend(competition, blended, workspace.table["image_id"], workspace.folds.hash)
    for part, images in workspace.predicted_parts.items():
        predict_blends(workspace, oofs, blends, part, images["image_id"])
    show_gains(competition, gains, scores, best, written)
    print(recommendation(name, gains, better, best))
    return {f"{name}_{gain.method}": gain.crossfitted for gain in gains if gain.method in written}


def read_members(workspace: Workspace, members: list[str], name: str) -> list[Oof]:
    """The members' oof predictions. Raises ValueError if one cannot be a member of blends called `name`_..."""
    if own := {f"{name}_{method}" for method in METHODS} & set(members):
        raise ValueError(f"{own.pop()!r} cannot be a member of itself; choose another --name for the new blends")
    oofs = [workspace.oof(member) for member in members]
    for oof in oofs:
        if not oof.is_whole:
            raise ValueError(f"run {oof.name!r} lacks the folds {list(oof.folds_missing)}, and all members "
                             f"must cover the same images; run: "
                             f"{train_command(workspace.competition, oof.name, oof.folds_missing)}")
        if oof.kind == "rank_mean":
            raise ValueError(f"{oof.name!r} holds ranks instead of probabilities; blend its members instead: "
                             f"{' '.join(oof.members)}")
        if oof.kind in METHODS and METHODS[oof.kind].fit:
            raise ValueError(f"{oof.name!r} is a blend that was fitted on the same predictions; blend its members "
                             f"instead: {' '.join(oof.members)}")
    return oofs


def predict_blends(workspace: Workspace, oofs: list[Oof], blends: list[Oof], part: str, image_ids: pd.Series) -> None:
    """Blends the members' predictions of a part, if all have them, and writes them and the submissions."""
    competition = workspace.competition
    members = {oof.name: read_predictions(competition, oof, part, image_ids) for oof in oofs}
    is_submitted = part == submitted_part(competition)
    if lacking := [name for name, probs in members.items() if probs is None]:
        print(f"{'no submission' if is_submitted else f'no blend of the {part} part'}: {', '.join(lacking)} has not "
              f"predicted the {part} images; run: "
              f"{command_line('predict', competition, experiment=lacking)}")
        return
    template = read_template(workspace) if is_submitted else None
    for blended in blends:
        probs = blended.fit.apply(np.stack(list(members.values())), None, competition.task)
        write_predictions(competition, blended, part, image_ids, probs)
        if not is_submitted:
            continue
        inputs = template_inputs(competition, template) | run_inputs(
            competition, blended, read_images(competition, blended, part)) | {
            "folds": workspace.folds.hash, part: sha256(np.ascontiguousarray(probs).tobytes())} | adopted_inputs(
            workspace, blended)
        rule = rule_for(workspace, blended, submitted_kind(competition))
        if is_written(competition, blended.name, inputs):
            print(f"{submission_path(competition, blended.name)} already exists, made from the same predictions")
        else:
            frame, metadata = fill_submission(workspace, template, image_ids, probs, blended.probs, rule)
            write_submission(competition, blended.name, template, frame, inputs,
                             metadata | {"computed": read_computed(competition, blended, part)})


def show_gains(competition: Competition, gains: list[Gain], scores: dict[str, float], best: str,
               written: list[str]) -> None:
    """Prints the members, and every method with its naive and cross-fitted gain; written methods are bold."""
    metric, console = METRICS[competition.metric], make_console()
    members = Table("member", f"oof {metric.title}", title=f"{competition.name}: members")
    for name in sorted(scores, key=scores.get, reverse=metric.greater_is_better):
        members.add_row(name, f"{scores[name]:.4f}")
    console.print(members)
    tried = len(gains) - 1
    table = Table("method", f"naive {metric.title}", "gain", "cross-fitted", "cross-fitted gain", "95 % interval",
                  f"joint low of {tried}", "optimism", f"over {best}", "95 % interval",
                  title=f"{competition.name}: gains over the plain mean"
                        + ("" if metric.greater_is_better else " (positive: better, less is)"))
    for gain in gains:
        cells = [f"{gain.naive:.4f}", f"{gain.naive_gain:+.4f}", f"{gain.crossfitted:.4f}", f"{gain.gain:+.4f}",
                 interval(*gain.interval, sign="+"), f"{gain.joint_low:+.4f}", f"{gain.optimism:+.4f}"]
        if gain.method == "mean":
            cells = [cell if place in (0, 2) else "" for place, cell in enumerate(cells)]
        table.add_row(gain.method, *cells, f"{gain.over_best:+.4f}", interval(*gain.over_best_interval, sign="+"),
                      style="bold" if gain.method in written else None)
    console.print(table)
    print(f"Naive: fitted and scored on the same images. Cross-fitted: fitted on the other folds. Intervals: bootstrap "
          f"over groups. Joint low: a lower bound for {tried} methods at once; a gain is credible if it is above 0. "
          "The baselines of rank_mean are ranked within folds too. "
          f"{best} was chosen as the best of {len(scores)} by the same scores.")


def recommendation(name: str, gains: list[Gain], better: Gain | None, best: str) -> str:
    """One or two sentences about which blend to submit; `best` is the best member."""
    mean = next(gain for gain in gains if gain.method == "mean")
    warning = ""
    if mean.over_best_interval[1] < 0:
        warning = f" The plain mean is {-mean.over_best:.4f} worse than its best member."
    elif mean.over_best < 0 and better is None:
        warning = f" {best} alone scores {-mean.over_best:.4f} more than the plain mean, within noise."
    if better is None:
        return f"Recommended: {name}_mean. No other method gains credibly over it.{warning}"
    low, high = better.over_best_interval
    if low <= 0:
        noise = "within noise" if high >= 0 else f"so submit {best} instead"
        warning += f" Against {best} alone it scores {better.over_best:+.4f} ({low:+.4f} to {high:+.4f}), {noise}."
    return (f"Recommended: {name}_{better.method}, which gains {better.gain:+.4f} over the plain mean, fitted on the "
            f"other folds, and at least {better.joint_low:+.4f}, corrected for {len(gains) - 1} methods.{warning}")


if __name__ == "__main__":
    run_script(main)
