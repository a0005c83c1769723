"""A submission made again from weights and images, and compared with what its manifest says of it."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from common.files import sha256
from common.hardware import pick_device
from competition import Competition
from data.pixel_store import PixelStore, open_store, pixel_settings
from data.tables import submitted_part
from results.adopted_rules import adopted_inputs, rule_for
from results.runs import Oof, read_run, run_folder
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
    read_submission,
    read_template,
    submit_probs,
    submitted_kind,
    template_inputs,
)
from training.prediction import mean_of_models, predict_models, round_trip


@dataclass(frozen=True)
class Reproduction:
    """What came out."""

    rows: int
    other: str                     # how the bytes differ, "" where they are the same
    differences: list[Difference]  # of code, versions and device, which need not change the bytes


def reproduce(workspace: Workspace, manifest: Path) -> Reproduction:
    """Predicts again with the models that a manifest names, blends and decides as it was done, and compares the bytes.

    Nothing that was predicted before is read, and nothing is kept.
    An image that cannot be read counts as a black one, as it did if it was so before; else its pixels differ.
    Raises ValueError where the manifest is of another competition, or with the first of data, folds, recipe, weights,
    oof predictions and template that is missing or another now; that is found before anything is predicted.
    """
    competition = workspace.competition
    said = read_manifest(manifest)
    if said["competition"] != competition.name:
        raise ValueError(f"{manifest} is of the competition {said['competition']!r}, not {competition.name!r}; give "
                         f"--competition {said['competition']}")
    template = read_template(workspace)
    images = workspace.part(submitted_part(competition))
    for difference in _stopping(workspace, said, template, images):
        raise ValueError(f"{manifest} cannot be made again ({difference.what}): {difference.said}")
    device = pick_device()
    oof = workspace.oof(said["inputs"]["run"])
    fitted_on = said["inputs"].get("oof_probs")
    if fitted_on and fitted_on != sha256(np.ascontiguousarray(oof.probs).tobytes()):
        raise ValueError(f"{manifest} cannot be made again (oof): {oof.name} had the out-of-fold "
                         f"predictions of other folds")
    if _is_whole(said, oof) and said["inputs"].get("adopted") != adopted_inputs(workspace, oof).get("adopted"):
        raise ValueError(f"{manifest} cannot be made again (decisions): {oof.name}'s adopted decisions are others now")
    rule = rule_for(workspace, oof, submitted_kind(competition), submitted=True) if (
        _is_whole(said, oof)) else None  # what was adopted is for the whole run
    probs = _predict_again(workspace, said, said["inputs"]["run"], images, device)
    name = Path(said["submission"]).stem.removeprefix(f"{competition.name}-")
    with TemporaryDirectory() as folder:
        with redirect_stdout(io.StringIO()):  # it would say that it wrote a file that is gone a moment later
            path = submit_probs(workspace, template, name, images["image_id"], probs, oof.probs, said["inputs"],
                                rule, folder=Path(folder))
        is_same = sha256(path.read_bytes()) == said["sha256"]
        other = "" if is_same else _compare(manifest.with_name(said["submission"]), path, said["sha256"])
    return Reproduction(len(template.frame), other, find_code_differences(said) + find_device_differences(said, device))


def _is_whole(said: dict, oof: Oof) -> bool:
    return len(said["inputs"]["weights"]) == len(oof.made_of)


def _stopping(workspace: Workspace, said: dict, template: Template, images: pd.DataFrame) -> Iterator[Difference]:
    """What cannot be another and give the same bytes, the first first: nothing is decoded for what comes later."""
    competition = workspace.competition
    inputs = said["inputs"]
    in_runs = find_run_differences(competition, said)
    for name, there in inputs["images"].items():
        if there is None:
            continue  # predicted before such was recorded: then the bytes alone tell
        folder = next((path.parent for path in sorted(run_folder(competition, name).glob("fold*/recipe.json"))), None)
        if folder is None:
            yield in_runs[0]
        store = _open_images(competition, folder, images)
        if hash_images(store, images["image_id"]) != there:
            yield Difference("data", f"the ids or pixels of the {len(images)} {submitted_part(competition)} images are "
                                     f"not those that {name} predicted", stops=True)
    if (now := workspace.folds).hash != inputs["folds"]:
        yield Difference("folds", f"{now.path}, or the training table it was checked with, is another", stops=True)
    yield from in_runs
    for key, now in template_inputs(competition, template).items():
        if now != inputs.get(key):
            yield Difference("template", "the sample submission is another" if key == "template" else
                             f"{key} {inputs.get(key)} then, {now} now", stops=True)


def _open_images(competition: Competition, folder: Path, images: pd.DataFrame) -> PixelStore:
    name = f"{competition.name}-{submitted_part(competition)}"
    settings = pixel_settings(competition, read_run(folder).experiment)
    try:
        return open_store(name, images, settings)
    except ValueError:  # an image cannot be read: it counted as black, or the comparison of the pixels will tell
        return open_store(name, images, settings, unreadable="black")


def _predict_again(workspace: Workspace, said: dict, name: str, images: pd.DataFrame, device: str) -> np.ndarray:
    """(n, K) what a run or a blend says about the images, from weights and pixels."""
    competition = workspace.competition
    oof = workspace.oof(name)
    if oof.members:
        members = [_predict_again(workspace, said, member, images, device)
                   for member in oof.members]
        probs = oof.fit.apply(np.stack(members), None, competition.task)
        return probs if name == said["inputs"]["run"] else round_trip(probs)
    oof = replace(oof, runs=tuple(run for run in oof.runs if f"{name}/{run.folder.name}" in said["inputs"]["weights"]))
    store = _open_images(competition, oof.runs[0].folder, images)
    with _threads(said["computed"].get(name)):
        part = {"images": images["image_id"]}
        probs = mean_of_models(predict_models(competition, oof, part, {"images": store}, device)["images"])
    return round_trip(probs) if len(oof.runs) == workspace.folds.count else probs


@contextmanager
def _threads(computed: dict | None) -> Iterator[None]:
    """As many threads as then: how a sum is split among them decides its last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(computed["threads"] if computed else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _compare(there: Path, again: Path, digest: str) -> str:
    """How two submissions differ, in words; there: the one of the manifest, if it still stands beside it."""
    if not there.exists() or sha256(there.read_bytes()) != digest:
        return f"{there.name} itself is not beside its manifest any more, so how they differ cannot be told"
    before, now = read_submission(there), read_submission(again)
    if before.shape != now.shape or list(before) != list(now):
        return f"{before.shape[0]} rows and {before.shape[1]} columns then, {now.shape[0]} and {now.shape[1]} now"
    differ = (before != now).to_numpy()
    gaps = (before.apply(pd.to_numeric, errors="coerce") - now.apply(pd.to_numeric, errors="coerce")).abs().to_numpy()
    most = f", by at most {np.nanmax(gaps[differ]):.2g}" if np.isfinite(gaps[differ]).any() else ""
    return f"{differ.sum()} of {differ.size} cells differ{most}"
