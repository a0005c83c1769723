"""Compare and adopt decision rules and calibration:  python src/decide.py --experiment cnn_e

Every rule is fitted on the other folds and scored on the held-out one, beside its score on the rows it was fitted on.
Writes decisions.json and reliability.png beside the run. Leaderboard, predict, explain and report use the default rule
until --adopt RULE adopts another; --adopt default goes back. --label-shift estimates the labels' prevalence in the test
part from its scores, and scores the rule for that prevalence on weighted oof rows.
"""

import argparse
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table
from tqdm import tqdm

from commandline import (
    add_experiment,
    load_workspace,
    make_parser,
    run_script,
    trained_names,
)
from common.commands import command_line
from common.console import interval, make_console
from common.figures import save_figure
from common.files import json_ready, read_json, write_json
from competition import Competition
from data.folds import fold_numbers
from data.tables import scored_targets, submitted_part
from results.adopted_rules import made_from, predictions_hash, rule_metric
from results.runs import Oof, decisions_path, read_predictions, run_folder, train_command
from results.workspace import Workspace
from scoring.calibration import calibration_errors, draw_reliability
from scoring.confidence_intervals import bootstrap_scores, percentile_interval, widen_differences, widen_for_tests
from scoring.decision_rules import RULES, DecisionRule, check_rule, rule_for_prevalence, rules_for
from scoring.label_shift import class_weights, estimate_prevalence, misfit, prevalence_interval
from scoring.metrics import METRICS, brier, check_metric, counts_by_label, log_loss, make_scorer, prevalence
from scoring.thresholds import criterion

SHIFT = "label_shift"  # the entry of RULES that needs an estimated prevalence


@dataclass(frozen=True)
class ScoredOof:
    """A run's out-of-fold predictions with what they are scored on."""

    workspace: Workspace
    oof: Oof

    @property
    def competition(self) -> Competition:
        return self.workspace.competition

    @property
    def targets(self) -> np.ndarray:
        """(N, K) 1, 0, or NaN where a cell is not scored."""
        return self.workspace.targets

    @property
    def groups(self) -> np.ndarray:
        """(N,) str."""
        return self.workspace.groups

    @cached_property
    def folds(self) -> np.ndarray:
        """(N,) int, the folds of the run's split."""
        return fold_numbers(self.workspace.table, self.oof.split)

    @property
    def task(self) -> str:
        return self.competition.task

    def by_label(self, values: np.ndarray) -> dict[str, float | None]:
        """Values (K,) under the labels' names, as JSON has them."""
        return {label: None if np.isnan(value) else float(value)
                for label, value in zip(self.competition.labels, values, strict=True)}

    def rules(self, metric: str) -> dict[str, DecisionRule]:
        """The rules for a metric, the default first."""
        return rules_for(self.task, self.competition.labels, metric)


def main(argv: list[str] | None = None) -> dict[str, dict]:
    """Writes the decisions of every run named; returns them by run."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    parser.add_argument("--metric", metavar="NAME", help="score by this one; default: the competition's, and macro F1 "
                                                         f"where that takes probabilities; known: {', '.join(METRICS)}")
    parser.add_argument("--label-shift", action="store_true", help="estimate the prevalence in the test part")
    parser.add_argument("--adopt", metavar="RULE", help="use this rule from now on, default: none; known: "
                                                        f"{', '.join(RULES)}")
    args = parser.parse_args(argv)
    workspace = load_workspace(args)
    if args.metric:
        check_metric(args.metric, workspace.competition.task)
    decisions = {}
    for name in trained_names(args, all_folds=workspace.folds.count):
        oof = workspace.oof(name)
        if not oof.is_whole:
            raise ValueError(f"run {name!r} lacks the folds {list(oof.folds_missing)}; run: "
                             f"{train_command(workspace.competition, oof.name, oof.folds_missing)}")
        decisions[name] = decide_run(ScoredOof(workspace, oof), args)
    return decisions


def decide_run(run: ScoredOof, args: argparse.Namespace) -> dict:
    """Computes, shows and writes all about the decisions of one run; returns the contents of decisions.json."""
    competition, oof = run.competition, run.oof
    metrics = [args.metric] if args.metric else list(dict.fromkeys((competition.metric, criterion(competition.metric))))
    path, scored = decisions_path(competition, oof.name), ~np.isnan(run.targets).all(axis=0)
    rules = {metric: run.rules(metric) for metric in metrics}
    if args.adopt:
        check_rule(args.adopt, sorted({"default", SHIFT}.union(*rules.values())))
    if not scored.any():
        raise ValueError(f"no label of {competition.name!r} has a certain cell in the training table: no rule can be "
                         f"fitted")
    decisions = {
        "run": oof.name,
        "competition": competition.name,
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "made_from": made_from(competition, oof),
        "images": len(run.targets),
        "positives": run.by_label((run.targets == 1).sum(axis=0).astype(float)),
        "folds": len(np.unique(run.folds)),
        "calibration": show_calibration(run, scored),
        "rules": {metric: show_rules(run, metric, rules[metric]) for metric in metrics},
    }
    if args.label_shift or args.adopt == SHIFT:
        decisions[SHIFT] = show_label_shift(run, metrics)
    decisions = json_ready(decisions)
    decisions["adopted"] = adopt(run, decisions, args.adopt, _adopted_before(path, decisions))
    write_json(path, decisions)
    make_console().print(f"wrote {path} and {path.with_name('reliability.png')}", soft_wrap=True)
    return decisions


def _adopted_before(path: Path, decisions: dict) -> dict:
    """The rules adopted before, where that was for these predictions."""
    earlier = read_json(path) if path.exists() else {}
    if earlier.get("adopted") and earlier["made_from"] != decisions["made_from"]:
        print(f"{path} adopted a rule for other predictions than {decisions['run']} has now; it is no longer in use")
        return {}
    return earlier.get("adopted", {})


def adopt(run: ScoredOof, decisions: dict, wanted: str | None, earlier: dict) -> dict:
    """The rules in use from now on, by what they give. Raises ValueError where the wanted one cannot be used here."""
    if wanted is None or wanted == "default":
        in_use = {} if wanted else earlier
        print("in use: " + (", ".join(f"{each['rule']} for {each['metric']}" for each in in_use.values())
                            or "the default for the metric"))
        return in_use
    by_metric = decisions.get(SHIFT, {}).get("rules", {}) if wanted == SHIFT else {
        metric: rows[wanted] for metric, rows in decisions["rules"].items() if wanted in rows}
    if not by_metric:
        raise ValueError(f"{wanted} cannot be adopted: there is no estimate, or it changes nothing that "
                         f"{', '.join(decisions['rules'])} scores")
    in_use = dict(earlier)
    for metric, row in by_metric.items():
        in_use[METRICS[metric].uses] = {"rule": wanted, "metric": metric}
        if wanted == SHIFT:
            in_use[METRICS[metric].uses] |= {"prevalence": row["prevalence"],
                                             "test_sha256": predictions_hash(run.competition, run.oof.name)}
            if not row["recommended"]:
                print(f"warning: {wanted} is in use for {metric} now, though it is not recommended: {row['why']}")
        elif row["gain"] is not None and not (row["gain_low"] or 0) > 0:
            print(f"warning: {wanted} is in use for {metric} now, though it is not credibly better than the default")
    print(f"in use from now on: {wanted}; predict again for the submission to follow")
    return in_use


def show_calibration(run: ScoredOof, scored: np.ndarray) -> dict:
    """Log loss, Brier score and calibration error before and after, cross-fitted; draws reliability.png."""
    task, targets, competition = run.task, run.targets, run.competition
    rules = run.rules(rule_metric(competition, "probs"))
    values = {name: rule.crossfit(targets, run.oof.probs, run.folds) for name, rule in rules.items()}
    losses = {name: bootstrap_scores("log_loss", targets, probs, task, run.groups) for name, probs in values.items()}
    table = Table("probabilities", "log loss", "gain", "95 % interval", "Brier", "ECE",
                  title=f"{run.oof.name}: calibration fitted on the other folds")
    rows = {"ece": "15 bins of equal numbers of cells, mean over labels, each against the rest"}
    for name, probs in values.items():
        errors = calibration_errors(targets, probs)
        low, high = percentile_interval(losses["as_is"] - losses[name])
        loss = log_loss(targets, probs, task)
        gain = log_loss(targets, run.oof.probs, task) - loss
        rows[name] = {"log_loss": loss, "brier": brier(targets, probs, task), "ece": float(np.nanmean(errors)),
                      "ece_by_label": run.by_label(errors),
                      **_parameters(run, rules[name].fit(targets, run.oof.probs).parameters)}
        gains = ("", "") if name == "as_is" else (f"{gain:+.4f}", interval(low, high, sign="+"))
        table.add_row(name, f"{loss:.4f}", *gains, f"{rows[name]['brier']:.4f}", f"{rows[name]['ece']:.4f}")
    make_console().print(table)
    labels = tuple(label for label, is_scored in zip(competition.labels, scored, strict=True) if is_scored)
    figure = draw_reliability(targets[:, scored], {name: probs[:, scored] for name, probs in values.items()}, labels,
                              f"{competition.name}, {run.oof.name}\ncross-fitted, 15 bins of equal numbers")
    save_figure(figure, run_folder(competition, run.oof.name) / "reliability.png")
    return rows


def show_rules(run: ScoredOof, metric: str, rules: dict[str, DecisionRule]) -> dict:
    """Naive and cross-fitted score of every rule for a metric, and the gain over the first, the default."""
    targets, probs = run.targets, run.oof.probs
    fitted = {name: rule.fit(targets, probs) for name, rule in rules.items()}
    values = {name: rule.crossfit(targets, probs, run.folds)
              for name, rule in tqdm(rules.items(), desc=metric, leave=False, disable=None)}
    rows = _score_rules(run, metric, {name: each.apply(probs) for name, each in fitted.items()}, values)
    table = Table("rule", "naive", "cross-fitted", "optimism", "gain over the default", "95 % interval", "parameters",
                  title=f"{run.oof.name}: decision rules for {METRICS[metric].title}")
    for name, row in rows.items():
        row |= _parameters(run, fitted[name].parameters)
        gain = ("default", "") if row["gain"] is None else (f"{row['gain']:+.4f}",
                                                            interval(row["gain_low"], row["gain_high"], sign="+"))
        table.add_row(name, f"{row['naive']:.4f}", f"{row['crossfit']:.4f}", f"{row['optimism']:+.4f}", *gain,
                      _brief(fitted[name].parameters), style=None if gain[0] == "default" else _style(row))
    make_console().print(table)
    return rows


def _score_rules(run: ScoredOof, metric: str, naive: dict[str, np.ndarray], crossfit: dict[str, np.ndarray],
                 weights: np.ndarray | None = None) -> dict[str, dict]:
    """Scores of every rule, its optimism, and its gain over the first with the interval; a gain above 0 is better."""
    sign = METRICS[metric].sign
    ones = np.ones((1, len(run.targets)))
    scores, crossfitted = ({name: float(make_scorer(metric, run.targets, values, run.task, weights)(ones)[0])
                       for name, values in each.items()} for each in (naive, crossfit))
    drawn = {name: bootstrap_scores(metric, run.targets, values, run.task, run.groups, class_weights=weights)
             for name, values in crossfit.items()}
    first, rows = next(iter(crossfit)), {}
    for name in crossfit:
        gain = sign * (crossfitted[name] - crossfitted[first])
        low, high = percentile_interval(widen_differences(
            metric, run.targets, crossfit[name], crossfit[first], run.groups, gain,
            sign * (drawn[name] - drawn[first])))
        rows[name] = {"naive": scores[name], "crossfit": crossfitted[name],
                      "optimism": sign * (scores[name] - crossfitted[name]),
                      "gain": None if name == first else gain,
                      "gain_low": None if name == first else low, "gain_high": None if name == first else high}
    return rows


def show_label_shift(run: ScoredOof, metrics: list[str]) -> dict:
    """The prevalence in the test part, the rule for it scored on weighted oof rows, and on the test part if known."""
    competition, task, part = run.competition, run.task, submitted_part(run.competition)
    if part is None:
        raise ValueError(f"competition {competition.name!r} has no test part whose prevalence could be estimated")
    if "rank" in run.oof.kind:
        raise ValueError(f"{run.oof.name} is a blend of ranks, whose distribution is the same whatever the prevalence "
                         f"is; use --label-shift with a run or a mean")
    images = run.workspace.part(part)
    probs = read_predictions(competition, run.oof, part, images["image_id"])
    if probs is None:
        raise FileNotFoundError(f"{run.oof.name} has not predicted the {part} images; run: "
                                f"{command_line('predict', competition, experiment=run.oof.name)}")
    estimate = estimate_prevalence(run.targets, run.oof.probs, probs, task)
    bounds = prevalence_interval(run.targets, run.oof.probs, probs, task, run.groups, images["group"].to_numpy(str))
    training = prevalence(run.targets)
    labels = int((~np.isnan(training)).sum())
    fits = np.array([misfit(_class_rows(run, k), run.oof.probs[:, k], probs[:, k], labels)
                     for k in range(len(competition.labels))])
    _show_estimate(run, training, estimate, bounds, fits, part)
    doubts = find_doubts(training, estimate, bounds, fits)
    result = {"training": run.by_label(training), "prevalence": run.by_label(estimate),
              "low": run.by_label(bounds[:, 0]), "high": run.by_label(bounds[:, 1]), "misfit": {
        label: {"distance": distance, "limit": limit}
        for label, (distance, limit) in zip(competition.labels, fits.tolist(), strict=True) if not np.isnan(distance)},
        "rules": {}}
    for metric in metrics:
        if METRICS[metric].order_only:
            continue  # correcting for a prevalence changes no order
        if task == "multilabel" and not counts_by_label(metric, task):
            print(f"{metric} does not count label by label, so rows cannot be weighted to the estimates: not scored")
            continue
        result["rules"][metric] = rehearse(run, metric, estimate, doubts)
        report_test(run, metric, images["image_id"], probs, result["rules"][metric])
    return result


def find_doubts(training: np.ndarray, estimate: np.ndarray, bounds: np.ndarray, fits: np.ndarray) -> list[str]:
    """Reasons not to correct for an estimated prevalence, before anything is scored; none: [].

    training, estimate: (K,) prevalences;  bounds: (K, 2) of the estimate;  fits: (K, 2) distance and limit of
    `misfit`.
    """
    low, high = widen_for_tests(*bounds.T, estimate, int((~np.isnan(training)).sum()))
    reasons = {"the scores are not what label shift allows": (fits[:, 0] > fits[:, 1]).any(),
               "the interval holds the training prevalence": not ((low > training) | (high < training)).any()}
    return [reason for reason, holds in reasons.items() if holds]


def _class_rows(run: ScoredOof, k: int) -> np.ndarray:
    """(N, C) bool: the rows of each class whose scores of label k are mixed among the new ones."""
    if run.task == "multiclass":
        return run.targets[:, (run.targets == 1).any(axis=0)] == 1
    return np.column_stack([run.targets[:, k] == 0, run.targets[:, k] == 1])


def _show_estimate(run: ScoredOof, training: np.ndarray, estimate: np.ndarray, bounds: np.ndarray, fits: np.ndarray,
                   part: str) -> None:
    table = Table("label", "training", "estimate", "95 % interval", "distance from label shift", "limit",
                  title=f"{run.oof.name}: prevalence in the {part} part, by its scores alone")
    for k, label in enumerate(run.competition.labels):
        if not np.isnan(training[k]):
            table.add_row(label, f"{training[k]:.3f}", f"{estimate[k]:.3f}",
                          interval(*bounds[k], 3), f"{fits[k, 0]:.3f}", f"{fits[k, 1]:.3f}",
                          style="yellow" if fits[k, 0] > fits[k, 1] else None)
    make_console().print(table)
    if (fits[:, 0] > fits[:, 1]).any():
        print("Scores deviate from label shift where the images are from another population, and where the folds' "
              "models disagree, because the new scores are their mean.")
    if run.task == "multilabel":
        print("Each label is estimated by itself, which ignores that labels may shift together.")


def rehearse(run: ScoredOof, metric: str, estimate: np.ndarray, doubts: list[str]) -> dict:
    """The default and the rule for the estimate, on oof rows weighted to that prevalence, cross-fitted.

    doubts: reasons against the rule that are known before; the gain's being within noise is one more. The rule is
    recommended where there is none.
    """
    goal = estimate / estimate.sum() if run.task == "multiclass" else estimate
    rules = {"default": next(iter(run.rules(metric).values())),
             SHIFT: rule_for_prevalence(SHIFT, run.task, run.competition.labels, metric, goal)}
    values = {name: rule.crossfit(run.targets, run.oof.probs, run.folds) for name, rule in rules.items()}
    scores = _score_rules(run, metric, values, values, class_weights(run.targets, goal, run.task))
    row = {name: scores[SHIFT][name] for name in ("crossfit", "gain", "gain_low", "gain_high")}
    doubts = doubts if row["gain_low"] > 0 else [*doubts, "the gain is within noise"]
    row |= {"default": scores["default"]["crossfit"], "prevalence": run.by_label(estimate), "recommended": not doubts,
            "why": "; ".join(doubts), **_parameters(run, rules[SHIFT].fit(run.targets, run.oof.probs).parameters)}
    table = Table("default", "for the estimate", "gain", "95 % interval", "",
                  title=f"{run.oof.name}: {METRICS[metric].title} of oof rows weighted to the estimate, cross-fitted")
    table.add_row(f"{row['default']:.4f}", f"{row['crossfit']:.4f}", f"{row['gain']:+.4f}",
                  interval(row["gain_low"], row["gain_high"], sign="+"),
                  f"not recommended: {row['why']}" if doubts else "recommended")
    make_console().print(table)
    return row


def report_test(run: ScoredOof, metric: str, image_ids: pd.Series, probs: np.ndarray,
                row: dict) -> None:
    """Prints the test scores of both rules where the labels are known, and adds them to `row`; for reporting only.

    probs: (n, K) of `image_ids`.
    """
    competition = run.competition
    if (solution := run.workspace.solution) is None:
        return
    truth = scored_targets(competition, solution)
    probs = pd.DataFrame(probs, index=image_ids).loc[solution["image_id"]].to_numpy()
    estimate = np.array(list(row["prevalence"].values()), dtype=float)
    rules = [next(iter(run.rules(metric).values())),
             rule_for_prevalence(SHIFT, run.task, competition.labels, metric, estimate)]
    table = Table("rule", METRICS[metric].title, title=f"{run.oof.name}: {len(truth)} test images, reported only")
    for rule in rules:
        values = rule.fit(run.targets, run.oof.probs).apply(probs)
        row["test_reported_only"] = METRICS[metric].score(truth, values, run.task)
        table.add_row(rule.name, f"{row['test_reported_only']:.4f}")
    make_console().print(table)
    print("prevalence there: " + ", ".join(
        f"{label} {share:.3f}" for label, share in zip(competition.labels, prevalence(truth), strict=True)))


def _parameters(run: ScoredOof, parameters: dict) -> dict:
    """Parameters as decisions.json has them: lists of one value a label under the labels' names."""
    count = len(run.competition.labels)
    return {name: run.by_label(np.array(value)) if isinstance(value, list) and len(value) == count else value
            for name, value in parameters.items()}


def _brief(parameters: dict) -> str:
    parts = []
    for name, value in parameters.items():
        text = value if not isinstance(value, list) else " ".join(f"{each:.3f}" for each in value[:4]) + (
            " ..." if len(value) > 4 else "")
        parts.append(f"{name} {text}")
    return ", ".join(parts)


def _style(row: dict) -> str | None:
    return "green" if row["gain_low"] > 0 else "red" if row["gain_high"] < 0 else None


if __name__ == "__main__":
    run_script(main)
