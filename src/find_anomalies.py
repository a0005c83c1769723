"""Score images that are unlike the normal ones:  python src/find_anomalies.py --competition demo

For each fold, models learn from the normal images of the other folds and score the fold's images and the test images:
reconstruction error of an autoencoder, kernel density of its codes, either of the two above its threshold, and the
distance of a frozen network's features. Thresholds come from held-out normal images. Tables, scores and pictures are
written to runs/<competition>/anomaly/. Afterwards, submit.py --check warns if test images are unlike training images.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from auditing.anomaly_plots import draw_reconstructions, draw_scores
from auditing.anomaly_scores import CHUNK, LEAST, detection, fit_density, fit_distance, fit_scale, hold_out, normal_mask
from auditing.ood import anomaly_features, anomaly_store
from commandline import load_workspace, make_parser, run_script
from common.console import make_console, number, plural, short_id
from common.files import json_ready, write_csv, write_json
from common.hardware import pick_device, tune_process
from competition import Competition
from data.pixel_store import PixelStore
from data.tables import submitted_part
from results.runs import run_folder
from results.workspace import Workspace

if TYPE_CHECKING:
    from auditing.autoencoder import Autoencoder

METHODS = {
    "reconstruction": "autoencoder: reconstruction error",
    "density": "autoencoder: kernel density of the codes",
    "either": "either of the two above its threshold (004)",
    "features": "distance of frozen features",
}
EXAMPLES = 3  # of a kind in reconstructions.png
SEED = 0


@dataclass(frozen=True)
class Images:
    """One part's images: ids and groups (N,), whether each is an anomaly, (N,) 0, 1 or NaN for unknown, and pixels."""

    part: str
    ids: np.ndarray
    groups: np.ndarray
    is_anomaly: np.ndarray
    constant: np.ndarray  # (N,) bool
    store: PixelStore
    rows: np.ndarray  # their rows in the store

    def features(self, chosen: np.ndarray) -> np.ndarray:
        """(n, D) features of a frozen network for the chosen images."""
        return anomaly_features(self.store)[self.rows[chosen]]


def main(argv: list[str] | None = None) -> pd.DataFrame:
    """Scores all images; returns how well each method detects anomalies, one row a part and method."""
    args = make_parser(__doc__).parse_args(argv)
    tune_process()
    workspace = load_workspace(args)
    return find_anomalies(workspace)


def find_anomalies(workspace: Workspace) -> pd.DataFrame:
    """Fits the models of each fold; writes scores, the table of detection and the pictures; returns the table.

    Raises ValueError if too few images are normal, or if no class means normal.
    """
    competition = workspace.competition
    console, folder = make_console(), run_folder(competition, "anomaly")
    is_anomaly, rule = normal_mask(competition, workspace.table)
    train = read_images(competition, "train", workspace.table, is_anomaly, workspace.table["constant"].to_numpy())
    fold_of = workspace.table["fold"].to_numpy()
    normal = {fold: np.flatnonzero((train.is_anomaly == 0) & (fold_of != fold))
              for fold in range(workspace.folds.count)}
    for fold, rows in normal.items():
        if len(rows) < 2 * LEAST:
            raise ValueError(f"outside fold {fold} there are {len(rows)} normal images ({rule}); {2 * LEAST} are "
                             f"needed, {LEAST} to learn from and {LEAST} to set a threshold")
    _print_counts(console, train, rule)
    test = read_test(workspace)
    parts = [train, test] if test else [train]
    train_scores, test_scores, models = np.full((len(train.ids), len(METHODS)), np.nan), [], {}
    for fold, rows in normal.items():
        held_out = np.flatnonzero((fold_of == fold) & ~train.constant)
        models[fold], score = fit_fold(fold, train, rows)
        train_scores[held_out] = score(train, held_out)
        if test:
            test_scores.append(score(test, np.arange(len(test.ids))))
    scores = [train_scores, np.mean(test_scores, axis=0)] if test else [train_scores]
    board = pd.DataFrame([{"part": images.part, "method": method}
                          | detection(images.is_anomaly, values[:, m], images.groups)
                          for images, values in zip(parts, scores, strict=True) for m, method in enumerate(METHODS)])
    write_csv(folder / "scores.csv", pd.concat([_score_frame(*pair) for pair in zip(parts, scores, strict=True)]),
              float_format="%.6g")
    write_csv(folder / "detection.csv", board, float_format="%.6g")
    write_json(folder / "detection.json", {"normal": rule, "folds": workspace.folds.hash, "rows": json_ready(board, 6)})
    show_board(competition, board)
    for images, values in zip(parts, scores, strict=True):
        draw_scores(competition.name, images.part, METHODS, images.is_anomaly, values,
                    folder / f"scores_{images.part}.png")
    draw_reconstructions(competition.name, _examples(train, train_scores, fold_of, models),
                         folder / "reconstructions.png")
    console.print(f"Plots: {folder / 'reconstructions.png'}, {folder / 'scores_train.png'}; scores of all images: "
                  f"{folder / 'scores.csv'}", soft_wrap=True)
    return board


def _print_counts(console: Console, train: Images, rule: str) -> None:
    counts = {"are normal": train.is_anomaly == 0, "are not": train.is_anomaly == 1,
              "are unknown": np.isnan(train.is_anomaly) & ~train.constant,
              "are constant and left out": train.constant}
    console.print(f"{rule}. Of {len(train.ids):,} training images, "
                  + ", ".join(f"{rows.sum():,} {kind}" for kind, rows in counts.items() if rows.any()) + ".")


def read_images(competition: Competition, part: str, table: pd.DataFrame, is_anomaly: np.ndarray,
                constant: np.ndarray | None = None) -> Images:
    """A part's images with their pixels. constant: (N,) bool; constant images are never normal or anomalies."""
    store = anomaly_store(competition, part, table)
    rows = store.rows(table["image_id"])
    constant = store.constant[rows] if constant is None else constant | store.constant[rows]
    return Images(part, table["image_id"].to_numpy(str), table["group"].to_numpy(str),
                  np.where(constant, np.nan, is_anomaly), constant, store, rows)


def read_test(workspace: Workspace) -> Images | None:
    """The submitted part's images, None if there is no such part; its labels come from the solution, for reporting."""
    competition = workspace.competition
    if (part := submitted_part(competition)) is None:
        return None
    table, solution = workspace.part(part), workspace.solution
    is_anomaly = np.full(len(table), np.nan)
    if solution is not None:
        known, _ = normal_mask(competition, solution)
        is_anomaly = pd.Series(known, index=solution["image_id"]).reindex(table["image_id"]).to_numpy()
    return read_images(competition, part, table, is_anomaly)


def fit_fold(fold: int, train: Images, rows: np.ndarray) -> tuple["Autoencoder", Callable]:
    """The fold's autoencoder, and a function from images and rows (n,) to scores (n, M), NaN for constant images.

    rows: the normal images of the other folds.
    """
    started = time.perf_counter()
    is_held = hold_out(train.groups[rows], SEED)
    learning, calibrating = rows[~is_held], rows[is_held]
    model, raw_scores, bandwidth = _fit_models(fold, train, learning)
    raw = raw_scores(train, calibrating)
    scales = [fit_scale(column) for column in raw.T]
    either = fit_scale(_apply(scales, raw)[:, :2].max(axis=1))

    def score(images: Images, chosen: np.ndarray) -> np.ndarray:
        scores, usable = np.full((len(chosen), len(METHODS)), np.nan), ~images.constant[chosen]
        values = _apply(scales, raw_scores(images, chosen[usable]))
        scores[usable] = np.insert(values, 2, either(values[:, :2].max(axis=1)), axis=1)
        return scores

    print(f"fold {fold}: models from {plural(len(learning), 'normal image')}, thresholds from {len(calibrating):,} "
          f"others; bandwidth {bandwidth:.2f}, {time.perf_counter() - started:.0f} s")
    return model, score


def _apply(scales: list[Callable], raw: np.ndarray) -> np.ndarray:
    return np.stack([scale(column) for scale, column in zip(scales, raw.T, strict=True)], axis=1)


def _fit_models(fold: int, train: Images, learning: np.ndarray) -> tuple:
    """The autoencoder, a function from images and rows (n,) to raw scores (n, 3), and the density's bandwidth."""
    from auditing.autoencoder import STEPS, errors_and_codes, train_autoencoder

    model = train_autoencoder(train.store, train.rows[learning], SEED + fold, STEPS, f"fold {fold}, autoencoder",
                              pick_device())
    codes = errors_and_codes(model, train.store, train.rows[learning])[1]
    density, bandwidth = fit_density(codes, train.groups[learning], SEED)
    distance = fit_distance(train.features(learning), SEED)

    def raw_scores(images: Images, rows: np.ndarray) -> np.ndarray:
        errors, codes = errors_and_codes(model, images.store, images.rows[rows], f"fold {fold}, {images.part}")
        parts = np.split(rows, range(CHUNK, len(rows), CHUNK))  # all features at once would take gigabytes
        distances = np.concatenate([distance(images.features(part)) for part in parts])
        return np.stack([errors, density(codes), distances], axis=1)

    return model, raw_scores, bandwidth


def _score_frame(images: Images, scores: np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame(scores, columns=list(METHODS))
    frame.insert(0, "image_id", images.ids)
    frame.insert(0, "part", images.part)
    return frame


def _examples(train: Images, scores: np.ndarray, fold_of: np.ndarray,
              models: dict[int, "Autoencoder"]) -> list[list[tuple[str, np.ndarray, np.ndarray]]]:
    """The best and worst reconstructions of held-out images, normal and not, at most one a group: draw_reconstructions.
    """
    from auditing.autoencoder import reconstruct

    values, examples = scores[:, 0], []
    for kind, name in ((0, "normal"), (1, "not normal")):
        for sign, which in ((1, "lowest error"), (-1, "highest error")):
            rows = np.flatnonzero(train.is_anomaly == kind)
            rows = rows[np.argsort(sign * values[rows], kind="stable")]
            _, first = np.unique(train.groups[rows], return_index=True)
            shown = []
            for row in rows[np.sort(first)][:EXAMPLES]:
                image, back, _ = next(reconstruct(models[fold_of[row]], train.store, train.rows[[row]]))
                text = f"{name}, {which}\n{short_id(train.ids[row])}\nscore {values[row]:.2f}"
                shown.append((text, image[0], back[0]))
            examples += [shown] if shown else []
    return examples


def show_board(competition: Competition, board: pd.DataFrame) -> None:
    """Prints how well each method detects anomalies, with 95 % intervals over groups."""
    console = make_console()
    names = {"roc_auc": "AUROC", "average_precision": "AUPRC", "sensitivity": "sensitivity",
             "specificity": "specificity"}
    for part, rows in board.groupby("part", sort=False):
        images, anomalies = rows["images"].iloc[0], rows["anomalies"].iloc[0]
        shown = Table("method", *names.values(), title=f"{competition.name}, {part}: detection of {anomalies:,} "
                      f"anomalies among {images:,} images (95 % intervals)")
        for row in rows.to_dict("records"):
            shown.add_row(METHODS[row["method"]], *(
                "-" if np.isnan(row[name]) else
                f"{number(row[name], 3)} ({number(row[f'{name}_low'], 3)}–{number(row[f'{name}_high'], 3)})"
                for name in names))
        console.print(shown)
        if anomalies in (0, images):
            console.print(f"{part}: detection cannot be scored without both normal images and anomalies",
                          style="yellow")
        else:
            console.print(f"An AUPRC of {anomalies / images:.3f} is reached by chance.")
    console.print("Sensitivity and specificity are at the threshold that 95 % of held-out normal images do not exceed.")


if __name__ == "__main__":
    run_script(main)
