"""Compare runs by their cross-validation scores:  python src/leaderboard.py --competition demo

Prints a table that fits the terminal and writes all columns to runs/<competition>/leaderboard.csv. The scores on the
official validation part and the holdout are only reported: nothing is chosen by them. Once submit.py has written a
ledger, a second table and the plot runs/<competition>/cv_lb.png compare CV with the scores of submissions.
--compare lite0 cnn_e tests whether a run is better beyond noise. --forecast prints the public and private scores to
expect, which two submissions to select, and how much weight a public score deserves.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from rich.table import Table
from tqdm import tqdm

from commandline import load_workspace, make_parser, run_script
from common.console import fit_width, make_console, number
from common.files import home, write_csv
from competition import Competition
from data.folds import fold_numbers
from data.labels import scored_counts, scoring_targets
from data.tables import label_cells, scored_targets
from reporting.forecast import show_forecast
from reporting.run_comparison import show_comparison
from results.adopted_rules import rule_for, untuned_rule
from results.evaluation import REPORTED_SCORES
from results.runs import Oof, read_predictions
from results.workspace import Workspace
from scoring.confidence_intervals import score_interval
from scoring.decision_rules import FittedRule
from scoring.metrics import (
    METRICS,
    average_precision_by_label,
    brier,
    constant_probs,
    prevalence,
    roc_auc_by_label,
    score,
    undefined_labels,
)
from scoring.thresholds import crossfit_decisions
from submitting.cv_lb import report_agreement


def main(argv: list[str] | None = None) -> pd.DataFrame:
    """Prints the leaderboard and returns it: one row for each run, best first, incomplete runs last.

    With --compare or --forecast, prints and returns that table instead.
    """
    parser = make_parser(__doc__)
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="test whether the first run or blend is "
                        "better than each of the others")
    parser.add_argument("--forecast", nargs="*", type=float, metavar="N", help="expected public and private scores; N: "
                        "number of test images, and their public share; default: those of the competition, else 0.3")
    args = parser.parse_args(argv)
    workspace = load_workspace(args)
    competition = workspace.competition
    if args.compare:
        return show_comparison(workspace, args.compare)
    if args.forecast is not None:
        return show_forecast(workspace, args.forecast)
    board = make_board(workspace)
    if competition.name == "demo":
        board = pd.concat([_ceiling(workspace), board], ignore_index=True)
    path = write_csv(home() / "runs" / competition.name / "leaderboard.csv", board, float_format="%.6g")
    show_board(competition, board, scored_counts(workspace.cells))
    _footnotes(workspace)
    is_public = None if workspace.test_solution is None else workspace.test_solution["usage"].eq("Public")
    report_agreement(competition, len(workspace.table), {} if is_public is None else {
        "public": int(is_public.sum()), "private": int((~is_public).sum())})
    print(f"all columns: {path}")
    return board


def make_board(workspace: Workspace) -> pd.DataFrame:
    """One row for each run, blend and constant prediction, best first; incomplete runs come last and have no rank."""
    competition, rows = workspace.competition, []
    rates = prevalence(workspace.label_targets)
    floors = {"floor: prevalence": np.nan_to_num(rates, nan=0.5), "floor: all negative": np.zeros_like(rates)}
    for name, constant in floors.items():
        floor = Oof(name, constant_probs(constant, len(workspace.table)), (), ())
        rows.append(_score_row(workspace, floor, lambda _, ids, constant=constant: constant_probs(constant, len(ids)),
                               is_tuned=False))
    for name in tqdm(workspace.runs, desc="scoring", unit="run", leave=False, disable=None):
        try:
            oof = workspace.oof(name)
            rule_for(workspace, oof, METRICS[competition.metric].uses)
        except (ValueError, FileNotFoundError) as error:  # one stale run must not hide all others
            rows.append({"run": name, "status": f"not counted: {error}"})
            continue
        if not oof.is_whole:
            rows.append({"run": name, "status": f"lacks folds {', '.join(map(str, oof.folds_missing))}"})
            continue
        row = _score_row(workspace, oof, lambda part, ids, oof=oof: read_predictions(competition, oof, part, ids))
        if oof.kind == "rank_mean":  # ranks are not probabilities
            row |= {"brier": np.nan, "f1_at_half": np.nan}
        rows.append(row | _training_columns(oof, workspace.folds.count))
    board = pd.DataFrame(rows)
    sign = -1 if METRICS[competition.metric].greater_is_better else 1
    order = (sign * board["cv"]).sort_values(kind="stable", na_position="last").index
    board = board.loc[order].reset_index(drop=True)
    is_ranked = board["status"].eq("whole") & ~board["run"].str.startswith("floor")
    board.insert(0, "rank", is_ranked.cumsum().where(is_ranked).astype("Int64"))
    return board


def _training_columns(oof: Oof, folds: int) -> dict:
    results = [run.result for run in oof.runs]
    return {"splits": " ".join(map(str, sorted({run.experiment.split for run in oof.runs}))),
            "seconds": sum(result["seconds"] for result in results) / folds,
            "parameters": sum(result["parameters"] for result in results) // folds,
            "not_learned": sum(not result["learned"] for result in results)}


def _score_row(workspace: Workspace, oof: Oof, predict: Callable[[str, pd.Series], np.ndarray | None],
               is_tuned: bool = True) -> dict:
    """The scores of a run's out-of-fold probabilities (N, K), and of the parts that it has predicted.

    All scores but those by label use only the labels that the competition scores.
    predict: returns probabilities (n, K) for a part and its ids, or None;  is_tuned: the run's rule makes decisions,
    fitted on the other folds of its split; else thresholds of 0.5.
    """
    competition, probs = workspace.competition, oof.probs
    task, metric = competition.task, METRICS[competition.metric]
    targets, folds = workspace.targets, fold_numbers(workspace.table, oof.split)
    half = untuned_rule(competition, "decisions").crossfit(targets, probs, folds)
    rule = rule_for(workspace, oof, metric.uses) if is_tuned else untuned_rule(competition, metric.uses)
    values = rule.crossfit(targets, probs, folds)
    fold_scores = np.array([metric.score(targets[folds == fold], values[folds == fold], task)
                            for fold in np.unique(folds)])
    fold_scores = fold_scores[~np.isnan(fold_scores)]
    low, high = score_interval(competition.metric, targets, values, task, workspace.groups)
    row = {
        "status": "whole",
        "cv": metric.score(targets, values, task),
        "low": low,
        "high": high,
        "fold_mean": fold_scores.mean() if len(fold_scores) else np.nan,
        "fold_sd": fold_scores.std(ddof=1) if len(fold_scores) > 1 else np.nan,
        "f1_at_half": METRICS["f1_macro"].score(targets, half, task),
        "f1_crossfit": METRICS["f1_macro"].score(
            targets, crossfit_decisions(targets, probs, folds, task) if is_tuned else half, task),
        "roc_auc": score("roc_auc", targets, probs, task),
        "average_precision": score("average_precision", targets, probs, task),
        "brier": brier(targets, probs, task),
        "images": len(workspace.table),
        "run": oof.name,
    }
    if (constant := workspace.table["constant"].to_numpy()).any():
        row["cv_without_constant"] = metric.score(targets[~constant], values[~constant], task)
    for name, by_label in (("auc", roc_auc_by_label), ("ap", average_precision_by_label)):
        values = by_label(workspace.label_targets, probs)
        row |= {f"{name}_{label}": value for label, value in zip(competition.labels, values, strict=True)}
    fitted = rule.fit(targets, probs)
    return row | _test_scores(workspace, fitted, predict) | _reported_scores(workspace, fitted, predict)


def _test_scores(workspace: Workspace, rule: FittedRule, predict: Callable) -> dict[str, float]:
    """The metric on each usage of the solution: public and private, or test."""
    competition, solution = workspace.competition, workspace.test_solution
    if solution is None or (probs := predict("test", solution["image_id"])) is None:
        return {}
    truth, values = scored_targets(competition, solution), rule.apply(probs)
    return {usage.lower(): METRICS[competition.metric].score(truth[rows], values[rows], competition.task)
            for usage in sorted(solution["usage"].unique())
            if len(rows := np.flatnonzero(solution["usage"] == usage))}


def _reported_scores(workspace: Workspace, rule: FittedRule, predict: Callable) -> dict[str, float]:
    """The metric on the official validation part and the holdout, with its interval, and the AUC of every label."""
    competition, row = workspace.competition, {}
    for part, images in workspace.reported_parts.items():
        if (probs := predict(part, images["image_id"])) is None:
            continue
        truth, values = scored_targets(competition, images), rule.apply(probs)
        low, high = score_interval(competition.metric, truth, values, competition.task, images["group"].to_numpy(str))
        row |= {part: METRICS[competition.metric].score(truth, values, competition.task), f"{part}_low": low,
                f"{part}_high": high, f"{part}_images": len(images)}
        aucs = roc_auc_by_label(scoring_targets(label_cells(competition, images)), probs)
        row |= {f"{part}_auc_{label}": auc for label, auc in zip(competition.labels, aucs, strict=True)}
    return row


def _ceiling(workspace: Workspace) -> pd.DataFrame:
    """The best possible scores on the demo: those of each label's true posterior probability."""
    from data.demo import read_truth

    truth = read_truth(workspace.data_dir).set_index("image_id")
    truth = truth[[f"posterior_{label}" for label in workspace.competition.labels]].astype(float)
    ceiling = Oof("ceiling: the posterior", truth.loc[workspace.table["image_id"]].to_numpy(), (), ())
    return pd.DataFrame([_score_row(workspace, ceiling, lambda _, ids: truth.loc[ids].to_numpy())])


def show_board(competition: Competition, board: pd.DataFrame, counts: np.ndarray) -> None:
    """Prints two tables: the ranking, and AUC and average precision by label. Narrow terminals show fewer columns.

    counts: (K, 2) certain cells and positives of every label.
    """
    console, metric, rows = make_console(), METRICS[competition.metric], board.to_dict("records")
    parts = [part for part in REPORTED_SCORES if part in board and board[part].notna().any()]
    scores = {"w/o constant\nimages": "cv_without_constant", "F1\ncross-fit": "f1_crossfit", "F1 at .5": "f1_at_half",
              "Brier": "brier"}
    scores = {header: key for header, key in scores.items() if key in board}
    headers = [part.replace("_", "\n") for part in parts]
    ranking = Table("", f"CV {metric.title}", "run", "95 % interval", *headers, "folds", *scores, "s a fold",
                    "parameters",
                    title=f"{competition.name}: {metric.title} over {int(board['images'].max())} images")
    for row in rows:
        if row["status"] != "whole":
            remark = "not counted, see below" if row["status"].startswith("not counted") else row["status"]
            ranking.add_row("", "-", f"{row['run']} ({remark})", style="yellow")
            continue
        is_ranked = not pd.isna(row.get("rank"))
        ranking.add_row(
            str(row["rank"]) if is_ranked else "", number(row["cv"]), row["run"] + _remark(row),
            f"{number(row['low'])} - {number(row['high'])}", *(number(row[part]) for part in parts),
            f"{number(row['fold_mean'])} ± {number(row['fold_sd'], 3)}", *(number(row[key]) for key in scores.values()),
            number(row.get("seconds"), 0), f"{row['parameters']:,.0f}" if is_ranked and "parameters" in row else "",
            style=None if is_ranked else "dim")
    for column in ranking.columns[:2]:
        column.no_wrap = True
    fit_width(ranking, console, keep=3)
    console.print(ranking)
    for part in ("official_validation", "holdout"):
        if part in parts:
            print(f"{part}: n {board[f'{part}_images'].max():.0f}")
    _show_labels(competition, [row for row in rows if row["status"] == "whole"], counts)
    for row in rows:
        if row["status"].startswith("not counted"):
            console.print(f"{row['run']} is {row['status']}", style="yellow")


def _show_labels(competition: Competition, rows: list[dict], counts: np.ndarray) -> None:
    """Prints one line for each label and one column for each run, best first, as many as fit."""
    console = make_console()
    table = Table("label", "positive", "certain", *(row["run"] for row in rows), title="AUC / AP by label")
    for label, (certain, positive) in zip(competition.labels, counts, strict=True):
        table.add_row(label, f"{positive}", f"{certain}", *(
            f"{number(row[f'auc_{label}'], 3)} / {number(row[f'ap_{label}'], 3)}" for row in rows))
    fit_width(table, console, keep=4)
    console.print(table)


def _remark(row: dict) -> str:
    failed, splits = row.get("not_learned"), row.get("splits")
    remark = f" ({failed:.0f} folds did not learn)" if failed and not pd.isna(failed) else ""
    return remark if splits in (None, "0") or pd.isna(splits) else f"{remark} (split {splits.replace(' ', ' and ')})"


def _footnotes(workspace: Workspace) -> None:
    competition, table, labels = workspace.competition, workspace.table, np.array(workspace.competition.labels)
    notes = [f"Cross-validation over {workspace.folds.count} folds of {table['group'].nunique()} groups; the intervals "
             "resample whole groups."]
    if unscored := int((~np.isin(workspace.cells, (0, 1))).sum()):
        notes.append(f"{unscored} uncertain or empty cells are left out of the scores.")
    if constant := int(table["constant"].sum()):
        notes.append(f"{constant} constant images are scored; their prediction is the prior.")
    print(" ".join(notes))
    if competition.scored_labels:
        print(f"{len(competition.scored_labels)} of {len(labels)} labels are scored: "
              f"{', '.join(competition.scored_labels)}")
    is_scored = np.isin(labels, competition.scored_labels or labels)
    for part, images in workspace.reported_parts.items():
        positives = scored_counts(label_cells(competition, images))[is_scored, 1]
        print(f"{part}: {len(images)} images of {images['group'].nunique()} groups, reported only; positives: "
              + ", ".join(f"{label} {n}" for label, n in zip(labels[is_scored], positives, strict=True)))
    undefined = undefined_labels(workspace.label_targets)
    if undefined.any():
        print(f"no score, one class only: {', '.join(labels[undefined])}")
    solution = workspace.test_solution
    for usage in [] if solution is None else sorted(solution["usage"].unique()):
        rows = (solution["usage"] == usage).to_numpy()
        missing = labels[undefined_labels(scoring_targets(label_cells(competition, solution))[rows])]
        print(f"{usage.lower()}: {rows.sum()} test images" + (
            f"; undefined there and left out of the mean: {', '.join(missing)}" if len(missing) else ""))


if __name__ == "__main__":
    run_script(main)
