"""A bundle run as Kaggle will run it: alone, without network, on test sets that nobody has seen."""

import os
import shutil
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

TIMES = 10         # how many times as many images the large test set has
CORRUPT_BYTES = 60  # of an image file are left
ODD = {"corrupt": "hidden-corrupt", "black": "hidden-black"}  # stems of two more images
LAST_PLACE = 2e-6  # of six decimals: batches of another size may round otherwise

NO_NETWORK = '''import socket


class Alone(socket.socket):  # sockets between processes of this machine still connect
    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            raise OSError(f"there is no network here, but {address} was asked for")
        return super().connect(address)

    connect_ex = connect


socket.socket = Alone
'''


@dataclass(frozen=True)
class BundleRun:
    """One run of the bundle."""

    name: str
    images: int
    seconds: float
    found: str  # what came out


def rehearse(workspace: Workspace, bundle: Path, hours: float) -> dict:
    """Runs a bundle on the known test set, on a hidden and on a large one; prints a table and writes rehearsal.json.

    Returns what is in that file. Raises ValueError where the predictions of known images are not those of predict.py
    here, or where the time is not enough for as many images as there are; RuntimeError where the bundle fails.
    """
    competition = workspace.competition
    said = read_json(bundle / "dataset" / "bundle.json")
    known_path = submission_path(competition, said["experiment"])
    if not known_path.exists():
        predict = command_line("predict", competition, experiment=said["members"] or said["experiment"])
        raise FileNotFoundError(f"there is no {known_path} to compare with; run: {predict}")
    acts, isolation = [], find_isolation()
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        folder = Path(folder)
        shutil.copytree(bundle / "dataset", folder / "input" / "models")
        bar = tqdm(total=3, desc="rehearsing", unit="run", disable=None)
        for name in ("known", "hidden", "large"):
            data, ids = make_data(workspace, folder / "input" / "data", name)
            seconds, path = run_bundle(bundle, folder, isolation, hours)
            images, found = judge(competition, name, path, known_path, ids, is_ranked(competition, bundle, said))
            acts.append(BundleRun(name, images, round(seconds, 1), found))
            remove_data(data)
            bar.update()
        bar.close()
    account = {"bundle": bundle.name, "isolation": isolation, "acts": [asdict(act) for act in acts],
               **reckon(acts[0], acts[-1], hours)}
    write_json(bundle / "rehearsal.json", account)
    show(account, bundle)
    if account["images_possible"] < acts[0].images:
        raise ValueError(f"{bundle.name} predicts {account['images_possible']:,} images in {hours:g} hours here, but "
                         f"the known test set alone has {acts[0].images:,}; take a smaller network or fewer folds")
    return account


def is_ranked(competition: Competition, bundle: Path, said: dict) -> bool:
    """True where a value depends on which other images there are: a mean of ranks."""
    path = bundle / "dataset" / "runs" / competition.name / said["experiment"] / "blend.json"
    return path.exists() and "rank" in read_json(path)["kind"]


def find_isolation() -> str:
    """How the network is kept away: "unshare", a network namespace without any, or "sockets", connect refuses."""
    if shutil.which("unshare") and subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0:
        return "unshare"
    return "sockets"


def run_bundle(bundle: Path, folder: Path, isolation: str, hours: float) -> tuple[float, Path]:
    """Seconds that the kernel took, and its submission.csv. Raises RuntimeError with what it said where it failed."""
    for name in ("home", "output", "site"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    environment = {name: value for name, value in os.environ.items()
                   if name in ("PATH", "LANG", "SYSTEMROOT", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    environment |= {"HOME": str(folder), "BUNDLE_INPUT": str(folder / "input"), "BUNDLE_OUTPUT": str(folder / "output"),
                    "BUNDLE_HOME": str(folder / "home"), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}
    command = [sys.executable, str(bundle / "predict_kernel.py")]
    if isolation == "unshare":
        command = ["unshare", "-rn", *command]
    else:
        (folder / "site" / "sitecustomize.py").write_text(NO_NETWORK)
        environment["PYTHONPATH"] = str(folder / "site")
    started = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True,
                              timeout=hours * 3600)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{bundle.name} was not done after {hours:g} hours") from error
    seconds = time.perf_counter() - started
    path = folder / "output" / "submission.csv"
    if done.returncode or not path.exists():
        raise RuntimeError(f"{bundle.name} ended with code {done.returncode} and {'a' if path.exists() else 'no'} "
                           f"submission.csv; it said:\n{(done.stdout + done.stderr).strip()[-3000:]}")
    return seconds, path


# ---- test sets


def make_data(workspace: Workspace, target: Path, name: str) -> tuple[Path, dict[str, str]]:
    """The competition's folder with another test set, and which known image each new id shows.

    name: "known", the folder as it is; "hidden", every image under a new id, in another order, and two odd ones;
    "large", TIMES as many. Nothing is copied: links stand for files.
    """
    competition = workspace.competition
    if name == "known":
        target.symlink_to(workspace.data_dir.resolve(), target_is_directory=True)
        return target, {}
    part = getattr(competition, submitted_part(competition))
    if part.arrays or part.separator != "," or part.header or len(part.tables) > 1 or part.id_list:
        raise ValueError(f"a hidden test set cannot be made of {competition.name!r}: its test part is not one plain "
                         "table of image files, or a folder of them")
    known = workspace.part(submitted_part(competition))[["image_id", "path"]]
    new = _name_images(known, workspace.data_dir.resolve(), name)
    dropped = {Path(path).relative_to(workspace.data_dir.resolve()).as_posix() for path in known["path"]}
    tables = {table for table in (*part.tables, competition.sample_submission) if table}
    _link_all(workspace.data_dir.resolve(), target, dropped | tables, set(new["below"]))
    for table in tables:
        _write_table(competition, workspace.data_dir / table, target / table, new, set(known["image_id"]))
    if part.tables:
        _check_template(competition, part.images)
    for row in tqdm(new.itertuples(), f"{name} test set", len(new), unit="image", leave=False, disable=None, delay=1):
        _write_image(target / row.below, Path(row.path), row.kind)
    return target, dict(zip(new["image_id"], new["old_id"], strict=True))


def _name_images(known: pd.DataFrame, root: Path, name: str) -> pd.DataFrame:
    """New ids and places: `image_id`, `old_id`, `below`, `path` of what is shown, `kind` ("", "corrupt", "black")."""
    rows = []
    for i in range(len(known) * (TIMES if name == "large" else 1)):
        old_id, path = known.iloc[i % len(known)]
        rows.append((f"hidden-{i:07d}", old_id, path, ""))
    if name == "hidden":
        rows += [(stem, known["image_id"].iloc[0], known["path"].iloc[0], kind) for kind, stem in ODD.items()]
        rows.reverse()
    new = pd.DataFrame(rows, columns=["stem", "old_id", "path", "kind"])
    places = [Path(path).relative_to(root) for path in new["path"]]
    by_path = [place.as_posix() == old_id for place, old_id in zip(places, new["old_id"], strict=True)]
    stems = [f"{place.stem}-{stem}" if whole else stem  # what a pattern finds in a path must stay in it
             for place, stem, whole in zip(places, new["stem"], by_path, strict=True)]
    new["below"] = [place.with_name(stem + place.suffix).as_posix() for place, stem in zip(places, stems, strict=True)]
    new["image_id"] = [below if whole else stem + Path(old_id).suffix for below, whole, stem, old_id in zip(
        new["below"], by_path, stems, new["old_id"], strict=True)]
    return new


def _check_template(competition: Competition, images: str) -> None:
    fields = {field for _, field, _, _ in Formatter().parse(images) if field}
    if fields != {competition.id_column}:
        raise ValueError(f"a hidden test set cannot be made of {competition.name!r}: the files of its test images are "
                         f"not named by {competition.id_column!r} alone, but by {images!r}")


def _link_all(source: Path, target: Path, without: set[str], added: set[str]) -> None:
    """A folder of links to all in the source but `exclude_ids`; real folders where something is left out or added."""
    busy = {parent.as_posix() for below in without | added for parent in Path(below).parents}

    def link(below: Path) -> None:
        (target / below).mkdir(parents=True, exist_ok=True)
        with os.scandir(source / below) as entries:
            for entry in entries:
                here = below / entry.name
                if here.as_posix() in busy:
                    link(here)
                elif here.as_posix() not in without:
                    (target / here).symlink_to(entry.path, target_is_directory=entry.is_dir())

    link(Path())


def _write_table(competition: Competition, source: Path, target: Path, new: pd.DataFrame, known_ids: set[str]) -> None:
    """The table with the rows of the known test images replaced by those of the new."""
    rows = read_csv(source)
    by_id = rows.set_index(competition.id_column)
    drawn = by_id.loc[new["old_id"]].reset_index()
    drawn[competition.id_column] = new["image_id"].to_numpy()
    others = rows[~rows[competition.id_column].isin(known_ids)]  # training images in the same table
    write_csv(target, pd.concat([others, drawn[rows.columns]], ignore_index=True))


def _write_image(target: Path, source: Path, kind: str) -> None:
    if not kind:
        target.symlink_to(source)
    elif kind == "corrupt":
        target.write_bytes(source.read_bytes()[:CORRUPT_BYTES])
    else:
        suffix = source.suffix if source.suffix.lower() in (".png", ".jpg", ".jpeg") else ".png"
        target.write_bytes(cv2.imencode(suffix, np.zeros((64, 64), np.uint8))[1].tobytes())


def remove_data(data: Path) -> None:
    """Removes what `make_data` made, and nothing that its links point to."""
    if data.is_symlink():
        data.unlink()
    else:
        shutil.rmtree(data)


# ---- what came out


def judge(competition: Competition, name: str, path: Path, known_path: Path, ids: dict[str, str],
          ranked: bool) -> tuple[int, str]:
    """How many images a submission predicts, and what was found. Raises ValueError where it is not as it must be.

    ranked: values depend on which other images there are, so those of known images may differ in another test set.
    """
    frame, known = read_submission(path), read_submission(known_path)
    if name == "known":
        if path.read_bytes() != known_path.read_bytes():
            same_shape = frame.shape == known.shape
            differs = (frame.to_numpy() != known.to_numpy()).any(axis=1).sum() if same_shape else len(known)
            raise ValueError(f"the bundle's submission is not {known_path}: {differs} of {len(known)} rows differ. Was "
                             f"it made by these models? Delete it and predict again")
        return len(frame), "the same bytes as predict.py here"
    by_id = frame.set_index(competition.id_column)
    if set(by_id.index) != set(ids):
        raise ValueError(f"the bundle's submission of the {name} test set has other ids than asked for")
    odd = [i for i in by_id.index if Path(i).stem.endswith(tuple(ODD.values()))]
    plain = by_id.drop(index=odd)
    columns = list(submission_columns(competition))
    wanted = known.set_index(competition.id_column).loc[[ids[i] for i in plain.index], columns]
    found = _compare(plain[columns], wanted, competition.submission == "text", ranked, name)
    if odd:
        if len(set(map(tuple, by_id.loc[odd, columns].to_numpy()))) != 1:
            raise ValueError("the corrupt image was not predicted as the black one is")
        found += "; corrupt image predicted as the black one"
    return len(frame), found


def _compare(values: pd.DataFrame, wanted: pd.DataFrame, is_text: bool, ranked: bool, name: str) -> str:
    same = (values.to_numpy() == wanted.to_numpy()).all(axis=1)
    far = ~same
    if not is_text:
        far &= (np.abs(values.to_numpy(float) - wanted.to_numpy(float)) > LAST_PLACE).any(axis=1)
    if far.any() and not ranked:
        row = int(far.argmax())
        raise ValueError(f"{far.sum()} of {len(far)} known images are predicted otherwise in the {name} test set, the "
                         f"first is {wanted.index[row]!r}: {', '.join(values.iloc[row])}, here "
                         f"{', '.join(wanted.iloc[row])}")
    if ranked:
        return f"{same.sum():,} of {len(same):,} known images the same; ranks depend on the others"
    return "all known images the same" if same.all() else (
        f"all known images the same but for the last of six decimals in {(~same).sum():,}")


def reckon(small: BundleRun, large: BundleRun, hours: float) -> dict:
    """Seconds to start and for an image, by two runs of different size, and how many images the time is enough for."""
    per_image = (large.seconds - small.seconds) / (large.images - small.images)
    start = small.seconds - per_image * small.images
    if per_image <= 0 or start < 0:  # too quick to tell apart: all time counts as the images'
        per_image, start = large.seconds / large.images, 0.0
    possible = int((hours * 3600 - start) / per_image) if hours * 3600 > start else 0
    return {"hours": hours, "start_seconds": round(start, 1), "seconds_per_image": per_image,
            "images_possible": possible}


def show(account: dict, bundle: Path) -> None:
    """Prints the table of the acts, and the time."""
    table = Table("test set", "images", "seconds", "found", title=f"{bundle.name}: rehearsal, no network "
                  f"({account['isolation']}), an empty home")
    for act in account["acts"]:
        table.add_row(act["name"], f"{act['images']:,}", f"{act['seconds']:.1f}", act["found"])
    make_console().print(table)
    print(f"{account['start_seconds']:.1f} s to start and {1000 * account['seconds_per_image']:.2f} ms an image on "
          f"this machine: {account['images_possible']:,} images in {account['hours']:g} hours, if Kaggle's is as fast; "
          f"written to {bundle / 'rehearsal.json'}")
