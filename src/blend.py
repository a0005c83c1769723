"""Combine runs, joined by id:  python src/blend.py --experiment lite0 cnn_e lstm

Without --experiment, the two best of the competition's own experiments, by their out-of-fold scores. Tries every way of
blending, each fitted on the other folds, and shows the gain over the plain mean. Writes NAME_mean of probabilities,
NAME_rank_mean of ranks, those named with --method, and the best of the others if its gain is beyond doubt: their
out-of-fold predictions, a submission of each where every member has predicted the images, and a plot of the gains.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table
from tqdm import tqdm

from commandline import add_experiment, load_workspace, make_parser, run_names, run_script
from common.commands import command_line
from common.console import interval, make_console
from common.figures import save_figure
from common.files import sha256
from competition import Competition
from data.folds import fold_numbers
from data.tables import submitted_part
from results.adopted_rules import adopted_inputs, rule_for
from results.runs import Oof, read_predictions, run_folder, train_command, write_blend, write_predictions
from results.workspace import Workspace
from scoring.blend_gain import Gain, measure_gains
from scoring.blending import FITTED, METHODS, crossfit_blend, fit_blend, mean_blend, rank_mean_blend
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

ALWAYS = ("mean", "rank_mean")  # are written in any case


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Writes the blends' runs and submissions; returns their cross-fitted scores."""
    parser = make_parser(__doc__)
    add_experiment(parser, default="the two best of the competition's own list")
    parser.add_argument("--name", default="blend", help="default: blend")
    parser.add_argument("--method", nargs="+", default=[], choices=(*METHODS, "all"), metavar="METHOD",
                        help=f"write these too: {', '.join(METHODS)}, or all")
    args = parser.parse_args(argv)
    workspace = load_workspace(args)
    members = run_names(args) if args.experiment else pick_best(workspace)
    if len(members) < 2:
        print("one run is no blend; name two or more: --experiment lite0 cnn_e")
        return {}
    methods = METHODS if "all" in args.method else args.method
    return blend_runs(workspace, members, args.name, methods)


def pick_best(workspace: Workspace) -> list[str]:
    """The two of the competition's own experiments with the best oof scores: weak members drag a plain mean down.

    The choice itself is optimistic, so the mean's score is printed beside that of means whose two members are picked on
    the other folds, fold by fold.
    """
    competition = workspace.competition
    targets = workspace.targets
    oofs = [oof for name in competition.experiments
            if (oof := workspace.oof(name)).is_whole]
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
    print(f"{' and '.join(names)} are the two best of {len(oofs)}: their mean scores {naive:.4f}; with the two picked "
          f"on the other folds, {crossfitted:.4f}")
    return names


def _two_best(competition: Competition, targets: np.ndarray, members: np.ndarray) -> list[int]:
    sign = -METRICS[competition.metric].sign
    scores = [sign * score(competition.metric, targets, probs, competition.task) for probs in members]
    return np.argsort(scores, kind="stable")[:2].tolist()


def _split(oofs: list[Oof]) -> int:
    """The split by whose folds a blend is fitted: the members' own, the first where they are runs on several."""
    splits = {oof.split for oof in oofs}
    return splits.pop() if len(splits) == 1 else 0


def blend_runs(workspace: Workspace, members: list[str], name: str,
               methods: tuple[str, ...] | list[str] = ()) -> dict[str, float]:
    """Tries all METHODS on the members' oof predictions, and writes ALWAYS, `methods` and what is credibly better.

    Members may be runs on several splits: each predicted an image with a model that never saw its group. What is fitted
    on other folds, weights or thresholds, then follows the first split: with any split of whole groups no image is
    scored by what was fitted on its own group. Members and blends are decided by the metric's default rule: a rule that
    was adopted for a run is not used here.
    Returns the cross-fitted scores of what was written. Raises ValueError where a member lacks folds, would be a blend
    of itself, or is a blend that was fitted.
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
    path = draw_gains(competition, gains, best, run_folder(competition, f"{name}_gains.png"), members)
    print(recommendation(name, gains, better, best))
    print(f"the gains, drawn: {path}")
    return {f"{name}_{gain.method}": gain.crossfitted for gain in gains if gain.method in written}


def read_members(workspace: Workspace, members: list[str], name: str) -> list[Oof]:
    """The members' oof predictions. Raises ValueError where one cannot be a member of blends called `name`_..."""
    if own := {f"{name}_{method}" for method in METHODS} & set(members):
        raise ValueError(f"{own.pop()!r} would be a member of itself; give the new blends another --name")
    oofs = [workspace.oof(member) for member in members]
    for oof in oofs:
        if not oof.is_whole:
            raise ValueError(f"run {oof.name!r} lacks the folds {list(oof.folds_missing)}; a blend of other images "
                             f"than its members' cannot be compared. Run: "
                             f"{train_command(workspace.competition, oof.name, oof.folds_missing)}")
        if oof.kind == "rank_mean":
            raise ValueError(f"{oof.name!r} holds ranks, no probabilities that could be blended on; blend its members "
                             f"instead: {' '.join(oof.members)}")
        if oof.kind in FITTED:
            raise ValueError(f"{oof.name!r} is a blend that was fitted on these very predictions; blend its members "
                             f"instead: {' '.join(oof.members)}")
    return oofs


def predict_blends(workspace: Workspace, oofs: list[Oof], blends: list[Oof], part: str, image_ids: pd.Series) -> None:
    """Blends the members' predictions of a part where every member has them, and writes the submissions of it."""
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
            print(f"{submission_path(competition, blended.name)} is there already, made from these very predictions")
        else:
            frame, metadata = fill_submission(workspace, template, image_ids, probs, blended.probs, rule)
            write_submission(competition, blended.name, template, frame, inputs,
                             metadata | {"computed": read_computed(competition, blended, part)})


def show_gains(competition: Competition, gains: list[Gain], scores: dict[str, float], best: str,
               written: list[str]) -> None:
    """Prints the members, and every method with its naive and its cross-fitted gain; what is written is bold."""
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
    print(f"Naive: fitted and scored on the same images. Cross-fitted: on the other folds. Intervals draw whole "
          f"patients; the joint low holds for {tried} methods at once, and a gain is credible where it is above 0. "
          "rank_mean is compared with others ranked within folds too, since evening out the folds gains nothing on "
          "test images. "
          f"{best} is the best of {len(scores)} by these same scores.")


def recommendation(name: str, gains: list[Gain], better: Gain | None, best: str) -> str:
    """What to submit, in a sentence or two; `best` is the best member."""
    mean = next(gain for gain in gains if gain.method == "mean")
    warning = ""
    if mean.over_best_interval[1] < 0:
        warning = f" The plain mean is {-mean.over_best:.4f} worse than its best member: weak members drag it down."
    elif mean.over_best < 0 and better is None:
        warning = f" {best} alone scores {-mean.over_best:.4f} more than the plain mean, within noise."
    if better is None:
        return f"Recommended: {name}_mean. No other way of blending gains credibly over it.{warning}"
    low, high = better.over_best_interval
    if low <= 0:
        noise = "within noise" if high >= 0 else f"so hand in {best} instead"
        warning += f" Against {best} alone it scores {better.over_best:+.4f} ({low:+.4f} to {high:+.4f}), {noise}."
    return (f"Recommended: {name}_{better.method}, which gains {better.gain:+.4f} over the plain mean, fitted on other "
            f"folds; {better.joint_low:+.4f} at least, though {len(gains) - 1} methods were tried.{warning}")


def draw_gains(competition: Competition, gains: list[Gain], best: str, path: Path, members: list[str]) -> Path:
    """Draws naive and cross-fitted gains by method as a PNG; returns its path."""
    figure = Figure(figsize=(8, 0.5 * len(gains) + 1.8), layout="constrained")
    axes = figure.subplots()
    others = [gain for gain in gains if gain.method != "mean"]
    for row, gain in enumerate(others):
        colour = "tab:green" if gain.is_credible else "tab:blue"
        axes.plot(gain.interval, [row, row], color=colour, lw=2)
        axes.plot(gain.gain, row, "o", color=colour, ms=8)
        axes.plot(gain.naive_gain, row, "D", mfc="none", color="tab:red", ms=8)
        axes.plot(gain.joint_low, row, "|", color=colour, ms=12, mew=2)
    mean = next(gain for gain in gains if gain.method == "mean")
    axes.axvline(0, color="black", lw=1)
    axes.axvline(-mean.over_best, color="grey", lw=1, ls="--")
    for label, marker in (("cross-fitted gain, 95 %", {"marker": "o", "color": "tab:blue", "lw": 2}),
                          ("the same, credible", {"marker": "o", "color": "tab:green", "lw": 2}),
                          ("its low for all methods at once", {"marker": "|", "color": "tab:blue", "lw": 0, "ms": 12}),
                          ("naive gain", {"marker": "D", "color": "tab:red", "mfc": "none", "lw": 0}),
                          (f"best member, {best}", {"color": "grey", "ls": "--", "lw": 1})):
        axes.plot([], [], label=label, **marker)
    axes.set_yticks(range(len(others)), [gain.method for gain in others])
    axes.invert_yaxis()
    axes.set_xlabel(f"gain in {METRICS[competition.metric].title} over the plain mean of {len(members)} runs "
                    f"({mean.crossfitted:.4f}); right is better")
    axes.set_title(f"{competition.name}: gains of blends on what they were not fitted on", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    return save_figure(figure, path, dpi=120)


if __name__ == "__main__":
    run_script(main)
