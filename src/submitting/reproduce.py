"""Makes a submission again from weights and images, and compares its bytes with the hash in its manifest."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from common.files import sha256
from common.hardware import pick_device
from competition import Competition
from data.pixel_store import PixelStore, open_store, pixel_settings
from data.tables import submitted_part
from results.adopted_rules import adopted_inputs, rule_for
from results.runs import read_run, run_folder
from results.workspace import Workspace
from submitting.manifest import (
    Difference,
    find_code_differences,
    find_device_differences,
    find_run_differences,
    hash_images,
    read_manifest,
)
from submitting.submission import (
    Template,
    fill_submission,
    read_submission,
    read_template,
    submitted_kind,
    template_inputs,
)
from training.prediction import mean_of_models, predict_models, round_trip


@dataclass(frozen=True)
class Reproduction:
    """The result of `reproduce`."""

    rows: int
    mismatch: str                  # how the cells differ, "" if all bytes are the same
    differences: list[Difference]  # of code, versions and device, which need not change the bytes


def reproduce(workspace: Workspace, path: Path) -> Reproduction:
    """Predicts with the models that the manifest at `path` names, blends and decides as before, and compares the bytes.

    No earlier prediction is read, and nothing is written. An image that cannot be read counts as a constant one, as it
    did if it was unreadable before; otherwise its pixels differ.
    Raises ValueError if the manifest is of another competition, or with the first of data, folds, recipe, weights, oof
    predictions and template that is missing or has changed; that is found before anything is predicted.
    """
    competition = workspace.competition
    manifest = read_manifest(path)
    if manifest["competition"] != competition.name:
        raise ValueError(f"{path} is of the competition {manifest['competition']!r}, not {competition.name!r}; give "
                         f"--competition {manifest['competition']}")
    template = read_template(workspace)
    images = workspace.part(submitted_part(competition))
    for difference in _changed_inputs(workspace, manifest, template, images):
        raise ValueError(f"{path} cannot be reproduced ({difference.what}): {difference.message}")
    device = pick_device()
    inputs = manifest["inputs"]
    oof = workspace.oof(inputs["run"])
    fitted_on = inputs.get("oof_probs")
    if fitted_on and fitted_on != sha256(np.ascontiguousarray(oof.probs).tobytes()):
        raise ValueError(f"{path} cannot be reproduced (oof): the out-of-fold predictions of {oof.name} were of other "
                         "folds")
    is_whole, rule = len(inputs["weights"]) == len(oof.made_of), None
    if is_whole:  # adopted rules apply to the whole run only
        if inputs.get("adopted") != adopted_inputs(workspace, oof).get("adopted"):
            raise ValueError(f"{path} cannot be reproduced (decisions): other decision rules of {oof.name} are adopted "
                             "now")
        rule = rule_for(workspace, oof, submitted_kind(competition))
    probs = _predict(workspace, manifest, inputs["run"], images, device)
    frame, _ = fill_submission(workspace, template, images["image_id"], probs, oof.probs, rule)
    is_same = sha256(frame.to_csv(index=False, lineterminator="\n").encode()) == manifest["sha256"]
    mismatch = "" if is_same else _compare(path.with_name(manifest["submission"]), frame, manifest["sha256"])
    differences = find_code_differences(manifest) + find_device_differences(manifest, device)
    return Reproduction(len(frame), mismatch, differences)


def _changed_inputs(workspace: Workspace, manifest: dict, template: Template,
                    images: pd.DataFrame) -> Iterator[Difference]:
    """Inputs that are missing or differ from the manifest's, in the order of the pipeline; without them no bytes."""
    competition = workspace.competition
    inputs = manifest["inputs"]
    in_runs = find_run_differences(competition, manifest)
    for name, expected in inputs["images"].items():
        if expected is None:
            continue  # a prediction without a record of its images: only the bytes can be compared
        folder = next((path.parent for path in sorted(run_folder(competition, name).glob("fold*/recipe.json"))), None)
        if folder is None:
            yield in_runs[0]
        store = _open_images(competition, folder, images)
        if hash_images(store, images["image_id"]) != expected:
            yield Difference("data", f"the ids or pixels of the {len(images)} {submitted_part(competition)} images are "
                                     f"not those that {name} predicted")
    if (now := workspace.folds).hash != inputs["folds"]:
        yield Difference("folds", f"{now.path}, or the training table it was checked with, has changed")
    yield from in_runs
    for key, now in template_inputs(competition, template).items():
        if now != inputs.get(key):
            yield Difference("template", "the sample submission has changed" if key == "template" else
                             f"{key} {inputs.get(key)} then, {now} now")


def _open_images(competition: Competition, folder: Path, images: pd.DataFrame) -> PixelStore:
    name = f"{competition.name}-{submitted_part(competition)}"
    settings = pixel_settings(competition, read_run(folder).experiment)
    try:
        return open_store(name, images, settings)
    except ValueError:  # an unreadable image: constant then too, or the comparison of the pixels finds the difference
        return open_store(name, images, settings, unreadable="black")


def _predict(workspace: Workspace, manifest: dict, name: str, images: pd.DataFrame, device: str) -> np.ndarray:
    """(n, K) probabilities of a run or a blend for the images, from weights and pixels."""
    competition = workspace.competition
    oof, inputs = workspace.oof(name), manifest["inputs"]
    if oof.members:
        members = [_predict(workspace, manifest, member, images, device) for member in oof.members]
        probs = oof.fit.apply(np.stack(members), None, competition.task)
        return probs if name == inputs["run"] else round_trip(probs)
    oof = replace(oof, runs=tuple(run for run in oof.runs if f"{name}/{run.folder.name}" in inputs["weights"]))
    store = _open_images(competition, oof.runs[0].folder, images)
    with _threads(manifest["computed"].get(name)):
        part = {"images": images["image_id"]}
        probs = mean_of_models(predict_models(competition, oof, part, {"images": store}, device)["images"])
    return round_trip(probs) if len(oof.runs) == workspace.folds.count else probs


@contextmanager
def _threads(computed: dict | None) -> Iterator[None]:
    """Sets the recorded number of threads: the way a sum is split among threads decides its last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(computed["threads"] if computed else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _compare(path: Path, now: pd.DataFrame, digest: str) -> str:
    """How a new submission differs from the manifest's, in words.  path: of the latter, if it is still unchanged."""
    if not path.exists() or sha256(path.read_bytes()) != digest:
        return f"{path.name} is missing or has changed, so the difference cannot be shown"
    before = read_submission(path)
    if before.shape != now.shape or list(before) != list(now):
        return f"{before.shape[0]} rows and {before.shape[1]} columns then, {now.shape[0]} and {now.shape[1]} now"
    differ = before.to_numpy() != now.to_numpy()
    gaps = np.abs(before.apply(pd.to_numeric, errors="coerce").to_numpy(float)
                  - now.apply(pd.to_numeric, errors="coerce").to_numpy(float))
    largest = f", by at most {np.nanmax(gaps[differ]):.2g}" if np.isfinite(gaps[differ]).any() else ""
    return f"{differ.sum()} of {differ.size} cells differ{largest}"
