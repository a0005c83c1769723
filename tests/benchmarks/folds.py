"""Ways to split 112,120 and 223,000 images, how even and how leaky: python tests/benchmarks/folds.py [--nih FILE]."""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold  # noqa: E402

from competition import CHEXPERT_LABELS, NIH_LABELS  # noqa: E402
from data.splitting import fold_report, grouped_folds, holdout_mask, make_strata  # noqa: E402

FOLDS, SEED = 5, 0
NIH_TABLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "nih_labels" / "Data_Entry_2017_v2020.csv.gz"
# certain positives and uncertain cells among the 191,229 frontal images of CheXpert-small
CHEXPERT_ROWS, CHEXPERT_COUNTS = 191_229, {
    "No Finding": (17000, 0), "Enlarged Cardiomediastinum": (9292, 10286), "Cardiomegaly": (23451, 6707),
    "Lung Opacity": (94328, 4431), "Lung Lesion": (7041, 1108), "Edema": (49717, 11818),
    "Consolidation": (13015, 24381), "Pneumonia": (4683, 15981), "Atelectasis": (29795, 29863),
    "Pneumothorax": (17700, 2708), "Pleural Effusion": (76963, 9578), "Pleural Other": (2506, 1812),
    "Fracture": (7436, 499), "Support Devices": (107269, 915)}
STATED_ABSENT = 0.1  # of the cells that are neither: a stated 0; the others are blank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nih", type=Path, default=NIH_TABLE, help="the label table of ChestX-ray14, .csv or .csv.gz")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # a child process's order: TABLE WAY
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure, arguments.nih)
        return
    for name in TABLES:
        if name == "ChestX-ray14" and not arguments.nih.exists():
            print(f"there is no {arguments.nih}; give the table with --nih")
            continue
        compare(name, arguments.nih)


def compare(name: str, nih: Path) -> None:
    """Every way in a process of its own, since Linux keeps one peak of memory a process."""
    shown = Table(title=f"{name}, {FOLDS} folds: how far a fold's prevalence of a label is from the whole's")
    for column in ("way", "seconds", "peak MB", "farthest", "mean over labels", "labels uneven", "images a fold",
                   "patients split"):
        shown.add_column(column, justify="left" if column == "way" else "right")
    for way in WAYS:
        command = [sys.executable, "-W", "ignore", __file__, "--nih", str(nih), "--measure", name, way]
        shown.add_row(way, *subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\t"))
    Console(width=160).print(shown)


def measure(name: str, way: str, nih: Path) -> None:
    """In a process of its own: prints the cells of a row."""
    cells, groups, columns = TABLES[name](nih)
    before, started = megabytes(), time.perf_counter()
    folds = WAYS[way](cells, groups, columns)
    seconds, memory = time.perf_counter() - started, megabytes()
    kept = folds >= 0
    report = fold_report(cells[kept], groups[kept], folds[kept])
    deviation = report.prevalence_deviation
    worst = int(np.nanargmax(deviation))
    split = pd.Series(folds).groupby(groups).nunique().gt(1).sum()
    print(f"{seconds:.1f}", f"{memory:.0f} ({before:.0f} before)", f"{deviation[worst]:.2%} ({LABELS[name][worst]})",
          f"{np.nanmean(deviation):.2%}", f"{report.uneven.sum()} of {len(report.uneven)}",
          f"{report.images.min():,} to {report.images.max():,}", f"{split:,}", sep="\t")


def megabytes() -> float:
    """The most memory that this process has had, which Linux keeps in kilobytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


# ---- tables: label cells (N, K), patients (N,), other columns


def read_nih(path: Path) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    table = pd.read_csv(path, dtype=str, index_col=False)
    cells = table["Finding Labels"].str.get_dummies("|").reindex(columns=list(NIH_LABELS)).to_numpy(float)
    return cells, table["Patient ID"].to_numpy(str), table[["Patient Age", "Patient Gender", "View Position"]]


def draw_chexpert(path: Path) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """223,000 images of 64,500 patients; as many cells of each kind as CheXpert has, alike within a patient."""
    rows, patients = 223_000, 64_500
    rng = np.random.default_rng(SEED)
    weights = rng.lognormal(0, 1.2, patients)
    patient = np.concatenate([np.arange(patients), rng.choice(patients, rows - patients, p=weights / weights.sum())])
    cells = np.empty((rows, len(CHEXPERT_COUNTS)))
    for k, (positive, uncertain) in enumerate(CHEXPERT_COUNTS.values()):
        severity = rng.normal(size=patients)[patient] + rng.normal(size=rows)
        order = severity.argsort()[::-1]
        ends = np.array([positive, positive + uncertain]) * rows // CHEXPERT_ROWS
        cells[order, k] = np.where(rng.random(rows) < STATED_ABSENT, 0, np.nan)
        cells[order[:ends[0]], k], cells[order[ends[0]:ends[1]], k] = 1, -1
    others = pd.DataFrame({"Age": rng.integers(18, 91, patients)[patient].astype(str),
                           "Sex": rng.choice(["Male", "Female"], patients)[patient],
                           "AP/PA": rng.choice(["AP", "PA", ""], rows, p=[0.7, 0.15, 0.15])})
    return cells, np.array([f"patient{number:05}" for number in patient]), others


TABLES = {"ChestX-ray14": read_nih, "drawn like CheXpert": draw_chexpert}
LABELS = {"ChestX-ray14": NIH_LABELS, "drawn like CheXpert": CHEXPERT_LABELS}


# ---- ways: (cells, patients, other columns) -> folds (N,), -1 for what is held out


def ours(cells: np.ndarray, groups: np.ndarray, columns: pd.DataFrame) -> np.ndarray:
    return grouped_folds(cells, groups, FOLDS, SEED)


def ours_with_all(cells: np.ndarray, groups: np.ndarray, columns: pd.DataFrame) -> np.ndarray:
    strata = [make_strata(columns[column])[0] for column in columns]
    held_out = holdout_mask(cells, groups, 0.2, FOLDS, SEED, strata)
    folds = np.full(len(cells), -1)
    kept = ~held_out
    folds[kept] = grouped_folds(cells[kept], groups[kept], FOLDS, SEED, [codes[kept] for codes in strata])
    return folds


def held_out_by(splitter: object, cells: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> np.ndarray:
    folds = np.empty(len(cells), int)
    for fold, (_, rows) in enumerate(splitter.split(cells, targets, groups)):
        folds[rows] = fold
    return folds


def by_group(cells: np.ndarray, groups: np.ndarray, columns: pd.DataFrame) -> np.ndarray:
    return held_out_by(GroupKFold(FOLDS), cells, None, groups)


def by_combination(cells: np.ndarray, groups: np.ndarray, columns: pd.DataFrame) -> np.ndarray:
    combination = np.unique((cells == 1).astype(int), axis=0, return_inverse=True)[1].ravel()
    return held_out_by(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED), cells, combination, groups)


def by_rarest(cells: np.ndarray, groups: np.ndarray, columns: pd.DataFrame) -> np.ndarray:
    rarest = np.zeros(len(cells), int)  # 0: no label at all
    for k in (cells == 1).sum(axis=0).argsort()[::-1]:
        rarest[cells[:, k] == 1] = k + 1
    return held_out_by(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED), cells, rarest, groups)


def by_image(cells: np.ndarray, groups: np.ndarray, columns: pd.DataFrame) -> np.ndarray:
    splitter = MultilabelStratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    return held_out_by(splitter, cells, (cells == 1).astype(int), None)


WAYS: dict[str, Callable] = {
    "ours": ours,
    "ours, 20 % held out, also by 3 columns": ours_with_all,
    "GroupKFold": by_group,
    "StratifiedGroupKFold, label combination": by_combination,
    "StratifiedGroupKFold, rarest label": by_rarest,
    "iterative, images: leaks": by_image,
}


if __name__ == "__main__":
    main()
