"""Which images are unlike the normal ones:  python src/find_anomalies.py --competition demo

Learns from normal images alone, those of the other folds, and scores the held-out fold's: the reconstruction error of
an autoencoder, a kernel density of its codes, either of the two above a threshold, and the distance of a frozen
network's features. Thresholds come from normal images held out, never from the others. Tables, scores and pictures go
to runs/<competition>/anomaly/; folds that are finished are kept. predict.py --check then warns of test images that are
unlike all training images.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich.table import Table

from auditing.anomaly_plots import Rebuilt, draw_rebuilt, draw_scores
from auditing.anomaly_scores import CHUNK, LEAST, Scale, detection, fit_density, fit_distance, hold_out, normal_mask
from auditing.ood import odd_features, odd_store
from commandline import load_competition, load_folded_table, make_parser, run_script
from common.console import make_console
from common.files import json_ready, read_csv, read_json, replace_atomically, sha256, write_csv, write_json
from common.hardware import pick_device, tune_process
from competition import Competition
from data.folds import Folds
from data.pixel_store import PixelStore
from data.tables import read_part, read_solution, submitted_part
from results.runs import run_folder

if TYPE_CHECKING:
    from auditing.autoencoder import Autoencoder

METHODS = {
    "reconstruction": "autoencoder: reconstruction error",
    "density": "autoencoder: kernel density of the codes",
    "either": "either of the two above its threshold (004)",
    "features": "distance of frozen features",
}
EXAMPLES = 4  # of a kind on the sheet of reconstructions
SEED = 0
FORMAT = 1  # of what a fold keeps: raise it when the same inputs come to give other scores


@dataclass(frozen=True)
class Images:
    """One part's images: ids and groups (N,), what is known of them, (N,) 0 normal, 1 odd, NaN unknown, and pixels."""

    part: str
    ids: np.ndarray
    groups: np.ndarray
    odd: np.ndarray
    is_black: np.ndarray
    store: PixelStore
    rows: np.ndarray  # where they stand in the store

    def features(self, chosen: np.ndarray) -> np.ndarray:
        """(n, D) of a frozen network, of these of the images."""
        return odd_features(self.store)[self.rows[chosen]]


def main(argv: list[str] | None = None) -> pd.DataFrame:
    """Scores all images; returns how well each method detects, one row a part and method."""
    args = make_parser(__doc__).parse_args(argv)
    tune_process()
    competition, data_dir = load_competition(args)
    table, folds = load_folded_table(competition, data_dir)
    return find_anomalies(competition, data_dir, table, folds)


def find_anomalies(competition: Competition, data_dir: Path, table: pd.DataFrame, folds: Folds) -> pd.DataFrame:
    """Every fold's models, the scores, the table and the pictures; returns the table.

    Raises ValueError where too few images are normal, or no class means normal.
    """
    console, folder = make_console(), run_folder(competition, "anomaly")
    odd, said = normal_mask(competition, table)
    train = read_images(competition, "train", table, odd, table["constant"].to_numpy())
    fold_of = table["fold"].to_numpy()
    learnt = {fold: np.flatnonzero((train.odd == 0) & (fold_of != fold)) for fold in range(folds.count)}
    for fold, rows in learnt.items():
        _refuse_too_few(train.groups[rows], fold, said)
    console.print(f"{said}. {(train.odd == 0).sum():,} training images are normal, {(train.odd == 1).sum():,} are not, "
                  f"{(np.isnan(train.odd) & ~train.is_black).sum():,} are not said to be either, "
                  f"{train.is_black.sum():,} are black and left out")
    test = read_test(competition, data_dir)
    parts = [train, test] if test else [train]
    train_scores = np.full((len(train.ids), len(METHODS)), np.nan)
    test_scores = []
    for fold, rows in learnt.items():
        held = np.flatnonzero((fold_of == fold) & ~train.is_black)
        kept = _score_fold(folder / f"fold{fold}", fold, folds, train, test, rows, held)
        train_scores[held] = kept["train"]
        test_scores.append(kept.get("test"))
    scores = [train_scores, np.mean(test_scores, axis=0)] if test else [train_scores]
    board = pd.DataFrame([{"part": images.part, "method": method} | detection(images.odd, values[:, m], images.groups)
                          for images, values in zip(parts, scores, strict=True) for m, method in enumerate(METHODS)])
    write_csv(folder / "scores.csv", pd.concat([_score_frame(*pair) for pair in zip(parts, scores, strict=True)]),
              float_format="%.6g")
    write_csv(folder / "detection.csv", board, float_format="%.6g")
    write_json(folder / "detection.json", {"normal": said, "folds": folds.hash,
                                           "rows": json_ready(board, 6)})
    show_board(competition, board)
    for images, values in zip(parts, scores, strict=True):
        draw_scores(competition.name, images.part, METHODS, images.odd, values, folder / f"scores_{images.part}.png")
    draw_rebuilt(competition.name, _examples(folder, train, train_scores, fold_of), folder / "reconstructions.png")
    console.print(f"look at {folder / 'reconstructions.png'} and {folder / 'scores_train.png'}; every image's scores: "
                  f"{folder / 'scores.csv'}")
    return board


def read_images(competition: Competition, part: str, table: pd.DataFrame, odd: np.ndarray,
                is_black: np.ndarray | None = None) -> Images:
    """A part's images with their pixels; black ones are of neither kind. is_black (N,): None asks the pixels."""
    store = odd_store(competition, part, table)
    rows = store.rows(table["image_id"])
    is_black = store.constant[rows] if is_black is None else is_black | store.constant[rows]
    return Images(part, table["image_id"].to_numpy(str), table["group"].to_numpy(str),
                  np.where(is_black, np.nan, odd), is_black, store, rows)


def read_test(competition: Competition, data_dir: Path) -> Images | None:
    """The submitted part's images; what is known of them comes from the solution, for reporting alone."""
    if (part := submitted_part(competition)) is None:
        return None
    table, solution = read_part(competition, data_dir, part), read_solution(competition, data_dir)
    odd = np.full(len(table), np.nan)
    if solution is not None:
        told, _ = normal_mask(competition, solution)
        odd = pd.Series(told, index=solution["image_id"]).reindex(table["image_id"]).to_numpy()
    return read_images(competition, part, table, odd)


def _refuse_too_few(groups: np.ndarray, fold: int, said: str) -> None:
    if len(groups) < 2 * LEAST:
        raise ValueError(f"outside fold {fold} there are {len(groups)} normal images ({said}); {2 * LEAST} are needed, "
                         f"{LEAST} to learn from and {LEAST} to find a threshold on")


def _score_fold(folder: Path, fold: int, folds: Folds, train: Images, test: Images | None, rows: np.ndarray,
                held: np.ndarray) -> dict[str, np.ndarray]:
    """(n, M) scores of the fold's images `held` and of the test images (NaN where black), by models of its own.

    rows: the normal images of the other folds. Kept in `folder`, and read again where nothing changed.
    """
    from auditing.autoencoder import BATCH, LR, STEPS

    inputs = {"format": FORMAT, "folds": folds.hash, "training": [STEPS, BATCH, LR], "images": train.store.folder.name,
              "learnt": sha256(*train.ids[rows]), "scored": sha256(*train.ids[held]),
              "test": test.store.folder.name if test else ""}
    wanted = {"train": held} | ({"test": np.arange(len(test.ids))} if test else {})
    parts = {"train": train, "test": test}
    if (folder / "result.json").exists() and read_json(folder / "result.json").get("made_from") == inputs:
        return {part: _read_scores(folder / f"{part}.csv", parts[part].ids[chosen]) for part, chosen in wanted.items()}
    (folder / "result.json").unlink(missing_ok=True)  # it comes last: what stands beside it is whole
    started = time.perf_counter()
    is_held = hold_out(train.groups[rows], SEED)
    learnt, calibrating = rows[~is_held], rows[is_held]
    model, raw_of, bandwidth = _fit(fold, train, learnt)
    raw = raw_of(train, calibrating)
    scales = [Scale.of_held_out(column) for column in raw.T]
    either = Scale.of_held_out(_standardise(raw, scales)[:, :2].max(axis=1))
    scores = {}
    for part, chosen in wanted.items():
        shown = chosen[~parts[part].is_black[chosen]]
        values = _standardise(raw_of(parts[part], shown), scales)
        values = np.insert(values, 2, either.apply(values[:, :2].max(axis=1)), axis=1)
        scores[part] = pd.DataFrame(values, columns=list(METHODS)).set_index(parts[part].ids[shown]).reindex(
            parts[part].ids[chosen])
        write_csv(folder / f"{part}.csv", scores[part].rename_axis("image_id").reset_index(), float_format="%.9g")
    _save(model, folder / "autoencoder.safetensors")
    seconds = time.perf_counter() - started
    write_json(folder / "result.json", {
        "made_from": inputs, "learnt": len(learnt), "held_out": len(calibrating), "bandwidth": bandwidth,
        "scales": {name: asdict(scale) for name, scale in zip(("reconstruction", "density", "features", "either"),
                                                              [*scales, either], strict=True)},
        "seconds": round(seconds, 1)})
    print(f"fold {fold}: learned from {len(learnt):,} normal images, thresholds from {len(calibrating):,} others; "
          f"bandwidth {bandwidth:.2f}, {seconds:.0f} s")
    return {part: frame.to_numpy() for part, frame in scores.items()}


def _fit(fold: int, train: Images, learnt: np.ndarray) -> tuple:
    """The autoencoder, a function from images and rows (n,) to raw scores (n, 3), and the density's bandwidth."""
    from auditing.autoencoder import STEPS, errors_and_codes, train_autoencoder

    model = train_autoencoder(train.store, train.rows[learnt], SEED + fold, STEPS, f"fold {fold}, autoencoder",
                              pick_device())
    codes = errors_and_codes(model, train.store, train.rows[learnt])[1]
    density, bandwidth = fit_density(codes, train.groups[learnt], SEED)
    distance = fit_distance(train.features(learnt), SEED)

    def raw_of(images: Images, rows: np.ndarray) -> np.ndarray:
        errors, codes = errors_and_codes(model, images.store, images.rows[rows], f"fold {fold}, {images.part}")
        parts = np.split(rows, range(CHUNK, len(rows), CHUNK))  # all features at once would be gigabytes
        distances = np.concatenate([distance(images.features(part)) for part in parts])
        return np.stack([errors, density(codes), distances], axis=1)

    return model, raw_of, bandwidth


def _standardise(raw: np.ndarray, scales: list[Scale]) -> np.ndarray:
    return np.stack([scale.apply(column) for scale, column in zip(scales, raw.T, strict=True)], axis=1)


def _read_scores(path: Path, ids: np.ndarray) -> np.ndarray:
    frame = read_csv(path).set_index("image_id").reindex(ids)
    return frame[list(METHODS)].replace("", "nan").to_numpy(float)


def _save(model: "Autoencoder", path: Path) -> None:
    from safetensors.torch import save_file

    with replace_atomically(path) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in model.state_dict().items()}, temporary)


def _score_frame(images: Images, scores: np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame(scores, columns=list(METHODS))
    frame.insert(0, "image_id", images.ids)
    frame.insert(0, "part", images.part)
    return frame


def _examples(folder: Path, train: Images, scores: np.ndarray, fold_of: np.ndarray) -> list[tuple[str, list[Rebuilt]]]:
    """The best and worst reconstructions of held-out images, normal and not, one a group at most."""
    from safetensors.torch import load_file

    from auditing.autoencoder import Autoencoder, rebuild

    values, models, lines = scores[:, 0], {}, []
    for kind, name in ((0, "normal"), (1, "not normal")):
        for sign, which in ((1, "best rebuilt"), (-1, "worst rebuilt")):
            rows = np.flatnonzero(train.odd == kind)
            rows = rows[np.argsort(sign * values[rows], kind="stable")]
            _, first = np.unique(train.groups[rows], return_index=True)
            rebuilt = []
            for row in rows[np.sort(first)][:EXAMPLES]:
                if (fold := fold_of[row]) not in models:
                    models[fold] = Autoencoder(train.store.settings.channels, train.store.settings.size).eval()
                    models[fold].load_state_dict(load_file(folder / f"fold{fold}" / "autoencoder.safetensors"))
                image, back, _ = next(rebuild(models[fold], train.store, train.rows[[row]]))
                rebuilt.append(Rebuilt(train.ids[row], values[row], image[0], back[0]))
            if rebuilt:
                lines.append((f"{name},\n{which}", rebuilt))
    return lines


def show_board(competition: Competition, board: pd.DataFrame) -> None:
    """Prints how well each method detects, with 95 % intervals over groups."""
    console = make_console()
    shown = Table("part", "method", "AUROC", "AUPRC", "sensitivity at 95 % specificity", "sensitivity", "specificity",
                  title=f"{competition.name}: anomalies, learned from normal images alone")
    for number, row in enumerate(board.to_dict("records")):
        cells = (f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]" if not np.isnan(row[name])
                 else "-" for name in ("roc_auc", "average_precision", "sensitivity_at_95", "sensitivity",
                                       "specificity"))
        shown.add_row(row["part"], METHODS[row["method"]], *cells, end_section=(number + 1) % len(METHODS) == 0)
    console.print(shown)
    for part, rows in board.groupby("part", sort=False):
        images, odd = rows["images"].iloc[0], rows["odd"].iloc[0]
        if odd == images or odd == 0:
            console.print(f"{part}: of {images:,} images with known labels {odd:,} are not normal: detection cannot be "
                          "scored without both kinds", style="yellow")
        else:
            console.print(f"{part}: {images:,} images, {odd:,} not normal: an AUPRC of {odd / images:.3f} is had by "
                          "guessing")
    console.print("The last two columns: at the threshold below which 95 % of held-out normal images stay.")


if __name__ == "__main__":
    run_script(main)
