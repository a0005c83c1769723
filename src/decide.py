"""Compare and adopt decision rules and calibration:  python src/decide.py --experiment cnn_e

Every rule is fitted on the other folds and scored on the held-out one, beside its score on the rows it was fitted on.
Writes decisions.json and reliability.png beside the run. Leaderboard, predict, explain and report use the default rule
until --adopt RULE adopts another; --adopt default returns to it. --label-shift estimates each label's prevalence in the
test part from the scores there, and tests whether only the prevalence differs from training.
"""

import argparse
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from rich.table import Table
from tqdm import tqdm

from commandline import add_experiment, load_workspace, make_parser, run_script, trained_names
from common.commands import command_line
from common.console import interval, make_console
from common.figures import save_figure
from common.files import json_ready, read_json, write_json
from competition import Competition
from data.folds import fold_numbers
from data.tables import submitted_part
from results.adopted_rules import made_from, rule_metric
from results.runs import Oof, decisions_path, read_predictions, run_folder, train_command
from results.workspace import Workspace
from scoring.calibration import calibration_errors, draw_reliability
from scoring.confidence_intervals import bootstrap_scores, percentile_interval, widen_differences
from scoring.decision_rules import RULES, DecisionRule, rules_for
from scoring.label_shift import estimate_prevalence, misfit, prevalence_interval
from scoring.metrics import METRICS, brier, check_metric, check_name, log_loss, make_scorer, prevalence
from scoring.thresholds import criterion


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
    """Writes decisions.json of every run named; returns their contents by run."""
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
    """Compares the decision rules of one run, shows them and writes decisions.json; returns its contents."""
    competition, oof = run.competition, run.oof
    metrics = [args.metric] if args.metric else list(dict.fromkeys((competition.metric, criterion(competition.metric))))
    path, scored = decisions_path(competition, oof.name), ~np.isnan(run.targets).all(axis=0)
    rules = {metric: run.rules(metric) for metric in metrics}
    if args.adopt:
        check_name("decision rule", args.adopt, sorted({"default"}.union(*rules.values())))
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
    if args.label_shift:
        decisions["label_shift"] = show_label_shift(run)
    decisions = json_ready(decisions)
    decisions["adopted"] = adopt(decisions, args.adopt, _adopted_before(path, decisions))
    write_json(path, decisions)
    make_console().print(f"wrote {path} and {path.with_name('reliability.png')}", soft_wrap=True)
    return decisions


def _adopted_before(path: Path, decisions: dict) -> dict:
    """The rules adopted before, if that was for these predictions."""
    earlier = read_json(path) if path.exists() else {}
    if earlier.get("adopted") and earlier["made_from"] != decisions["made_from"]:
        print(f"{path} adopted a rule for other predictions than {decisions['run']} has now; it is no longer adopted")
        return {}
    return earlier.get("adopted", {})


def adopt(decisions: dict, wanted: str | None, earlier: dict) -> dict:
    """The adopted rules, for probabilities and for decisions: the earlier ones, none ("default"), or `wanted` too."""
    if wanted is None or wanted == "default":
        in_use = {} if wanted else earlier
        print("in use: " + (", ".join(f"{each['rule']} for {each['metric']}" for each in in_use.values())
                            or "the default for the metric"))
        return in_use
    in_use = dict(earlier)
    for metric, rows in decisions["rules"].items():
        if (row := rows.get(wanted)) is None:
            continue
        in_use[METRICS[metric].uses] = {"rule": wanted, "metric": metric}
        if row["gain"] is not None and not (row["gain_low"] or 0) > 0:
            print(f"warning: {wanted} is adopted for {metric}, but it is not significantly better than the default")
    print(f"in use from now on: {wanted}; run predict.py again to write a submission with it")
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


def _score_rules(run: ScoredOof, metric: str, naive: dict[str, np.ndarray],
                 crossfit: dict[str, np.ndarray]) -> dict[str, dict]:
    """Scores of every rule, its optimism, and its gain over the first with the interval; a gain above 0 is better."""
    sign, ones = METRICS[metric].sign, np.ones((1, len(run.targets)))
    scores, crossfitted = ({name: float(make_scorer(metric, run.targets, values, run.task)(ones)[0])
                            for name, values in each.items()} for each in (naive, crossfit))
    drawn = {name: bootstrap_scores(metric, run.targets, values, run.task, run.groups)
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


def show_label_shift(run: ScoredOof) -> dict:
    """The estimated prevalence of every label in the test part, its interval, and a test of the assumption.

    Raises ValueError if there is no test part, or the run is a blend of ranks, and FileNotFoundError if it has no
    predictions of the test part.
    """
    competition, task, part = run.competition, run.task, submitted_part(run.competition)
    if part is None:
        raise ValueError(f"competition {competition.name!r} has no test part whose prevalence could be estimated")
    if "rank" in run.oof.kind:
        raise ValueError(f"{run.oof.name} is a blend of ranks, whose distribution does not depend on the prevalence; "
                         f"use --label-shift with a run or a mean")
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
    table = Table("label", "training", "estimate", "95 % interval", "distance from label shift", "limit",
                  title=f"{run.oof.name}: prevalence in the {part} part, estimated from its scores")
    for k, label in enumerate(competition.labels):
        if not np.isnan(training[k]):
            table.add_row(label, f"{training[k]:.3f}", f"{estimate[k]:.3f}", interval(*bounds[k], 3),
                          f"{fits[k, 0]:.3f}", f"{fits[k, 1]:.3f}", style="yellow" if fits[k, 0] > fits[k, 1] else None)
    make_console().print(table)
    if (fits[:, 0] > fits[:, 1]).any():
        print("The estimates of labels above the limit are not reliable: the test images are of another population, or "
              "the folds' models disagree, because test scores are their mean.")
    if task == "multilabel":
        print("Each label is estimated independently of the others.")
    columns = {"training": training, "prevalence": estimate, "low": bounds[:, 0], "high": bounds[:, 1],
               "distance": fits[:, 0], "limit": fits[:, 1]}
    return {name: run.by_label(values) for name, values in columns.items()}


def _class_rows(run: ScoredOof, k: int) -> np.ndarray:
    """(N, C) bool: the rows of each class, whose scores of label k are mixed in the test part."""
    if run.task == "multiclass":
        return run.targets[:, (run.targets == 1).any(axis=0)] == 1
    return np.column_stack([run.targets[:, k] == 0, run.targets[:, k] == 1])


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
