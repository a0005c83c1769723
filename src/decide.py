"""Decide, and say what deciding by these very predictions is worth:  python src/decide.py --experiment cnn_e

Thresholds, policies and calibration of runs or blends, each fitted on the other folds and scored on the held-out one,
beside the naive figure. Writes decisions.json and reliability.png beside the run. Nothing changes by looking: what
leaderboard, predict and explain use stays the default until --use POLICY adopts another; --use default goes back.
--shift estimates from the test images' scores how common the labels are there, and rehearses deciding for that.
"""

import argparse
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table
from tqdm import tqdm

from commandline import add_experiment, load_competition, load_folded_table, make_parser, run_names
from common.console import interval, make_console
from common.figures import save_figure
from common.files import json_ready, read_json, write_json
from competition import Competition
from data.folds import fold_numbers
from data.tables import read_part, read_solution, scored_targets, submitted_part
from results.adopted_rules import SHIFTS, decisions_path, made_from, policy_metric, predictions_hash
from results.runs import Oof, read_oof, read_predictions, run_folder, train_command
from scoring.bootstrap_metrics import ROW_METRICS, make_scorer
from scoring.calibration import calibration_errors, draw_reliability
from scoring.confidence_intervals import (
    bootstrap_counts,
    bootstrap_scores,
    for_tests,
    percentile_interval,
    widen_differences,
)
from scoring.decision_rules import Policy, make_policies
from scoring.label_shift import class_weights, estimate_prevalence, misfit, prevalence_interval, shift_policy
from scoring.metrics import METRICS, brier, f1_by_label, log_loss, prevalence
from scoring.thresholds import CRITERIA, best_threshold, criterion

LIPTON_REPLICATES = 200


@dataclass(frozen=True)
class Known:
    """What the decisions of a run are fitted and judged on: the scored targets (N, K), folds and groups (N,)."""

    competition: Competition
    oof: Oof
    targets: np.ndarray
    folds: np.ndarray
    groups: np.ndarray

    @property
    def task(self) -> str:
        return self.competition.task

    def by_label(self, values: np.ndarray) -> dict[str, float | None]:
        """Values (K,) under the labels' names, as JSON has them."""
        return {label: None if np.isnan(value) else float(value)
                for label, value in zip(self.competition.labels, values, strict=True)}


def main(argv: list[str] | None = None) -> dict[str, dict]:
    """Writes the decisions of every run named; returns them by run."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    parser.add_argument("--metric", choices=METRICS, help="judge by this one; default: the competition's, and macro F1 "
                                                          "where that judges probabilities")
    parser.add_argument("--shift", action="store_true", help="estimate and rehearse the test part's prevalence")
    parser.add_argument("--use", metavar="POLICY", help="adopt this policy; default: none is adopted any more")
    args = parser.parse_args(argv)
    competition, data_dir = load_competition(args)
    table, folds = load_folded_table(competition, data_dir)
    targets = scored_targets(competition, table)
    made = {}
    for name in run_names(args):
        oof = read_oof(competition, name, table, folds.hash)
        if not oof.is_whole:
            raise ValueError(f"run {name!r} lacks the folds {list(oof.folds_missing)}; run: "
                             f"{train_command(competition, oof)}")
        known = Known(competition, oof, targets, fold_numbers(table, oof.split), table["group"].to_numpy(str))
        made[name] = decide_run(known, data_dir, args)
    return made


def decide_run(known: Known, data_dir: Path, args: argparse.Namespace) -> dict:
    """Computes, shows and writes all about the decisions of one run; returns what decisions.json says."""
    competition, oof = known.competition, known.oof
    metrics = [args.metric] if args.metric else list(dict.fromkeys((competition.metric, criterion(competition.metric))))
    path, scored = decisions_path(competition, oof.name), ~np.isnan(known.targets).all(axis=0)
    policies = {metric: make_policies(known.task, competition.labels, metric) for metric in metrics}
    there = {"default", *SHIFTS}.union(*policies.values())
    if args.use and args.use not in there:
        raise ValueError(f"there is no policy {args.use!r} for {', '.join(metrics)} to --use; choose "
                         f"{', '.join(sorted(there))}")
    if not scored.any():
        raise ValueError(f"no label of {competition.name!r} has a certain cell in the training table: there is nothing "
                         f"to decide by")
    said = {
        "run": oof.name,
        "competition": competition.name,
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "made_from": made_from(competition, oof),
        "images": len(known.targets),
        "positives": known.by_label((known.targets == 1).sum(axis=0).astype(float)),
        "folds": len(np.unique(known.folds)),
        "calibration": show_calibration(known, scored),
        "policies": {},
    }
    for metric in metrics:
        said["policies"][metric] = show_policies(known, metric, policies[metric])
        if known.task != "multiclass" and CRITERIA.get(metric) == "f1" and metric not in ROW_METRICS:
            said["half_of_best_f1"] = show_lipton(known)
    if args.shift or (args.use in SHIFTS):
        said["shift"] = show_shift(known, data_dir, metrics)
    said = json_ready(said)
    said["use"] = adopt(known, said, args.use, _earlier_use(path, said))
    write_json(path, said)
    make_console().print(f"wrote {path} and {path.with_name('reliability.png')}", soft_wrap=True)
    return said


def _earlier_use(path: Path, said: dict) -> dict:
    """What was adopted before, where that was for these very predictions."""
    earlier = read_json(path) if path.exists() else {}
    if earlier.get("use") and earlier["made_from"] != said["made_from"]:
        print(f"{path} adopted a policy for other predictions than {said['run']} has now; it is no longer in use")
        return {}
    return earlier.get("use", {})


def adopt(known: Known, said: dict, wanted: str | None, earlier: dict) -> dict:
    """What is in use from now on, by what it gives. Raises ValueError where there is no such policy here."""
    competition = known.competition
    if wanted is None or wanted == "default":
        in_use = {} if wanted else earlier
        print("in use: " + (", ".join(f"{each['policy']} for {each['metric']}" for each in in_use.values())
                            or "the default for the metric"))
        return in_use
    if wanted in SHIFTS:
        rows = {metric: shift[wanted] for metric, shift in said.get("shift", {}).get("policies", {}).items()
                if wanted in shift}
    else:
        rows = {metric: policies[wanted] for metric, policies in said["policies"].items() if wanted in policies}
    if not rows:
        raise ValueError(f"{wanted} cannot be used: there is no estimate, or correcting for one changes nothing that "
                         f"{', '.join(said['policies'])} judges")
    in_use = dict(earlier)
    for metric, row in rows.items():
        in_use[METRICS[metric].uses] = {"policy": wanted, "metric": metric}
        if wanted in SHIFTS:
            in_use[METRICS[metric].uses] |= {"prevalence": row["prevalence"],
                                             "test_sha256": predictions_hash(competition, known.oof.name)}
        if wanted in SHIFTS and not row["recommended"]:
            print(f"warning: {wanted} is in use for {metric} now, though it is not recommended: {row['why']}")
        elif wanted not in SHIFTS and row["gain"] is not None and not (row["gain_low"] or 0) > 0:
            print(f"warning: {wanted} is in use for {metric} now, though it is not credibly better than the default")
    print(f"in use from now on: {wanted}; predict again for the submission to follow")
    return in_use


def show_calibration(known: Known, scored: np.ndarray) -> dict:
    """Log loss, Brier score and calibration error before and after, cross-fitted; draws reliability.png."""
    task, targets, competition = known.task, known.targets, known.competition
    policies = make_policies(task, competition.labels, policy_metric(competition, "probs"))
    values = {name: policy.crossfit(targets, known.oof.probs, known.folds) for name, policy in policies.items()}
    losses = {name: bootstrap_scores("log_loss", targets, probs, task, known.groups) for name, probs in values.items()}
    shown = Table("probabilities", "log loss", "gain", "95 % interval", "Brier", "ECE",
                  title=f"{known.oof.name}: calibration fitted on the other folds")
    said = {"ece": "15 bins of equal numbers of cells, mean over labels, each against the rest"}
    for name, probs in values.items():
        errors = calibration_errors(targets, probs)
        low, high = percentile_interval(losses["as_is"] - losses[name])
        loss = log_loss(targets, probs, task)
        gain = log_loss(targets, known.oof.probs, task) - loss
        said[name] = {"log_loss": loss, "brier": brier(targets, probs, task), "ece": float(np.nanmean(errors)),
                      "ece_by_label": known.by_label(errors),
                      **_parameters(known, policies[name].fit(targets, known.oof.probs).parameters)}
        shown.add_row(name, f"{loss:.4f}", *(("", "") if name == "as_is" else (f"{gain:+.4f}",
                                                                              interval(low, high, sign="+"))),
                      f"{said[name]['brier']:.4f}", f"{said[name]['ece']:.4f}")
    make_console().print(shown)
    labels = tuple(label for label, is_scored in zip(competition.labels, scored, strict=True) if is_scored)
    figure = draw_reliability(targets[:, scored], {name: probs[:, scored] for name, probs in values.items()}, labels,
                              f"{competition.name}, {known.oof.name}\ncross-fitted, 15 bins of equal numbers")
    save_figure(figure, run_folder(competition, known.oof.name) / "reliability.png")
    return said


def show_policies(known: Known, metric: str, policies: dict[str, Policy]) -> dict:
    """Naive and cross-fitted score of every policy for a metric, and the gain over the first, the default."""
    targets, probs = known.targets, known.oof.probs
    fitted = {name: policy.fit(targets, probs) for name, policy in policies.items()}
    values = {name: policy.crossfit(targets, probs, known.folds)
              for name, policy in tqdm(policies.items(), desc=metric, leave=False, disable=None)}
    rows = _compare(known, metric, {name: each.apply(probs) for name, each in fitted.items()}, values)
    shown = Table("policy", "naive", "cross-fitted", "optimism", "gain over the default", "95 % interval", "parameters",
                  title=f"{known.oof.name}: policies for {METRICS[metric].title}")
    for name, row in rows.items():
        row |= _parameters(known, fitted[name].parameters)
        gain = ("default", "") if row["gain"] is None else (f"{row['gain']:+.4f}",
                                                            interval(row["gain_low"], row["gain_high"], sign="+"))
        shown.add_row(name, f"{row['naive']:.4f}", f"{row['crossfit']:.4f}", f"{row['optimism']:+.4f}", *gain,
                      _brief(fitted[name].parameters), style=None if gain[0] == "default" else _style(row))
    make_console().print(shown)
    return rows


def _compare(known: Known, metric: str, naive: dict[str, np.ndarray], crossfit: dict[str, np.ndarray],
             weights: np.ndarray | None = None) -> dict[str, dict]:
    """Scores of every policy, its optimism, and its gain over the first with the interval; more is better."""
    sign = 1 if METRICS[metric].greater_is_better else -1
    ones = np.ones((1, len(known.targets)))
    scores, honest = ({name: float(make_scorer(metric, known.targets, values, known.task, weights)(ones)[0])
                       for name, values in each.items()} for each in (naive, crossfit))
    drawn = {name: bootstrap_scores(metric, known.targets, values, known.task, known.groups, class_weights=weights)
             for name, values in crossfit.items()}
    first, rows = next(iter(crossfit)), {}
    for name in crossfit:
        gain = sign * (honest[name] - honest[first])
        low, high = percentile_interval(widen_differences(
            metric, known.targets, crossfit[name], crossfit[first], known.groups, gain,
            sign * (drawn[name] - drawn[first])))
        rows[name] = {"naive": scores[name], "crossfit": honest[name], "optimism": sign * (scores[name] - honest[name]),
                      "gain": None if name == first else gain,
                      "gain_low": None if name == first else low, "gain_high": None if name == first else high}
    return rows


def show_lipton(known: Known) -> dict:
    """Every label's threshold for F1 beside half of the F1 it reaches, which is where it lies for calibrated scores.

    Flagged where the interval of their difference leaves out 0, made wider for so many labels: then the scores are not
    calibrated there.
    Source: Lipton, Elkan & Naryanaswamy 2014, https://arxiv.org/abs/1402.1892
    """
    targets, probs = known.targets, known.oof.probs
    ones = np.arange(len(targets))
    rows = [ones] + [np.repeat(ones, counts) for counts in bootstrap_counts(known.groups, LIPTON_REPLICATES)]
    shown = Table("label", "threshold", "F1 there", "half of it", "threshold minus half", "95 % interval", "",
                  title=f"{known.oof.name}: thresholds for F1, and where calibrated scores would have them")
    differences = []
    for drawn in tqdm(rows, desc="F*/2", leave=False, disable=None):
        thresholds = np.array([best_threshold(targets[drawn, k], probs[drawn, k]) for k in range(targets.shape[1])])
        f1 = f1_by_label(targets[drawn], (probs[drawn] >= thresholds).astype(np.int8))
        if drawn is ones:
            first = thresholds, f1
        differences.append(thresholds - f1 / 2)
    said, looked_at = {}, int((~np.isnan(first[1])).sum())
    for k, label in enumerate(known.competition.labels):
        if np.isnan(first[1][k]):
            continue
        low, high = percentile_interval(np.array([each[k] for each in differences[1:]]))
        least, most = for_tests(low, high, differences[0][k], looked_at)
        off = least > 0 or most < 0
        said[label] = {"threshold": float(first[0][k]), "f1": float(first[1][k]), "low": low, "high": high,
                       "not_calibrated": bool(off)}
        shown.add_row(label, f"{first[0][k]:.3f}", f"{first[1][k]:.3f}", f"{first[1][k] / 2:.3f}",
                      f"{differences[0][k]:+.3f}", interval(low, high, 3, "+"), "not calibrated" if off else "",
                      style="yellow" if off else None)
    make_console().print(shown)
    return said


def show_shift(known: Known, data_dir: Path, metrics: list[str]) -> dict:
    """The test part's prevalence by its scores, the rehearsal at that prevalence, and the test scores where known."""
    competition, task, part = known.competition, known.task, submitted_part(known.competition)
    if part is None:
        raise ValueError(f"competition {competition.name!r} has no test part whose prevalence could be estimated")
    if "rank" in known.oof.kind:
        raise ValueError(f"{known.oof.name} is a blend of ranks, which are spread alike whatever the prevalence is; "
                         f"use --shift with a run or a mean")
    images = read_part(competition, data_dir, part)
    probs = read_predictions(competition, known.oof, part, images["image_id"])
    if probs is None:
        raise FileNotFoundError(f"{known.oof.name} has not predicted the {part} images; run: python src/predict.py "
                                f"--competition {competition.name} --experiment {known.oof.name}")
    decider = next(iter(make_policies(task, competition.labels, criterion(metrics[-1])).values()))
    decided = decider.crossfit(known.targets, known.oof.probs, known.folds)
    new_decided = decider.fit(known.targets, known.oof.probs).apply(probs)
    arguments = (known.targets, known.oof.probs, decided, probs, new_decided, task)
    groups = images["group"].to_numpy(str)
    estimates = {method: (estimate_prevalence(method, *arguments),
                          prevalence_interval(method, *arguments, known.groups, groups)) for method in SHIFTS.values()}
    training = prevalence(known.targets)
    labels = int((~np.isnan(training)).sum())
    fits = {k: misfit(_class_rows(known, k), known.oof.probs[:, k], probs[:, k], labels)
            for k in range(len(competition.labels))}
    _show_estimates(known, training, estimates, fits, part)
    said = {"training": known.by_label(training), "misfit": {
        label: {"distance": fits[k][0], "limit": fits[k][1]} for k, label in enumerate(competition.labels)
        if not np.isnan(fits[k][0])},
        **{method: {"prevalence": known.by_label(estimate), "low": known.by_label(interval[:, 0]),
                    "high": known.by_label(interval[:, 1])} for method, (estimate, interval) in estimates.items()},
        "policies": {}}
    fits_shift = all(not distance > limit for distance, limit in fits.values())
    for metric in metrics:
        if metric in ("roc_auc", "average_precision"):
            continue  # correcting for a prevalence changes no order
        if metric in ROW_METRICS and task == "multilabel":
            print(f"{metric} judges all labels of a row together, which estimates label by label say nothing about: "
                  f"no rehearsal")
            continue
        said["policies"][metric] = rehearse(known, metric, estimates, training, fits_shift)
        report_test(known, data_dir, metric, images["image_id"], probs, said["policies"][metric])
    return said


def _class_rows(known: Known, k: int) -> np.ndarray:
    """(N, C) bool: the rows of each class whose scores of label k are mixed among the new ones."""
    if known.task == "multiclass":
        return known.targets[:, (known.targets == 1).any(axis=0)] == 1
    return np.column_stack([known.targets[:, k] == 0, known.targets[:, k] == 1])


def _show_estimates(known: Known, training: np.ndarray, estimates: dict, fits: dict, part: str) -> None:
    shown = Table("label", "training", *(f"{method.upper()}, 95 % interval" for method in estimates),
                  "scores off label shift by", "within noise up to",
                  title=f"{known.oof.name}: prevalence in the {part} part by its scores alone")
    for k, label in enumerate(known.competition.labels):
        if np.isnan(training[k]):
            continue
        off = fits[k][0] > fits[k][1]
        shown.add_row(label, f"{training[k]:.3f}",
                      *(f"{estimate[k]:.3f}   {interval[k, 0]:.3f} to {interval[k, 1]:.3f}"
                        for estimate, interval in estimates.values()),
                      f"{fits[k][0]:.3f}", f"{fits[k][1]:.3f}", style="yellow" if off else None)
    make_console().print(shown)
    if any(distance > limit for distance, limit in fits.values()):
        print("scores lie off label shift where the images are another population, and where the folds' models "
              "disagree, whose mean the new scores are")
    if known.task == "multilabel":
        print("each label by itself, which is an approximation: labels that shift together are not told apart")


def rehearse(known: Known, metric: str, estimates: dict, training: np.ndarray, fits_shift: bool) -> dict:
    """The default and the policies for each estimate, on oof rows weighed to that estimate; cross-fitted.

    Recommended where the gain is credible at the estimate, not credibly a loss at either end of its interval, the
    interval, made wider for so many labels, leaves out a training prevalence, and the scores are what label shift
    allows.
    """
    default = next(iter(make_policies(known.task, known.competition.labels, metric).values()))
    shown = Table("oof weighed to", "default", "corrected", "gain", "95 % interval", "gain at the interval's ends", "",
                  title=f"{known.oof.name}: rehearsal for {METRICS[metric].title}, cross-fitted")
    said = {}
    for name, method in SHIFTS.items():
        estimate, bounds = estimates[method]
        if np.isnan(estimate).all():
            print(f"{method.upper()} has no estimate: a class is missing, or decided for as if by chance")
            continue
        at, *ends = (_rehearse_at(known, metric, default, name, goal) for goal in (estimate, *bounds.T))
        low, high = for_tests(*bounds.T, estimate, int((~np.isnan(training)).sum()))
        differs = bool(((low > training) | (high < training)).any())
        doubts = [why for why, is_so in (
            ("the scores are not what label shift allows", not fits_shift),
            ("the interval holds the training prevalence", not differs),
            ("the rehearsal's gain is within noise", not at["gain_low"] > 0),
            ("it loses at an end of the interval", any(end["gain_high"] < 0 for end in ends))) if is_so]
        said[name] = at | {"prevalence": known.by_label(estimate), "recommended": not doubts, "why": "; ".join(doubts),
                           "at_the_intervals_ends": ends}
        shown.add_row(f"{method.upper()}'s estimate", f"{at['default']:.4f}", f"{at['crossfit']:.4f}",
                      f"{at['gain']:+.4f}", interval(at["gain_low"], at["gain_high"], sign="+"),
                      " / ".join(f"{end['gain']:+.4f}" for end in ends),
                      "recommended" if not doubts else f"not recommended: {'; '.join(doubts)}")
    make_console().print(shown)
    return said


def _rehearse_at(known: Known, metric: str, default: Policy, name: str, goal: np.ndarray) -> dict:
    if known.task == "multiclass":
        goal = goal / goal.sum()
    policies = {"default": default, name: shift_policy(name, known.task, metric, goal)}
    values = {key: policy.crossfit(known.targets, known.oof.probs, known.folds) for key, policy in policies.items()}
    rows = _compare(known, metric, values, values, class_weights(known.targets, goal, known.task))
    fitted = policies[name].fit(known.targets, known.oof.probs)
    return {key: rows[name][key] for key in ("crossfit", "gain", "gain_low", "gain_high")} | {
        "default": rows["default"]["crossfit"], **_parameters(known, fitted.parameters)}


def report_test(known: Known, data_dir: Path, metric: str, image_ids: pd.Series, probs: np.ndarray,
                said: dict) -> None:
    """Prints the test scores with and without, where the labels are known, and notes them; nothing is chosen by them.

    probs: (n, K) of `image_ids`.
    """
    competition = known.competition
    if (solution := read_solution(competition, data_dir)) is None:
        return
    truth = scored_targets(competition, solution)
    probs = pd.DataFrame(probs, index=image_ids).loc[solution["image_id"]].to_numpy()
    policies = dict([next(iter(make_policies(known.task, competition.labels, metric).items()))])
    policies |= {name: shift_policy(name, known.task, metric, np.array(list(row["prevalence"].values()), dtype=float))
                 for name, row in said.items()}
    shown = Table("policy", METRICS[metric].title, title=f"{known.oof.name}: {len(truth)} test images, reported only")
    for name, policy in policies.items():
        values = policy.fit(known.targets, known.oof.probs).apply(probs)
        found = METRICS[metric].score(truth, values, known.task)
        shown.add_row(name, f"{found:.4f}")
        if name in said:
            said[name]["test_reported_only"] = found
    make_console().print(shown)
    print("prevalence there: " + ", ".join(
        f"{label} {share:.3f}" for label, share in zip(competition.labels, prevalence(truth), strict=True)))


def _parameters(known: Known, parameters: dict) -> dict:
    """Parameters as decisions.json has them: lists of one value a label under the labels' names."""
    count = len(known.competition.labels)
    return {name: known.by_label(np.array(value)) if isinstance(value, list) and len(value) == count else value
            for name, value in parameters.items()}


def _brief(parameters: dict) -> str:
    parts = []
    for name, value in parameters.items():
        shown = value if not isinstance(value, list) else " ".join(f"{each:.3f}" for each in value[:4]) + (
            " ..." if len(value) > 4 else "")
        parts.append(f"{name} {shown}")
    return ", ".join(parts)


def _style(row: dict) -> str | None:
    return "green" if row["gain_low"] > 0 else "red" if row["gain_high"] < 0 else None


if __name__ == "__main__":
    main()
