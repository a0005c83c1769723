"""Runs a bundle as Kaggle will: without network, in an empty home folder, on the known and on a hidden test set."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Formatter

import cv2
import numpy as np
import pandas as pd
from rich.table import Table
from tqdm import tqdm

from common.commands import command_line
from common.console import make_console
from common.files import read_csv, read_json, write_csv, write_json
from competition import Competition
from data.tables import submission_columns, submitted_part
from results.workspace import Workspace
from submitting.submission import read_submission, submission_path

REPEATS = 10        # how often the hidden test set has every known image
CORRUPT_BYTES = 60  # of an image file are kept
CORRUPT, CONSTANT = "hidden-corrupt", "hidden-constant"  # stems of two more images of the hidden test set
TOLERANCE = 2e-6    # in values of six decimals: batches of another size may be rounded differently

NO_NETWORK = '''import socket


class LocalSocket(socket.socket):  # sockets between processes of this machine still connect
    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            raise OSError(f"there is no network in a simulation, but {address} was requested")
        return super().connect(address)

    connect_ex = connect


socket.socket = LocalSocket
'''


@dataclass(frozen=True)
class BundleRun:
    """One run of the bundle."""

    name: str       # of the test set
    images: int
    seconds: float
    result: str     # of the comparison with known predictions


def simulate(workspace: Workspace, bundle: Path, hours: float) -> dict:
    """Runs a bundle on the known and on a hidden test set; prints a table and writes simulation.json.

    Returns the content of that file. Raises ValueError if known images are predicted differently than by predict.py
    here, or if `hours` are too few for the known test set; RuntimeError if the bundle fails.
    """
    competition = workspace.competition
    described = read_json(bundle / "dataset" / "bundle.json")
    known_path = submission_path(competition, described["experiment"])
    if not known_path.exists():
        predict = command_line("predict", competition, experiment=described["members"] or described["experiment"])
        raise FileNotFoundError(f"there is no {known_path} to compare with; run: {predict}")
    runs, blend = [], bundle / "dataset" / "runs" / competition.name / described["experiment"] / "blend.json"
    is_ranked = blend.exists() and "rank" in read_json(blend)["kind"]
    for name in tqdm(("known", "hidden"), "simulating", unit="run", disable=None):
        with tempfile.TemporaryDirectory(prefix="simulation-") as folder:
            folder = Path(folder)
            (folder / "input").mkdir()
            (folder / "input" / "models").symlink_to((bundle / "dataset").resolve(), target_is_directory=True)
            if name == "known":
                ids = {}
                (folder / "input" / "data").symlink_to(workspace.data_dir.resolve(), target_is_directory=True)
            else:
                ids = make_hidden_data(workspace, folder / "input" / "data")
            seconds, path = run_bundle(bundle, folder, hours)
            frame, known = read_submission(path), read_submission(known_path)
            if name == "known":
                result = check_known(path, known_path)
            else:
                result = check_hidden(competition, frame, known, ids, is_ranked)
            runs.append(BundleRun(name, len(frame), round(seconds, 1), result))
    content = {"bundle": bundle.name, "runs": [asdict(run) for run in runs], **estimate_time(*runs, hours)}
    write_json(bundle / "simulation.json", content)
    show_simulation(content, bundle)
    if content["images_possible"] < runs[0].images:
        raise ValueError(f"{bundle.name} predicts {content['images_possible']:,} images in {hours:g} hours here, but "
                         f"the known test set alone has {runs[0].images:,}; take a smaller network or fewer folds")
    return content


def run_bundle(bundle: Path, folder: Path, hours: float) -> tuple[float, Path]:
    """Seconds that the kernel took, and its submission.csv. Raises RuntimeError with the kernel's output if it fails.

    folder: holds input/ with the dataset and the competition's data; the kernel writes below it too.
    """
    for name in ("home", "output", "site"):
        (folder / name).mkdir()
    (folder / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    environment = {name: value for name, value in os.environ.items()
                   if name in ("PATH", "LANG", "SYSTEMROOT", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    environment |= {"HOME": str(folder), "BUNDLE_INPUT": str(folder / "input"), "BUNDLE_OUTPUT": str(folder / "output"),
                    "BUNDLE_HOME": str(folder / "home"), "PYTHONPATH": str(folder / "site"),
                    "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}
    started = time.perf_counter()
    try:
        done = subprocess.run([sys.executable, str(bundle / "predict_kernel.py")], cwd=folder, env=environment,
                              capture_output=True, text=True, timeout=hours * 3600)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{bundle.name} did not end within {hours:g} hours") from error
    seconds = time.perf_counter() - started
    path = folder / "output" / "submission.csv"
    if done.returncode or not path.exists():
        raise RuntimeError(f"{bundle.name} ended with code {done.returncode} and {'a' if path.exists() else 'no'} "
                           f"submission.csv; its output:\n{(done.stdout + done.stderr).strip()[-3000:]}")
    return seconds, path


# ---- the hidden test set


def make_hidden_data(workspace: Workspace, target: Path) -> dict[str, str]:
    """Writes the competition's folder with a hidden test set; returns, by new id, the id of the known image.

    Every known image is there REPEATS times under new ids, and a corrupt and a constant image. Files are links.
    Raises ValueError if the part is not one plain table of image files, or a folder of them.
    """
    competition = workspace.competition
    part = getattr(competition, submitted_part(competition))
    fields = {field for _, field, _, _ in Formatter().parse(part.images) if field} if part.tables else set()
    if (part.arrays or part.separator != "," or part.header or len(part.tables) > 1 or part.id_list
            or not fields <= {competition.id_column}):
        raise ValueError(f"a hidden test set cannot be made of {competition.name!r}: its test part is not a folder of "
                         f"image files, or one plain table whose {competition.id_column!r} alone names the files")
    source = workspace.data_dir.resolve()
    known = workspace.part(submitted_part(competition))[["image_id", "path"]]
    new = _hidden_images(known, source)
    tables = {table for table in (*part.tables, competition.sample_submission) if table}
    left_out = {Path(path) for path in known["path"]} | {source / table for table in tables}
    for folder, _, names in os.walk(source, followlinks=True):
        (target / Path(folder).relative_to(source)).mkdir(parents=True, exist_ok=True)
        for path in (Path(folder) / name for name in names):
            if path not in left_out:
                (target / path.relative_to(source)).symlink_to(path)
    for table in tables:
        _write_table(competition, source / table, target / table, new, set(known["image_id"]))
    for row in new.itertuples():
        path = target / row.place
        if Path(row.place).stem.endswith(CORRUPT):
            path.write_bytes(Path(row.path).read_bytes()[:CORRUPT_BYTES])
        elif Path(row.place).stem.endswith(CONSTANT):
            suffix = path.suffix if path.suffix.lower() in (".png", ".jpg", ".jpeg") else ".png"
            path.write_bytes(cv2.imencode(suffix, np.zeros((64, 64), np.uint8))[1].tobytes())
        else:
            path.symlink_to(row.path)
    return dict(zip(new["image_id"], new["old_id"], strict=True))


def _hidden_images(known: pd.DataFrame, root: Path) -> pd.DataFrame:
    """`image_id`, `old_id`, `place` below the data folder and `path` of the known file, in another order."""
    stems = [CONSTANT, CORRUPT, *(f"hidden-{i:07d}" for i in reversed(range(len(known) * REPEATS)))]
    rows = []
    for number, stem in enumerate(stems):
        old_id, path = known.iloc[0 if number < 2 else int(stem[-7:]) % len(known)]
        place = Path(path).relative_to(root)
        if place.as_posix() == old_id:  # the id is the path, and a pattern may find labels or groups in its stem
            new_id = place = place.with_name(f"{place.stem}-{stem}{place.suffix}").as_posix()
        else:
            new_id, place = stem + Path(old_id).suffix, place.with_name(stem + place.suffix).as_posix()
        rows.append((new_id, old_id, place, path))
    return pd.DataFrame(rows, columns=["image_id", "old_id", "place", "path"])


def _write_table(competition: Competition, source: Path, target: Path, new: pd.DataFrame, known_ids: set[str]) -> None:
    """Writes a table in which the rows of the hidden images replace those of the known ones."""
    rows = read_csv(source)
    hidden = rows.set_index(competition.id_column).loc[new["old_id"]].reset_index()
    hidden[competition.id_column] = new["image_id"].to_numpy()
    others = rows[~rows[competition.id_column].isin(known_ids)]  # training images in the same table
    write_csv(target, pd.concat([others, hidden[rows.columns]], ignore_index=True))


# ---- the result


def check_known(path: Path, known_path: Path) -> str:
    """The result for the known test set. Raises ValueError if the bytes are not those of the submission made here."""
    if path.read_bytes() != known_path.read_bytes():
        values, known = read_submission(path).to_numpy(), read_submission(known_path).to_numpy()
        differ = (values != known).any(axis=1).sum() if values.shape == known.shape else len(known)
        raise ValueError(f"the bundle's submission is not {known_path}: {differ} of {len(known)} rows differ. Was it "
                         "made by these models? Delete it and predict again")
    return "the same bytes as predict.py here"


def check_hidden(competition: Competition, frame: pd.DataFrame, known: pd.DataFrame, ids: dict[str, str],
                 is_ranked: bool) -> str:
    """The result for a hidden test set. Raises ValueError if ids or values are not the expected ones.

    ids: the known id by new id;  is_ranked: values are ranks among all images, so those of known images may differ.
    """
    by_id = frame.set_index(competition.id_column)
    if set(by_id.index) != set(ids):
        raise ValueError("the bundle's submission of the hidden test set has other ids than its sample submission")
    columns = list(submission_columns(competition))
    is_added = np.array([Path(name).stem.endswith((CORRUPT, CONSTANT)) for name in by_id.index])
    if len(by_id.loc[is_added, columns].drop_duplicates()) != 1:
        raise ValueError("the corrupt image was not predicted like the constant one")
    values = by_id.loc[~is_added, columns]
    expected = known.set_index(competition.id_column).loc[[ids[name] for name in values.index], columns]
    differs = (values.to_numpy() != expected.to_numpy()).any(axis=1)
    wrong = differs.copy()
    if competition.submission != "text":
        wrong &= (np.abs(values.to_numpy(float) - expected.to_numpy(float)) > TOLERANCE).any(axis=1)
    if is_ranked:
        return f"{(~differs).sum():,} of {len(differs):,} known images the same; ranks depend on the other images"
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{wrong.sum()} of {len(wrong)} known images are predicted differently in the hidden test "
                         f"set, the first is {expected.index[row]!r}: {', '.join(values.iloc[row])}, here "
                         f"{', '.join(expected.iloc[row])}")
    rounded = f", {differs.sum():,} but for the last of six decimals" if differs.any() else ""
    return f"all known images the same{rounded}; corrupt image predicted like the constant one"


def estimate_time(small: BundleRun, large: BundleRun, hours: float) -> dict:
    """Seconds to start and per image, from two runs of different size, and the number of images possible in `hours`."""
    per_image = (large.seconds - small.seconds) / (large.images - small.images)
    start = small.seconds - per_image * small.images
    if per_image <= 0 or start < 0:  # the difference is too small to measure: all time is counted as the images'
        per_image, start = large.seconds / large.images, 0.0
    possible = int(max(hours * 3600 - start, 0) / per_image)
    return {"hours": hours, "start_seconds": round(start, 1), "seconds_per_image": per_image,
            "images_possible": possible}


def show_simulation(content: dict, bundle: Path) -> None:
    """Prints the table of the runs, and the time."""
    table = Table("test set", "images", "seconds", "result", title=f"{bundle.name}: simulation without network")
    for run in content["runs"]:
        table.add_row(run["name"], f"{run['images']:,}", f"{run['seconds']:.1f}", run["result"])
    make_console().print(table)
    print(f"{content['start_seconds']:.1f} s to start and {1000 * content['seconds_per_image']:.2f} ms per image on "
          f"this machine: {content['images_possible']:,} images in {content['hours']:g} hours if Kaggle's is as fast; "
          f"written to {bundle / 'simulation.json'}")
