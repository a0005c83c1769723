"""Shows which images look alike to a network:  python src/show_neighbours.py --experiment lite0

Draws a t-SNE map of the network's features of all out-of-fold images, each computed by the model that did not train on
it, to neighbours.png, with thumbnails and coloured by label, prediction, error and fold. With --image, draws the
nearest training images of the given images, of any part, to neighbours_of_images.png. The files are written to
runs/<competition>/<experiment>/. For features of ImageNet weights name a run on a frozen network, such as knn_lite0.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from commandline import (
    add_experiment,
    load_workspace,
    make_parser,
    run_script,
    trained_names,
)
from common.console import short_id
from common.figures import save_figure
from common.files import write_json
from common.hardware import tune_process
from common.image_grid import Tile, draw_tiles, labels_text
from competition import Competition
from data.folds import fold_numbers
from data.pixel_store import PixelStore
from data.tables import label_cells
from explaining.embedding_map import draw_map, make_views
from explaining.embeddings import align_spaces, embed_part, is_one_space, lay_out, search_from_outside, search_held_out
from explaining.held_out_maps import read_trained
from results.adopted_rules import rule_for
from results.runs import Oof, read_predictions, run_folder
from results.workspace import Workspace
from scoring.metrics import decide

MOST_ON_MAP = 5000  # images; a random choice of more
NEIGHBOURS = 8      # of an image
MOST_PROBS = 3      # highest probabilities in the text of a tile


def main(argv: list[str] | None = None) -> list[Path]:
    """Draws the map of every run, or the neighbours of the given images; returns the paths."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    parser.add_argument("--image", nargs="+", metavar="ID", help="draw the nearest training images of these instead")
    args = parser.parse_args(argv)
    tune_process()
    workspace = load_workspace(args)
    paths = []
    for name in trained_names(args):
        oof = read_trained(workspace, name)
        if oof.members:
            print(f"{name} is a blend and has no features; name its members: {' '.join(oof.members)}")
        elif args.image:
            paths.append(draw_neighbours(workspace, oof, list(dict.fromkeys(args.image))))
        else:
            paths.append(draw_run(workspace, oof))
    if paths:
        print(f"written: {', '.join(map(str, paths))}")
    return paths


def draw_run(workspace: Workspace, oof: Oof) -> Path:
    """Draws a run's map; returns its path. neighbours.json records the weights that it was made from.

    Raises ValueError if all images of the run are constant.
    """
    competition, table = workspace.competition, workspace.table
    store = workspace.store("train", oof.runs[0].experiment)
    embedded, folds, usable = _embed_train(workspace, oof, store)
    predicted = usable & ~np.isnan(oof.probs).any(axis=1)
    if not predicted.any():
        raise ValueError(f"run {oof.name!r}: every predicted image is constant (one grey value); there is nothing to "
                         "draw")
    targets, decisions = workspace.label_targets, np.zeros(oof.probs.shape, np.int8)
    decisions[predicted] = decide_held_out(workspace, oof, targets[predicted], oof.probs[predicted],
                                           folds[predicted])
    rows = np.flatnonzero(predicted)
    if len(rows) > MOST_ON_MAP:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_ON_MAP])
    if one_space := is_one_space(embedded):
        points, agreement = embedded[0], 1.0
    else:
        points, agreement = align_spaces(embedded, [run.recipe["fold"] for run in oof.runs], folds, usable)
    note = _note(len(rows), predicted.sum(), one_space, agreement)
    print(note)
    places = lay_out(np.asarray(points[rows], np.float32))
    views = make_views(competition, workspace.cells[rows], oof.probs[rows], decisions[rows], folds[rows])
    images = store.read(store.rows(table["image_id"].iloc[rows]))
    folder = run_folder(competition, oof.name)
    path = save_figure(draw_map(f"{competition.name} / {oof.name}", note, places, views, images),
                       folder / "neighbours.png")
    write_json(folder / "neighbours.json", {"made_from": {"weights": oof.made_of}})
    return path


def decide_held_out(workspace: Workspace, oof: Oof, targets: np.ndarray, probs: np.ndarray,
                    folds: np.ndarray) -> np.ndarray:
    """(n, K) decisions of every fold by the run's rule fitted on the other folds; with a single fold at 0.5."""
    competition = workspace.competition
    if len(np.unique(folds)) < 2:
        return decide(probs, np.full(len(competition.labels), 0.5), competition.task)
    return rule_for(workspace, oof, "decisions").crossfit(targets, probs, folds)


def draw_neighbours(workspace: Workspace, oof: Oof, image_ids: list[str]) -> Path:
    """Draws the nearest training images of the given images; returns the figure's path.

    A training image is compared by the model of its own fold, an image of another part by the mean distance over the
    models that trained on the neighbour. Raises ValueError with the ids that are in no part.
    """
    competition, table = workspace.competition, workspace.table
    parts = {"train": table, **workspace.predicted_parts}
    part_of = {image_id: part for part, images in reversed(parts.items())
               for image_id in set(images["image_id"]) & set(image_ids)}
    if unknown := [image_id for image_id in image_ids if image_id not in part_of]:
        raise ValueError(f"no image is called {', '.join(unknown)} in the parts {', '.join(parts)} of "
                         f"{competition.name!r}; ids look like {table['image_id'].iloc[0]}")
    train_store = workspace.store("train", oof.runs[0].experiment)
    embedded, folds, usable = _embed_train(workspace, oof, train_store)
    held_out = [run.recipe["fold"] for run in oof.runs]

    def train_tile(row: int, distance: float) -> Tile:
        image_id = table["image_id"].iloc[row]
        return Tile(f"{short_id(image_id)}\n{labels_text(competition, workspace.cells[row])}\n"
                    f"distance {distance:.3f}", train_store.read(train_store.rows([image_id]))[0])

    lines = {}
    for part in dict.fromkeys(part_of.values()):
        asked, images = [each for each in image_ids if part_of[each] == part], parts[part]
        rows = pd.Index(images["image_id"]).get_indexer(asked)
        if part == "train":
            store, probs, cells = train_store, oof.probs[rows], workspace.cells[rows]
            nearest = search_held_out(embedded, held_out, folds, usable, rows, NEIGHBOURS)
        else:
            store, probs, cells = _read_part(workspace, oof, part, rows)
            features = [each[store.rows(asked)] for each in embed_part(competition, oof, part, store)]
            nearest = search_from_outside(features, embedded, held_out, folds, usable, NEIGHBOURS)
        for number, image_id in enumerate(asked):
            text = (f"{short_id(image_id)}\n{part}: {labels_text(competition, cells[number])}\n"
                    f"{probs_text(competition, probs[number])}")
            lines[image_id] = [Tile(text, store.read(store.rows([image_id]))[0], "#0072b2"), *(
                train_tile(row, distance)
                for row, distance in zip(nearest.rows[number], nearest.distances[number], strict=True) if row >= 0)]
    figure = draw_tiles(f"{competition.name} / {oof.name}: nearest training images",
                        "Left, framed: the given image. Distance: 1 - cosine between features. Features of a training "
                        "image are of the model that did not train on it.", [lines[each] for each in image_ids])
    return save_figure(figure, run_folder(competition, oof.name) / "neighbours_of_images.png")


def _read_part(workspace: Workspace, oof: Oof, part: str,
               rows: np.ndarray) -> tuple[PixelStore, np.ndarray, np.ndarray]:
    """The store of a part without folds, and of its rows (m,) the probabilities and cells, (m, K) each, NaN if unknown.
    """
    competition, images = workspace.competition, workspace.part(part)
    unknown = np.full((len(rows), len(competition.labels)), np.nan)
    probs = read_predictions(competition, oof, part, images["image_id"])
    labelled = set(competition.labels) <= set(images.columns)
    return (workspace.store(part, oof.runs[0].experiment), unknown if probs is None else probs[rows],
            label_cells(competition, images)[rows] if labelled else unknown)


def _embed_train(workspace: Workspace, oof: Oof,
                 store: PixelStore) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Features (N, D) of each model in the table's order, folds (N,), and (N,) bool, which images are not constant."""
    table = workspace.table
    rows = store.rows(table["image_id"])
    embedded = embed_part(workspace.competition, oof, "train", store)
    if not np.array_equal(rows, np.arange(len(store))):
        embedded = [features[rows] for features in embedded]
    return embedded, fold_numbers(table, oof.runs[0].experiment.split), ~table["constant"].to_numpy()


def _note(drawn: int, total: int, one_space: bool, agreement: float) -> str:
    images = f"{drawn:,} images" if drawn == total else f"{drawn:,} of {total:,} images, chosen at random"
    space = ("All folds share one frozen network." if one_space else
             "The features of each fold were rotated onto those of the first, without use of labels; their correlation "
             f"is then {agreement:.2f}, and what separates folds can be the rest.")
    return (f"{images}; features are of the model that did not train on the image. {space} Near points are alike; "
            "distances between groups mean little.")


def probs_text(competition: Competition, probs: np.ndarray) -> str:
    """The highest probabilities, one per line. probs: (K,), NaN if the image is not predicted."""
    if np.isnan(probs).any():
        return "not predicted"
    order = np.argsort(-probs, kind="stable")[:MOST_PROBS]
    return "p " + "\n   ".join(f"{competition.labels[k]} {probs[k]:.2f}" for k in order)


if __name__ == "__main__":
    run_script(main)
