"""A run's folder, runs/<competition>/<name>/fold<k>/: its recipe, its result and its out-of-fold predictions."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from common.commands import command_line
from common.files import home, read_csv, read_json, sha256, write_csv, write_json
from competition import Competition
from data.folds import fold_numbers
from data.pixel_store import image_channels
from experiment import EXPERIMENTS, Experiment, from_recipe, to_recipe
from scoring.blending import Blend, from_json

PROBS_FORMAT = "%.9g"  # enough digits to read a float32 back exactly
DEFAULTS = to_recipe(Experiment())


@dataclass(frozen=True)
class Run:
    """One fold of one experiment on one competition. experiment: what the recipe holds, parsed once."""

    folder: Path
    recipe: dict
    experiment: Experiment

    @property
    def is_done(self) -> bool:
        """Whether the fold is trained."""
        return (self.folder / "result.json").exists()

    @cached_property
    def result(self) -> dict:
        """What result.json holds, read once. Raises FileNotFoundError while the fold is not trained."""
        return read_json(self.folder / "result.json")


def run_folder(competition: Competition, name: str) -> Path:
    """The folder of a run's folds: runs/<competition>/<name>."""
    return home() / "runs" / competition.name / name


def decisions_path(competition: Competition, name: str) -> Path:
    """The file that decide.py writes for a run: runs/<competition>/<run>/decisions.json."""
    return run_folder(competition, name) / "decisions.json"


def open_run(competition: Competition, name: str, fold: int, experiment: Experiment, folds_hash: str,
             command: str = "") -> Run:
    """Opens the folder of one fold of a run, and writes its recipe if it is new.

    command: the command that trains the fold; it is stored in the recipe.
    Raises ValueError if the name is not a valid folder name, or if a fold of the run has another recipe or folds file.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*", name):
        raise ValueError(f"a run cannot be called {name!r}: it names a folder, so use letters, digits and _ . = -")
    if name == "ledger":
        raise ValueError("a run cannot be called 'ledger': its submission would overwrite the ledger")
    folder, found = run_folder(competition, name) / f"fold{fold}", {}
    wanted = {**_described(competition, experiment), "folds_sha256": folds_hash, "experiment": to_recipe(experiment)}
    for path in sorted(folder.parent.glob("fold*/recipe.json")):
        recipe = _read_recipe(path)
        if differs := [key for key in wanted if recipe.get(key) != wanted[key]]:
            raise ValueError(f"{path.parent} holds a run with another {_difference(recipe, wanted, differs[0])}; give "
                             f"the new one a --name of its own, or delete {folder.parent}")
        found[path.parent] = recipe
    if folder not in found:
        found[folder] = {**wanted, "fold": fold, "command": command}
        write_json(folder / "recipe.json", found[folder])
    return Run(folder, found[folder], experiment)


def open_snapshot(run: Run, epoch: int) -> Run:
    """Opens the folder of a snapshot after `epoch`: the same fold of a separate run, for example NAME_epoch8.

    Raises ValueError if that folder holds something else.
    """
    name = run.folder.parent.name
    folder = run.folder.parent.with_name(f"{name}_epoch{epoch}") / run.folder.name
    path, experiment = folder / "recipe.json", replace(run.experiment, snapshots=())
    wanted = {**run.recipe, "experiment": to_recipe(experiment), "snapshot": {"of": name, "epoch": epoch}}
    if path.exists() and _read_recipe(path) | {"command": wanted["command"]} != wanted:
        raise ValueError(f"{folder} holds something other than epoch {epoch} of {name} as it is trained now; delete "
                         f"{folder.parent}, or give this run a --name of its own")
    write_json(path, wanted)
    return Run(folder, wanted, experiment)


def _read_recipe(path: Path) -> dict:
    """Reads recipe.json; fields of Experiment that were added after it was written get their defaults."""
    recipe = read_json(path)
    return {**recipe, "experiment": {**DEFAULTS, **recipe["experiment"]}}


def _described(competition: Competition, experiment: Experiment) -> dict:
    """The part of a recipe that the competition and its images determine."""
    return {"competition": competition.name, "task": competition.task, "labels": list(competition.labels),
            "channels": image_channels(competition, experiment)}


def _difference(recipe: dict, wanted: dict, key: str) -> str:
    if key == "folds_sha256":
        return "folds file"
    if key != "experiment":
        return f"{key} ({recipe.get(key)} there, {wanted[key]} now)"
    there, now = recipe["experiment"], wanted["experiment"]
    names = [name for name in {**there, **now} if there.get(name) != now.get(name)]
    return "recipe (" + ", ".join(f"{name}: {there.get(name)} there, {now.get(name)} now" for name in names) + ")"


def read_run(folder: Path) -> Run:
    """Reads the run in a folder. Raises FileNotFoundError if there is none."""
    if not (folder / "recipe.json").exists():
        raise FileNotFoundError(f"there is no run in {folder}")
    recipe = _read_recipe(folder / "recipe.json")
    return Run(folder, recipe, from_recipe(recipe["experiment"]))


def probs_frame(competition: Competition, image_ids: pd.Series, probs: np.ndarray) -> pd.DataFrame:
    """Predictions (N, K) as a table with the columns `image_id` and one for each label."""
    frame = pd.DataFrame(probs, columns=list(competition.labels))
    frame.insert(0, "image_id", image_ids.to_numpy())
    return frame


def write_probs(path: Path, frame: pd.DataFrame) -> Path:
    """Writes the result of `probs_frame` as CSV; returns the path."""
    return write_csv(path, frame, float_format=PROBS_FORMAT)


def read_probs(path: Path, competition: Competition, image_ids: pd.Series, subset: bool = False) -> np.ndarray:
    """Reads probabilities (N, K) in the order of `image_ids`.

    subset: the file may also hold other images.
    Raises ValueError if ids or columns differ, an id occurs twice or a cell is not a probability.
    """
    frame = read_csv(path)
    hint = f"delete {path.parent if path.name == 'oof.csv' else path} and create it anew"
    if missing := [label for label in ("image_id", *competition.labels) if label not in frame]:
        raise ValueError(f"{path} has no column {missing[0]!r}; {hint}")
    frame = frame.set_index("image_id")
    differing = set(image_ids) - set(frame.index) if subset else set(frame.index) ^ set(image_ids)
    if differing:
        raise ValueError(f"{path} does not hold the same images: {len(differing)} ids differ, for example "
                         f"{sorted(differing)[:3]}; {hint}")
    if not frame.index.is_unique:
        raise ValueError(f"{path} has the image {frame.index[frame.index.duplicated()][0]!r} more than once; {hint}")
    cells = frame.loc[image_ids, list(competition.labels)]
    probs = np.column_stack([pd.to_numeric(cells[label], errors="coerce") for label in cells]).astype(np.float64)
    if (wrong := ~((probs >= 0) & (probs <= 1))).any():
        row, k = np.argwhere(wrong)[0]
        raise ValueError(f"{path}: {cells.iloc[row, k]!r} for image {cells.index[row]!r} is not a probability; {hint}")
    return probs


@dataclass(frozen=True)
class Oof:
    """Out-of-fold predictions of a run or a blend: probs (N, K) in the table's order, NaN where the fold is missing.

    The predictions of a fitted blend are cross-fitted: the weights for a fold are fitted on the other folds. `fit` is
    fitted on all rows and blends the members' predictions of other images.
    """

    name: str
    probs: np.ndarray
    runs: tuple[Run, ...]  # the finished folds; of a blend: those of all its members
    folds_missing: tuple[int, ...]
    members: tuple[str, ...] = ()  # of a blend
    kind: str = ""  # of a blend, one of METHODS
    fit: Blend | None = None  # of a blend

    @property
    def is_whole(self) -> bool:
        return not self.folds_missing

    @property
    def split(self) -> int:
        """The split that all its runs were trained on; 0 for a blend of runs on several splits."""
        splits = {run.experiment.split for run in self.runs}
        return splits.pop() if len(splits) == 1 else 0

    @cached_property
    def made_of(self) -> dict[str, str]:
        """Hashes of the weights by run and fold, and of a fitted blend's parameters as "fit".

        A result that was computed from other hashes is out of date.
        """
        weights = {f"{run.folder.parent.name}/{run.folder.name}": run.result["weights_sha256"] for run in self.runs}
        fitted = self.fit.arrays if self.fit else ()
        return weights | ({"fit": sha256(*(array.tobytes() for array in fitted))} if fitted else {})


def read_oof(competition: Competition, name: str, table: pd.DataFrame, folds_hash: str,
             read_member: Callable[[str], Oof] | None = None) -> Oof:
    """Reads the out-of-fold predictions of a run or a blend.

    Each image is predicted by the model that was trained without its group, in the split of the run. In a blend of
    runs on several splits this holds for every member.
    read_member: reads a blend's members; default: this function.
    Raises ValueError if the folds file, the competition or the recipes of the folds differ, and FileNotFoundError if
    there is neither a run nor an experiment of that name.
    """
    if not run_folder(competition, name).exists() and name not in EXPERIMENTS:
        runs = ", ".join(list_runs(competition)) or "none yet"
        raise FileNotFoundError(f"there is no run {name!r} of {competition.name!r}; the runs are: {runs}")
    if (blend := run_folder(competition, name) / "blend.json").exists():
        return _read_blend(competition, blend, table, folds_hash, read_member or (
            lambda member: read_oof(competition, member, table, folds_hash)))
    folder_of = {fold: run_folder(competition, name) / f"fold{fold}" for fold in sorted(set(table["fold"].tolist()))}
    runs = {fold: read_run(folder) for fold, folder in folder_of.items() if (folder / "result.json").exists()}
    probs = np.full((len(table), len(competition.labels)), np.nan)
    for fold, run in runs.items():
        folder, first = run.folder, next(iter(runs.values()))
        if run.recipe["folds_sha256"] != folds_hash:
            raise ValueError(f"{folder} was trained on another folds file than folds/{competition.name}.csv; delete "
                             f"{folder.parent} and retrain it")
        wanted = {**_described(competition, run.experiment),
                  "experiment": first.recipe["experiment"]}
        if differs := [key for key in wanted if run.recipe.get(key) != wanted[key]]:
            raise ValueError(f"{folder} was trained with another {_difference(run.recipe, wanted, differs[0])}; delete "
                             f"{folder} and retrain it")
        held_out = fold_numbers(table, run.experiment.split) == fold
        probs[held_out] = read_probs(folder / "oof.csv", competition, table.loc[held_out, "image_id"])
    return Oof(name, probs, tuple(runs.values()), tuple(fold for fold in folder_of if fold not in runs))


def _read_blend(competition: Competition, path: Path, table: pd.DataFrame, folds_hash: str,
                read_member: Callable[[str], Oof]) -> Oof:
    record, hint = read_json(path), "delete that folder and blend the runs anew"
    if missing := [key for key in ("kind", "members", "folds_sha256", "made_of", "oof_sha256") if key not in record]:
        raise ValueError(f"{path} has no entry {missing[0]!r}; {hint}")
    if record["folds_sha256"] != folds_hash:
        raise ValueError(f"{path.parent} was blended on another folds file than folds/{competition.name}.csv; {hint}")
    try:
        fit = from_json(record["kind"], record.get("fit", {}), record["members"], competition.labels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {hint}") from error
    runs = [run for member in record["members"] for run in read_member(member).runs]
    blend = Oof(path.parent.name, read_probs(path.parent / "oof.csv", competition, table["image_id"]), tuple(runs), (),
                tuple(record["members"]), record["kind"], fit)
    if record["made_of"].get("fit") != blend.made_of.get("fit"):
        raise ValueError(f"{path}: its fit is not what its predictions were blended with; {hint}")
    if record["made_of"] != blend.made_of or record["oof_sha256"] != sha256((path.parent / "oof.csv").read_bytes()):
        raise ValueError(f"{path.parent} was blended from other models than its members have now; {hint}")
    return blend


def write_blend(competition: Competition, blend: Oof, image_ids: pd.Series, folds_hash: str) -> None:
    """Writes a blend's oof.csv and blend.json, which `read_oof` reads."""
    folder = run_folder(competition, blend.name)
    path = write_probs(folder / "oof.csv", probs_frame(competition, image_ids, blend.probs))
    fit = blend.fit.to_json(blend.members, competition.labels) if blend.fit else {}
    write_json(folder / "blend.json", {
        "kind": blend.kind, "members": list(blend.members), "folds_sha256": folds_hash, "made_of": blend.made_of,
        "oof_sha256": sha256(path.read_bytes()),
        **({"oof": "every fold blended by a fit on the other folds", "fit_on": "all folds", "fit": fit} if fit else {}),
    })


def train_command(competition: Competition, name: str, folds: Sequence[int] = ()) -> str:
    """The command that trains a run, or only `folds`: the recorded one if there is one, with its --set and --name."""
    first = next(iter(sorted(run_folder(competition, name).glob("fold*/recipe.json"))), None)
    recorded = "" if first is None else read_json(first).get("command", "")
    if not recorded:
        return command_line("train", competition, experiment=name, fold=folds)
    return f"{recorded} --fold {' '.join(map(str, folds))}" if folds else recorded


def write_predictions(competition: Competition, oof: Oof, part: str, image_ids: pd.Series, probs: np.ndarray,
                      images: str = "", metadata: dict | None = None) -> None:
    """Writes a run's or blend's predictions of a part ("test", "official_validation", "holdout") and their inputs.

    images: the name of the pixel store, which distinguishes these images from others with the same ids;  metadata:
    further entries of the JSON file.
    """
    folder = run_folder(competition, oof.name)
    write_probs(folder / f"{part}.csv", probs_frame(competition, image_ids, probs))
    write_json(folder / f"{part}.json", {"made_of": oof.made_of, "images": images, **(metadata or {})})


def read_predictions(competition: Competition, oof: Oof, part: str, image_ids: pd.Series,
                     images: str | None = None) -> np.ndarray | None:
    """Reads probabilities (n, K) of `image_ids`; None if there are none from the current models and images.

    images: the name of the pixel store; None: any.
    """
    path = run_folder(competition, oof.name) / f"{part}.json"
    record = read_json(path) if path.exists() else {}
    if record.get("made_of") != oof.made_of or images not in (None, record["images"]):
        return None
    return read_probs(path.with_suffix(".csv"), competition, image_ids, subset=True)


def list_runs(competition: Competition) -> list[str]:
    """Names of all runs of a competition, finished or not, and of all blends."""
    return sorted(path.name for path in run_folder(competition, "").glob("*")
                  if any(path.glob("fold*/recipe.json")) or (path / "blend.json").exists())
