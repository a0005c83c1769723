"""Compare runs by their cross-validation scores:  python src/leaderboard.py --competition demo

One table on the screen, and the same with more columns as runs/<competition>/leaderboard.csv. The columns expert and
holdout, where there are such parts, are for reporting: nothing is chosen by them. Where submit.py has written a ledger,
CV stands against the leaderboard too, and in the plot runs/<competition>/cv_lb.png.
Instead of it: whether a run is better beyond noise, with --compare lite0 cnn_e, and with --forecast what public and
private scores to expect, which two submissions to select, and how far to believe the public score.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table
from tqdm import tqdm

from commandline import load_competition, load_folded_table, make_parser, run_script
from common.console import make_console, number
from common.files import home, write_csv
from competition import Competition
from data.folds import Folds, fold_numbers, read_holdout
from data.labels import scored_counts, scoring_targets
from data.tables import label_cells, read_part, read_solution, scored_targets
from reporting.run_comparison import show_comparison, show_forecast
from results.adopted_rules import rule_for, untuned_rule
from results.runs import Oof, list_runs, read_oof, read_predictions
from scoring.confidence_intervals import score_interval
from scoring.decision_rules import DecisionRule
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
    """Prints the leaderboard; returns it, one row a run, best first, incomplete runs last. Or what is asked instead."""
    parser = make_parser(__doc__)
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="is the first run or blend better than each other?")
    parser.add_argument("--forecast", nargs="*", type=float, metavar="N", help="public and private scores to expect; "
                        "N: test images, and the public share of them; default: as the competition has it, else 0.3")
    args = parser.parse_args(argv)
    competition, data_dir = load_competition(args)
    table, folds = load_folded_table(competition, data_dir)
    solution = read_solution(competition, data_dir) if competition.test else None
    if args.compare:
        return show_comparison(competition, table, folds.hash, args.compare)
    if args.forecast is not None:
        return show_forecast(competition, data_dir, table, folds.hash, solution, args.forecast)
    reported = read_reported(competition, data_dir, folds)
    board = make_board(competition, table, folds.hash, solution, reported)
    if competition.name == "demo":
        board = pd.concat([_ceiling(competition, data_dir, table, solution, reported), board], ignore_index=True)
    path = write_csv(home() / "runs" / competition.name / "leaderboard.csv", board, float_format="%.6g")
    show_board(competition, board, scored_counts(label_cells(competition, table)))
    _footnotes(competition, table, solution, reported)
    is_public = None if solution is None else solution["usage"].eq("Public")
    report_agreement(competition, len(table), {} if solution is None else {
        "public": int(is_public.sum()), "private": int((~is_public).sum())})
    print(f"all columns: {path}")
    return board


def read_reported(competition: Competition, data_dir: Path, folds: Folds) -> dict[str, pd.DataFrame]:
    """The tables of the parts that are reported and nothing else: "official_validation" and "holdout", where there are such."""
    reported = {}
    if competition.official_validation and competition.official_validation.labelled:
        reported["official_validation"] = read_part(competition, data_dir, "official_validation")
    holdout = read_holdout(competition, data_dir, folds)
    return reported if holdout is None else reported | {"holdout": holdout}


def make_board(competition: Competition, table: pd.DataFrame, folds_hash: str, solution: pd.DataFrame | None,
               reported: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a run, a blend or a floor, best first; runs with missing folds come last and have no rank."""
    rates = prevalence(scoring_targets(label_cells(competition, table)))
    rows = []
    floors = {"floor: prevalence": np.nan_to_num(rates, nan=0.5), "floor: all negative": np.zeros_like(rates)}
    for name, constant in floors.items():
        test_probs = None if solution is None else constant_probs(constant, len(solution))
        floor = Oof(name, constant_probs(constant, len(table)), (), ())
        part_probs = {part: constant_probs(constant, len(images)) for part, images in reported.items()}
        rows.append(_score_row(competition, table, floor, solution, test_probs, tuned=False)
                    | _report_parts(competition, table, floor, reported, part_probs, tuned=False) | {"run": name})
    for name in tqdm(list_runs(competition), desc="scoring", unit="run", leave=False, disable=None):
        try:
            oof = read_oof(competition, name, table, folds_hash)
            rule_for(competition, oof, METRICS[competition.metric].uses, submitted=True)
        except (ValueError, FileNotFoundError) as error:  # one stale run must not hide all others
            rows.append({"run": name, "status": f"not counted: {error}"})
            continue
        if not oof.is_whole:
            rows.append({"run": name, "status": f"lacks folds {', '.join(map(str, oof.folds_missing))}"})
            continue
        test_probs = None if solution is None else read_predictions(competition, oof, "test", solution["image_id"])
        part_probs = {part: read_predictions(competition, oof, part, images["image_id"])
                      for part, images in reported.items()}
        results = [run.result for run in oof.runs]
        no_probs = dict.fromkeys(("brier", "f1_at_half", "accuracy"), np.nan) if oof.kind == "rank_mean" else {}
        rows.append(_score_row(competition, table, oof, solution, test_probs) | no_probs
                    | _report_parts(competition, table, oof, reported, part_probs) | {
            "run": name,
            "splits": " ".join(map(str, sorted({run.experiment.split for run in oof.runs}))),
            "seconds": sum(result["seconds"] for result in results) / table["fold"].nunique(),
            "parameters": sum(result["parameters"] for result in results) // table["fold"].nunique(),
            "not_learned": sum(not result["learned"] for result in results),
        })
    board = pd.DataFrame(rows)
    sign = -1 if METRICS[competition.metric].greater_is_better else 1
    order = (sign * board["cv"]).sort_values(kind="stable", na_position="last").index
    board = board.loc[order].reset_index(drop=True)
    is_ranked = board["status"].eq("whole") & ~board["run"].str.startswith("floor")
    board.insert(0, "rank", is_ranked.cumsum().where(is_ranked).astype("Int64"))
    return board


def _score_row(competition: Competition, table: pd.DataFrame, oof: Oof, solution: pd.DataFrame | None,
               test_probs: np.ndarray | None, tuned: bool = True) -> dict:
    """Every figure of one set of out-of-fold probabilities (N, K), and of test probabilities where a solution is there.

    All but those by label count the labels that the competition counts.
    tuned: by the run's rule, fitted on the other folds of its own split; else decisions are made at 0.5.
    """
    task, metric, probs = competition.task, METRICS[competition.metric], oof.probs
    targets, folds = scored_targets(competition, table), fold_numbers(table, oof.split)
    half = untuned_rule(competition, "decisions").crossfit(targets, probs, folds)
    rule = rule_for(competition, oof, metric.uses) if tuned else untuned_rule(competition, metric.uses)
    values = rule.crossfit(targets, probs, folds)
    fold_scores = np.array([metric.score(targets[folds == fold], values[folds == fold], task)
                            for fold in np.unique(folds)])
    fold_scores = fold_scores[~np.isnan(fold_scores)]
    low, high = score_interval(competition.metric, targets, values, task, table["group"].to_numpy(str))
    black = table["constant"].to_numpy()
    row = {
        "status": "whole",
        "cv": metric.score(targets, values, task),
        "low": low,
        "high": high,
        "fold_mean": fold_scores.mean() if len(fold_scores) else np.nan,
        "fold_sd": fold_scores.std(ddof=1) if len(fold_scores) > 1 else np.nan,
        "cv_without_black": metric.score(targets[~black], values[~black], task),
        "cv_black": metric.score(targets[black], values[black], task) if black.any() else np.nan,
        "f1_at_half": METRICS["f1_macro"].score(targets, half, task),
        "f1_crossfit": METRICS["f1_macro"].score(
            targets, crossfit_decisions(targets, probs, folds, task) if tuned else half, task),
        "accuracy": score("accuracy", targets, probs, task),
        "roc_auc": score("roc_auc", targets, probs, task),
        "average_precision": score("average_precision", targets, probs, task),
        "brier": brier(targets, probs, task),
        "images": len(table),
    }
    for name, by_label in (("auc", roc_auc_by_label), ("ap", average_precision_by_label)):
        values = by_label(scoring_targets(label_cells(competition, table)), probs)
        row |= {f"{name}_{label}": value for label, value in zip(competition.labels, values, strict=True)}
    if tuned:  # a rule for the prevalence of the test part is for that part alone
        rule = rule_for(competition, oof, metric.uses, submitted=True)
    return row | _test_scores(competition, targets, probs, solution, test_probs, rule)


def _test_scores(competition: Competition, targets: np.ndarray, probs: np.ndarray, solution: pd.DataFrame | None,
                 test_probs: np.ndarray | None, rule: DecisionRule) -> dict:
    """The metric on each part of the solution, by a rule that is fitted on the oof predictions."""
    if test_probs is None:
        return {}
    task, metric = competition.task, METRICS[competition.metric]
    truth, values = scored_targets(competition, solution), rule.fit(targets, probs).apply(test_probs)
    scores = {}
    for usage in sorted(solution["usage"].unique()):
        part = (solution["usage"] == usage).to_numpy()
        scores[usage.lower()] = metric.score(truth[part], values[part], task)
        scores[f"{usage.lower()}_roc_auc"] = score("roc_auc", truth[part], test_probs[part], task)
        scores[f"{usage.lower()}_accuracy"] = score("accuracy", truth[part], test_probs[part], task)
    return scores


def _report_parts(competition: Competition, table: pd.DataFrame, oof: Oof, reported: dict[str, pd.DataFrame],
                  part_probs: dict[str, np.ndarray | None], tuned: bool = True) -> dict:
    """The metric on each part that is reported, with its interval, by the run's rule fitted on the oof."""
    task, metric, row = competition.task, METRICS[competition.metric], {}
    rule = rule_for(competition, oof, metric.uses) if tuned else untuned_rule(competition, metric.uses)
    fitted = rule.fit(scored_targets(competition, table), oof.probs)
    for part, images in reported.items():
        if (probs := part_probs[part]) is None:
            continue
        truth, values = scored_targets(competition, images), fitted.apply(probs)
        low, high = score_interval(competition.metric, truth, values, task, images["group"].to_numpy(str))
        row |= {part: metric.score(truth, values, task), f"{part}_low": low, f"{part}_high": high,
                f"{part}_images": len(images)}
        row |= {f"{part}_auc_{label}": auc for label, auc in zip(competition.labels, roc_auc_by_label(
            scoring_targets(label_cells(competition, images)), probs), strict=True)}
    return row


def _ceiling(competition: Competition, data_dir: Path, table: pd.DataFrame, solution: pd.DataFrame | None,
             reported: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What the demo's truth allows: the scores of every label's posterior probability given what was drawn."""
    from data.demo import read_truth

    truth = read_truth(data_dir).set_index("image_id")
    columns = [f"posterior_{label}" for label in competition.labels]
    test_probs = None if solution is None else truth.loc[solution["image_id"], columns].to_numpy(float)
    ceiling = Oof("ceiling: the posterior", truth.loc[table["image_id"], columns].to_numpy(float), (), ())
    part_probs = {part: truth.loc[images["image_id"], columns].to_numpy(float) for part, images in reported.items()}
    row = _score_row(competition, table, ceiling, solution, test_probs)
    return pd.DataFrame([row | _report_parts(competition, table, ceiling, reported, part_probs)
                         | {"run": ceiling.name}])


def show_board(competition: Competition, board: pd.DataFrame, counts: np.ndarray) -> None:
    """Prints two tables: the ranking, and AUC and average precision by label.

    counts: (K, 2) certain cells and positives of every label.
    """
    console, metric = make_console(), METRICS[competition.metric]
    usages = [usage for usage in ("public", "private", "test") if usage in board and board[usage].notna().any()]
    parts = {part: f"{part}, n {board[f'{part}_images'].max():.0f}" for part in ("official_validation", "holdout") if part in board}
    ranking = Table("", "run", f"CV {metric.title}", "95 % interval", "folds", "w/o black", "F1 at .5", "F1 cross-fit",
                    "Brier", *usages, *parts.values(), "s a fold", "parameters",
                    title=f"{competition.name}: {metric.title} over {int(board['images'].max())} images")
    for row in board.to_dict("records"):
        if row["status"] != "whole":
            ranking.add_row("", row["run"], "-" if len(row["status"]) > 40 else row["status"], style="yellow")
            continue
        ranked = not pd.isna(row["rank"]) if "rank" in row else False
        ranking.add_row(
            str(row["rank"]) if ranked else "", row["run"] + _remark(row), number(row["cv"]),
            f"{number(row['low'])} - {number(row['high'])}",
            f"{number(row['fold_mean'])} ± {number(row['fold_sd'], 3)}",
            *(number(row[name]) for name in ("cv_without_black", "f1_at_half", "f1_crossfit", "brier")),
            *(number(row[name]) for name in (*usages, *parts)),
            number(row.get("seconds"), 0), f"{row['parameters']:,.0f}" if ranked else "",
            style=None if ranked else "dim")
    console.print(ranking)
    by_label = Table("run", *(f"{label}\nAUC / AP" for label in competition.labels), title="by label")
    by_label.add_row("positive of certain cells", *(f"{positive} of {certain}" for certain, positive in counts),
                     style="dim", end_section=True)
    for row in board[board["status"] == "whole"].to_dict("records"):
        by_label.add_row(row["run"], *(f"{number(row[f'auc_{label}'], 3)} / {number(row[f'ap_{label}'], 3)}"
                                       for label in competition.labels))
    console.print(by_label)
    for row in board[board["status"].str.startswith("not counted")].to_dict("records"):
        console.print(f"{row['run']} is {row['status']}", style="yellow")


def _remark(row: dict) -> str:
    failed, splits = row.get("not_learned"), row.get("splits")
    remark = f" ({failed:.0f} folds did not learn)" if failed and not pd.isna(failed) else ""
    return remark if splits in (None, "0") or pd.isna(splits) else f"{remark} (split {splits.replace(' ', ' and ')})"


def _footnotes(competition: Competition, table: pd.DataFrame, solution: pd.DataFrame | None,
               reported: dict[str, pd.DataFrame]) -> None:
    cells = label_cells(competition, table)
    print(f"Cross-validation over {table['fold'].nunique()} folds of {table['group'].nunique()} groups; the intervals "
          f"draw whole groups. {(~np.isin(cells, (0, 1))).sum()} uncertain or blank cells and no other are left out of "
          f"the scores; {table['constant'].sum()} black images are in, predicted by the prior.")
    if competition.scored_labels:
        print(f"{len(competition.scored_labels)} of {len(competition.labels)} labels count: {', '.join(competition.scored_labels)}")
    for part, images in reported.items():
        counted = competition.scored_labels or competition.labels
        positive = scored_counts(label_cells(competition, images))[np.isin(competition.labels, counted), 1]
        print(f"{part}: {len(images)} images of {images['group'].nunique()} groups, reported only; positives: "
              + ", ".join(f"{label} {n}" for label, n in zip(
                  [label for label in competition.labels if label in counted], positive, strict=True)))
    undefined = undefined_labels(scoring_targets(cells))
    if undefined.any():
        print(f"undefined, one class only: {', '.join(np.array(competition.labels)[undefined])}")
    if solution is not None:
        truth = scoring_targets(label_cells(competition, solution))
        for usage in sorted(solution["usage"].unique()):
            part = (solution["usage"] == usage).to_numpy()
            missing = np.array(competition.labels)[undefined_labels(truth[part])]
            print(f"{usage.lower()}: {part.sum()} test images" + (
                f"; undefined there and left out of the mean: {', '.join(missing)}" if len(missing) else ""))


if __name__ == "__main__":
    run_script(main)
