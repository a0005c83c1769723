"""Features of images by a run's networks, their nearest training images, and their layout by t-SNE."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import orthogonal_procrustes
from tqdm import tqdm

from competition import Competition
from data.pixel_store import PixelStore
from results.runs import Oof

AT_ONCE = 256           # images whose distances to all others are in memory at a time
COMPONENTS = 50         # principal components that t-SNE gets
PERPLEXITY = 30
LEAST_FOR_TSNE = 8      # images; fewer get their first two principal components


@dataclass(frozen=True)
class Nearest:
    """The nearest training images of m images: rows (m, c) into the training table, -1 where there are no more.

    distances (m, c): 1 - cosine of the angle between the features, 0 to 2, NaN where there are no more.
    """

    rows: np.ndarray
    distances: np.ndarray


def embed_part(competition: Competition, oof: Oof, part: str, store: PixelStore) -> list[np.ndarray]:
    """Features of all of a store's images by each of the run's models, in the order of oof.runs: (N, D) float32.

    Features are the input of the last layer; with one network per label, those of all of them. They are computed once
    and kept in data/features. The arrays are equal if the backbone is frozen.
    Raises ValueError if a network has no vector before its last layer.
    """
    from common.hardware import pick_device
    from models.classifier import PerTask
    from models.frozen_features import open_features
    from results.checkpoints import load_model

    embedded = []
    for run in tqdm(oof.runs, desc=f"{oof.name}, features of {part}", unit="model", leave=False, disable=None):
        model = load_model(run, pick_device())
        parts = model.classifiers if isinstance(model, PerTask) else [model]
        arrays = [open_features(f"{competition.name}-{part}", each, store, run.experiment.network).features
                  for each in parts]
        embedded.append(arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1))
    return embedded


def is_one_space(embedded: list[np.ndarray]) -> bool:
    """True if all models have the same features, as frozen backbones do."""
    return all(np.array_equal(embedded[0], other) for other in embedded[1:])


def to_sphere(features: np.ndarray) -> np.ndarray:
    """(N, D) float32 rows of length 1; rows of zeros stay zeros."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.divide(features, length, out=np.zeros(features.shape, np.float32), where=length > 0)


def search(asked: np.ndarray, cases: np.ndarray, allowed: np.ndarray, count: int) -> Nearest:
    """The `count` nearest of the allowed cases, by cosine distance, for each of m images.

    asked: (m, D);  cases: (S, D);  allowed: (S,) bool. Exact search; memory grows with S but not with m times S.
    """
    from sklearn.neighbors import NearestNeighbors

    places = np.flatnonzero(allowed)
    rows = np.full((len(asked), count), -1)
    distances = np.full((len(asked), count), np.nan)
    found = min(count, len(places))
    if not found or not len(asked):
        return Nearest(rows, distances)
    index = NearestNeighbors(n_neighbors=found, algorithm="brute").fit(to_sphere(cases[places]))
    for first in tqdm(range(0, len(asked), AT_ONCE), desc="neighbours", unit="batch", leave=False, disable=None):
        part = slice(first, first + AT_ONCE)
        squared, order = index.kneighbors(to_sphere(asked[part]))
        rows[part, :found], distances[part, :found] = places[order], squared**2 / 2
    return Nearest(rows, distances)


def search_held_out(embedded: list[np.ndarray], fold_of_model: list[int], folds: np.ndarray, allowed: np.ndarray,
                    asked: np.ndarray, count: int) -> Nearest:
    """The nearest training images of other folds, by the model that held the image's fold out.

    asked: (m,) rows;  embedded: (N, D) per model;  fold_of_model: the fold that each held out;  folds: (N,);
    allowed: (N,) bool, the possible neighbours. No neighbour is of the image's own group, because folds do not split
    groups. A row whose fold has no model has no neighbours.
    """
    rows, distances = np.full((len(asked), count), -1), np.full((len(asked), count), np.nan)
    for features, fold in zip(embedded, fold_of_model, strict=True):
        here = folds[asked] == fold
        nearest = search(features[asked[here]], features, allowed & (folds != fold), count)
        rows[here], distances[here] = nearest.rows, nearest.distances
    return Nearest(rows, distances)


def search_from_outside(asked: list[np.ndarray], embedded: list[np.ndarray], fold_of_model: list[int],
                        folds: np.ndarray, allowed: np.ndarray, count: int) -> Nearest:
    """The nearest training images of images of another part. asked: (m, D) per model;  embedded: (N, D) per model.

    A distance is the mean over the models that trained on the neighbour; with a single model its held-out fold has no
    neighbours.
    """
    rows = np.full((len(asked[0]), count), -1)
    distances = np.full((len(asked[0]), count), np.nan)
    for number in range(len(asked[0])):
        sums, counts = np.zeros(len(folds)), np.zeros(len(folds), int)
        for features, cases, fold in zip(asked, embedded, fold_of_model, strict=True):
            trained = folds != fold
            sums[trained] += 1 - to_sphere(cases[trained]) @ to_sphere(features[number:number + 1])[0]
            counts += trained
        places = np.flatnonzero(allowed & (counts > 0))
        mean = sums[places] / counts[places]
        order = np.argsort(mean, kind="stable")[:count]
        rows[number, :len(order)], distances[number, :len(order)] = places[order], mean[order]
    return Nearest(rows, distances)


def align_spaces(embedded: list[np.ndarray], fold_of_model: list[int], folds: np.ndarray, used: np.ndarray,
                 ) -> tuple[np.ndarray, float]:
    """(N, D) held-out features of every image, rotated into the first model's space, and their agreement.

    Features of each model are centred, scaled to unit mean square, and rotated or mirrored onto those of the first
    model by orthogonal Procrustes over the images `used` (N,) bool, without labels. Distances within a fold change by a
    factor only. The agreement is the correlation of the coordinates afterwards, averaged over the other models; 1 with
    one model. Rows are NaN if their fold has no model.
    Source: orthogonal Procrustes, Schönemann 1966, https://doi.org/10.1007/BF02289451
    """
    aligned = np.full(embedded[0].shape, np.nan, np.float32)
    reference, agreements = None, []
    for features, fold in zip(embedded, fold_of_model, strict=True):
        centred = to_sphere(features)
        centred = centred - centred[used].mean(axis=0)
        centred /= max(np.sqrt(np.square(centred[used]).sum(axis=1).mean()), 1e-12)
        if reference is None:
            reference = centred
        else:
            turn, _ = orthogonal_procrustes(centred[used], reference[used])
            centred = centred @ turn
            agreements.append((centred[used] * reference[used]).sum() / used.sum())
        aligned[folds == fold] = centred[folds == fold]
    return aligned, float(np.mean(agreements)) if agreements else 1.0


def lay_out(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """(n, 2) in [0, 1], t-SNE of points (n, D); with too few points their first two principal components.

    Near points stay near. Distances between groups and their sizes mean little.
    Source: van der Maaten & Hinton 2008, https://www.jmlr.org/papers/v9/vandermaaten08a.html
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    centred = points - points.mean(axis=0)
    if len(points) > 1 and np.abs(centred).max() > 0:
        components = min(COMPONENTS, *points.shape)
        centred = PCA(components, svd_solver="full" if components < COMPONENTS else "randomized",
                      random_state=seed).fit_transform(centred)
    if len(points) >= LEAST_FOR_TSNE and np.abs(centred).max() > 0:
        perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
        flat = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed).fit_transform(centred)
    else:
        flat = np.zeros((len(points), 2))
        flat[:, :min(2, centred.shape[1])] = centred[:, :2]
    spans = np.ptp(flat, axis=0)
    return 0.5 + (flat - flat.min(axis=0) - spans / 2) / (spans.max() or 1)
