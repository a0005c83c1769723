"""The demo competition on disk: phantoms in Kaggle's layout, the troubles of real sets, and the truth beside them."""

import json
import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from common.files import read_json, replace_atomically
from common.hardware import count_cores
from data.phantoms import LABELS, SITES, draw_phantom, draw_severities, label_probs, posterior

SERIAL = 1000  # images; below it, starting processes costs more than it saves
CHUNK = 64     # images a process draws at a time
IMAGE_STREAM, PATIENT_STREAM, COPY_STREAM, TABLE_STREAM = range(4)  # kinds of random streams of one seed


@dataclass(frozen=True)
class DemoSettings:
    """What is drawn, and the troubles that are planted. Shares are of the training images unless stated otherwise."""

    images: int = 1400               # training images
    test_images: int = 700
    size: int = 64                   # pixels
    seed: int = 0
    black: float = 0.10              # constant images with labels of both kinds, in the test part too
    exact_duplicates: float = 0.01   # copies under another id, half of them under another patient's name
    near_duplicates: float = 0.01    # the same, shifted by a pixel or recompressed
    uncertain: float = 0.03          # share of label cells that are -1, most of them where the picture is unclear
    blank: float = 0.02              # share of label cells that are empty
    label_noise: float = 0.02        # share of labels that are wrong, in the test part too
    second_site: float = 0.3         # share of patients from a hospital with another machine
    token: float = 0.3               # share of images with a letter in the corner
    shortcut: float = 0.0            # how strictly the letter follows the first label: 0 not at all, 1 always

    def __post_init__(self):
        if self.images < 2 or self.test_images < 2 or self.size < 16:
            raise ValueError("the demo needs at least 2 training images, 2 test images and 16 pixels")
        for name, value in asdict(self).items():
            if isinstance(value, float) and not 0 <= value <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, not {value}")


def make_demo(folder: Path, settings: DemoSettings, workers: int | None = None) -> Path:
    """The demo competition in `folder`, byte for byte the same for the same settings, whatever the number of workers.

    `train/`, `test/`, `train.csv`, `sample_submission.csv`, `solution.csv` as Kaggle has them, `truth/`, `demo.json`.
    Built beside its place and renamed. A folder that is there already with these settings is left as it is.
    Raises ValueError where the folder holds something else.
    """
    if is_made(folder, settings):
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else than this demo; delete it, or choose another --data-dir")
    truth = plan_images(settings)
    with replace_atomically(folder) as temporary:
        for part in ("train", "test", *(f"truth/masks/{label}" for label in LABELS)):
            (temporary / part).mkdir(parents=True)
        _draw_all(temporary, settings, truth, workers or count_cores())
        _write_tables(temporary, settings, truth)
    return folder


def is_made(folder: Path, settings: DemoSettings) -> bool:
    """True where the folder holds the demo with these very settings."""
    return (folder / "demo.json").exists() and read_json(folder / "demo.json") == asdict(settings)


def read_truth(folder: Path) -> pd.DataFrame:
    """One row an image of either part, with what was drawn and planted; see truth/truth.csv."""
    texts = ["image_id", "patient_id", "duplicate_of", "near_duplicate_of"]
    truth = pd.read_csv(folder / "truth" / "truth.csv", dtype=dict.fromkeys(texts, str))
    return truth.fillna(dict.fromkeys(texts, ""))


def plan_images(settings: DemoSettings) -> pd.DataFrame:
    """Everything about every image but its pixels: (images + test_images) rows, training images first."""
    plans, patients = [], 0
    for number, (part, count) in enumerate((("train", settings.images), ("test", settings.test_images))):
        rng = np.random.default_rng([settings.seed, TABLE_STREAM, number])
        plan = _plan_part(rng, part, count, patients, settings)
        patients = plan["patient"].max() + 1  # patients of the two parts are different people
        plans.append(plan)
    plan = pd.concat(plans, ignore_index=True)
    numbers = np.random.default_rng([settings.seed, TABLE_STREAM, 2]).permutation(len(plan))
    plan.insert(0, "image_id", [f"img_{number:06d}" for number in numbers])
    names = np.random.default_rng([settings.seed, TABLE_STREAM, 3]).permutation(patients)
    plan["patient_id"] = [f"p{names[patient]:05d}" for patient in plan["patient"]]
    for column in ("duplicate_of", "near_duplicate_of"):
        plan[column] = [plan["image_id"][row] if row >= 0 else "" for row in plan[column]]
    return plan


def _plan_part(rng: np.random.Generator, part: str, count: int, first_patient: int,
               settings: DemoSettings) -> pd.DataFrame:
    images = np.minimum(rng.geometric(0.45, count), 8)  # of a patient
    drawn_for = np.repeat(np.arange(count), images)[:count]
    severities = draw_severities(rng, drawn_for)
    site = (rng.random(count) < settings.second_site)[drawn_for].astype(int)
    black = rng.random(count) < settings.black
    clean = rng.random((count, len(LABELS))) < label_probs(severities)
    flipped = rng.random((count, len(LABELS))) < settings.label_noise
    plan = pd.DataFrame({"part": part, "patient": first_patient + drawn_for, "drawn_for": first_patient + drawn_for,
                         "site": site, "black": black, "duplicate_of": -1, "near_duplicate_of": -1})
    if part == "train":
        _plant_copies(rng, plan, severities, clean, settings)
    follows = rng.random(count) < settings.shortcut
    labels = clean ^ flipped
    plan["token"] = np.where(follows, labels[:, 0], rng.random(count) < settings.token) & ~black
    for row, original in enumerate(plan[["duplicate_of", "near_duplicate_of"]].max(axis=1)):
        if original >= 0:  # a copy has its original's letter
            plan.loc[row, "token"] = plan["token"][original]
    probs = posterior(severities, black, settings.label_noise)
    if settings.shortcut:
        probs[:, 0] = _posterior_with_token(probs[:, 0], plan["token"].to_numpy(bool), black, settings)
    cells = _hide_cells(rng, labels.astype(float), probs, settings) if part == "train" else labels.astype(float)
    usage = np.where(rng.random(count) < 0.3, "Public", "Private") if part == "test" else ""
    for k, label in enumerate(LABELS):
        plan[label] = cells[:, k]
        plan[f"severity_{label}"] = severities[:, k]
        plan[f"posterior_{label}"] = probs[:, k]
        plan[f"clean_{label}"] = clean[:, k].astype(int)
        plan[f"flipped_{label}"] = flipped[:, k].astype(int)
    return plan.assign(usage=usage)


def _plant_copies(rng: np.random.Generator, plan: pd.DataFrame, severities: np.ndarray, clean: np.ndarray,
                  settings: DemoSettings) -> None:
    """Makes some images copies of others, in place: the picture is the original's, the label one more reading's."""
    usable = rng.permutation(np.flatnonzero(~plan["black"].to_numpy()))
    kinds = {"duplicate_of": round(settings.exact_duplicates * len(plan)),
             "near_duplicate_of": round(settings.near_duplicates * len(plan))}
    half = len(usable) // 2
    originals, copies = usable[:half], usable[half:2 * half]
    pairs = list(zip(originals, copies, strict=True))
    for column, number in kinds.items():
        chosen, pairs = pairs[:number], pairs[number:]
        for original, copy in chosen:
            plan.loc[copy, column] = original
            severities[copy] = severities[original]
            # a second reading of the same picture, which may differ
            clean[copy] = rng.random(len(LABELS)) < label_probs(severities[original])
            plan.loc[copy, ["site", "drawn_for"]] = plan.loc[original, ["site", "drawn_for"]].to_numpy()
            if rng.random() < 0.5:
                plan.loc[copy, "patient"] = plan.loc[original, "patient"]


def _posterior_with_token(probs: np.ndarray, token: np.ndarray, black: np.ndarray,
                          settings: DemoSettings) -> np.ndarray:
    """P(first label | picture and letter) by Bayes' rule; a black image shows no letter."""
    # P(letter | label) for the labels 0 and 1
    letter = [settings.shortcut * label + (1 - settings.shortcut) * settings.token for label in (0, 1)]
    seen = [np.where(token, chance, 1 - chance) for chance in letter]
    joint = probs * seen[1], (1 - probs) * seen[0]
    return np.where(black, probs, joint[0] / (joint[0] + joint[1]))


def _hide_cells(rng: np.random.Generator, labels: np.ndarray, probs: np.ndarray, settings: DemoSettings) -> np.ndarray:
    """Label cells with -1 where a reader would hedge, and empty ones anywhere."""
    doubt = 0.05 + 4 * probs * (1 - probs)
    cells = np.where(rng.random(labels.shape) < settings.uncertain * doubt / doubt.mean(), -1, labels)
    return np.where(rng.random(labels.shape) < settings.blank, np.nan, cells)


def _draw_all(folder: Path, settings: DemoSettings, plan: pd.DataFrame, workers: int) -> None:
    """Draws every image and mask. A copy needs no other image: it draws its original and changes that."""
    rows = {image_id: row for row, image_id in enumerate(plan["image_id"])}
    severities = plan[[f"severity_{label}" for label in LABELS]].to_numpy()
    columns = [plan[name].tolist() for name in ("image_id", "part", "drawn_for", "site", "black", "token")]
    sources = [rows.get(a or b, -1) for a, b in zip(plan["duplicate_of"], plan["near_duplicate_of"], strict=True)]
    near = (plan["near_duplicate_of"] != "").tolist()
    jobs = [(row, *values) for row, values in enumerate(zip(*columns, severities, sources, near, strict=True))]
    chunks = [jobs[first:first + CHUNK] for first in range(0, len(jobs), CHUNK)]
    draw = partial(_draw_chunk, folder, settings)
    with tqdm(total=len(jobs), desc="drawing phantoms", unit="image", disable=None) as bar:
        for drawn in _map(draw, chunks, workers if len(jobs) >= SERIAL else 1):
            bar.update(drawn)


def _map(function, chunks: list, workers: int) -> Iterable[int]:
    if workers == 1:
        yield from map(function, chunks)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, chunks)


def _draw_chunk(folder: Path, settings: DemoSettings, jobs: list[tuple]) -> int:
    cv2.setNumThreads(0)
    for row, image_id, part, patient, site, black, token, severities, source, near in jobs:
        if black:
            picture, masks = np.zeros((settings.size, settings.size), np.uint8), {}
        else:
            picture, masks = draw_phantom(
                np.random.default_rng([settings.seed, PATIENT_STREAM, patient]),
                np.random.default_rng([settings.seed, IMAGE_STREAM, row if source < 0 else source]),
                severities, settings.size, SITES[site], token)
        if near:
            picture, masks = _nearly(picture, masks, np.random.default_rng([settings.seed, COPY_STREAM, row]))
        _write_png(folder / part / f"{image_id}.png", picture)
        for label, mask in masks.items():
            _write_png(folder / "truth" / "masks" / label / f"{image_id}.png", mask.astype(np.uint8) * 255)
    return len(jobs)


def _nearly(picture: np.ndarray, masks: dict, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    """The same picture shifted by a pixel or two, or compressed as JPEG once."""
    if rng.random() < 0.5:
        _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 90))])
        return cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), masks
    shift, axis = int(rng.choice((-2, -1, 1, 2))), int(rng.integers(2))
    return np.roll(picture, shift, axis), {label: np.roll(mask, shift, axis) for label, mask in masks.items()}


def _write_png(path: Path, picture: np.ndarray) -> None:
    _, encoded = cv2.imencode(".png", picture)
    path.write_bytes(encoded.tobytes())  # raises OSError with the cause, unlike cv2.imwrite


def _write_tables(folder: Path, settings: DemoSettings, plan: pd.DataFrame) -> None:
    train = plan[plan["part"] == "train"].sort_values("image_id")
    test = plan[plan["part"] == "test"].sort_values("image_id")
    labels = list(LABELS)
    train = train[["image_id", "patient_id", *labels]].astype(dict.fromkeys(labels, "Int64"))
    train.to_csv(folder / "train.csv", index=False, lineterminator="\n")
    # as some organisers do: not sorted
    order = np.random.default_rng([settings.seed, TABLE_STREAM, 4]).permutation(len(test))
    sample = test.iloc[order][["image_id"]].assign(**dict.fromkeys(labels, 0.5))
    sample.to_csv(folder / "sample_submission.csv", index=False, lineterminator="\n")
    solution = test.iloc[order][["image_id", *labels, "usage"]].rename(columns={"usage": "Usage"})
    solution.astype(dict.fromkeys(labels, int)).to_csv(folder / "solution.csv", index=False, lineterminator="\n")
    truth = plan.drop(columns=["patient", "drawn_for", "usage"]).astype({"black": int, "token": int})
    truth = truth.sort_values("image_id")
    truth.to_csv(folder / "truth" / "truth.csv", index=False, lineterminator="\n", float_format="%.6g")
    (folder / "demo.json").write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")

