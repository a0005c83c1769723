"""Which images look alike to a network:  python src/show_neighbours.py --experiment lite0

Draws all out-of-fold images as a map, t-SNE of what the one model that never saw an image makes of it: neighbours.html,
a page to hover over with every image's nearest training cases, and neighbours.png; and confusion.png. With --image, the
nearest training cases of these images, of the training or of another part, as a sheet. All to
runs/<competition>/<experiment>/. For ImageNet's own features name a run on a frozen network, such as knn_lite0.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from commandline import add_experiment, load_competition, load_folded_table, make_parser, run_names
from common.console import short_id
from common.figures import save_figure
from common.files import read_json, sha256, write_json
from common.hardware import tune_process
from common.image_grid import Tile, draw_tiles, labels_text
from competition import Competition
from data.folds import Folds, fold_numbers, read_predicted_parts
from data.labels import scoring_targets
from data.pixel_store import PixelStore, open_store, pixel_settings
from data.tables import label_cells
from explaining.embedding_map import draw_confusion, draw_map, make_views
from explaining.embeddings import (
    Nearest,
    align_spaces,
    embed_part,
    is_one_space,
    lay_out,
    search_from_outside,
    search_held_out,
)
from explaining.mappage import Points, write_page
from results.adopted_rules import policy_for, policy_inputs
from results.runs import Oof, read_oof, read_predictions, run_folder, train_command
from scoring.metrics import decide

DRAWN = 5000     # images on the map; of more a random choice
ON_PAGE = 5      # nearest cases of an image there
ON_SHEET = 8     # and on a sheet
SAYS = 3         # labels whose probabilities are told, the highest
NEXT_LINE = "\n   "
FORMAT = 1       # of what is drawn: raise it when it comes to look different


def main(argv: list[str] | None = None) -> list[Path]:
    """Draws every experiment's map, or the sheet of the images asked for; returns the paths."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    parser.add_argument("--image", nargs="+", metavar="ID", help="the nearest training cases of these images instead")
    args = parser.parse_args(argv)
    tune_process()
    competition, data_dir = load_competition(args)
    table, folds = load_folded_table(competition, data_dir)
    paths = []
    for name in run_names(args):
        oof = read_oof(competition, name, table, folds.hash)
        if oof.members:
            print(f"{name} is a blend and has no features of its own; look at its members: {' '.join(oof.members)}")
        elif args.image:
            paths.append(draw_neighbours(competition, data_dir, oof, table, folds, list(dict.fromkeys(args.image))))
        else:
            paths += draw_run(competition, oof, table)
    if paths:
        print(f"look at {', '.join(map(str, paths))}")
    return paths


def draw_run(competition: Competition, oof: Oof, table: pd.DataFrame) -> list[Path]:
    """Writes a run's map, as a page and as a picture, and its confusion matrices; returns their paths.

    What was made from the same models, images and labels already is left as it is.
    """
    folder, title = run_folder(competition, oof.name), f"{competition.name} / {oof.name}"
    files = [folder / name for name in ("neighbours.html", "neighbours.png", "confusion.png")]
    store = _open_train(competition, oof, table)
    inputs = {
        "format": FORMAT,
        "images": store.folder.name,
        "labels": sha256(label_cells(competition, table).tobytes()),
        "folds": oof.runs[0].recipe["folds_sha256"],
        "probabilities": sha256(np.ascontiguousarray(oof.probs).tobytes()),
        "weights": oof.made_of,
    } | policy_inputs(competition, oof)
    account = folder / "neighbours.json"
    if account.exists() and read_json(account).get("made_from") == inputs and all(path.exists() for path in files):
        print(f"{files[0]} is there already, made from these very models and images")
        return files
    embedded, folds, usable = _embed_train(competition, oof, table, store)
    here = usable & ~np.isnan(oof.probs).any(axis=1)
    cells, decisions = label_cells(competition, table), np.zeros(oof.probs.shape, np.int8)
    decisions[here] = decide_held_out(competition, oof, scoring_targets(cells)[here], oof.probs[here], folds[here])
    rows = np.flatnonzero(here)
    if len(rows) > DRAWN:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:DRAWN])
    if not len(rows):
        raise ValueError(f"run {oof.name!r}: every image that its folds predicted is of one grey value; there is "
                         "nothing to draw")
    account.unlink(missing_ok=True)  # what it says of the files is no longer so
    _draw_confusion(title, competition, scoring_targets(cells)[here], decisions[here], files[2])
    held_out = [run.recipe["fold"] for run in oof.runs]
    if one_space := is_one_space(embedded):
        points, agreement = embedded[0], 1.0
    else:
        points, agreement = align_spaces(embedded, held_out, folds, usable)
    note = _note(oof, len(rows), here.sum(), one_space, agreement)
    print(note)
    places = lay_out(np.asarray(points[rows], np.float32))
    views = make_views(competition, cells[rows], oof.probs[rows], decisions[rows], folds[rows])
    save_figure(draw_map(title, note, places, views), files[1])
    nearest = search_held_out(embedded, held_out, folds, usable, rows, ON_PAGE)
    images = store.read(store.rows(table["image_id"].iloc[rows]))
    write_page(files[0], title, note, _points(competition, table, cells, oof.probs, rows, places, nearest), views,
               images)
    write_json(account, {"made_from": inputs})
    return files


def decide_held_out(competition: Competition, oof: Oof, targets: np.ndarray, probs: np.ndarray,
                    folds: np.ndarray) -> np.ndarray:
    """(n, K) decisions about every fold by the run's policy fitted on the other folds; of one fold alone at 0.5."""
    if len(np.unique(folds)) < 2:
        return decide(probs, np.full(len(competition.labels), 0.5), competition.task)
    return policy_for(competition, oof, "decisions").crossfit(targets, probs, folds)


def draw_neighbours(competition: Competition, data_dir: Path, oof: Oof, table: pd.DataFrame, folds: Folds,
                    image_ids: list[str]) -> Path:
    """Writes the sheet of these images' nearest training cases; returns its path.

    Of a training image, as the model of its fold sees them. Of another part's, by the mean distance of all models that
    were trained on the case. Raises ValueError with the ids that are in no part.
    """
    parts = {"train": table, **read_predicted_parts(competition, data_dir, folds)}
    where = {image_id: part for part, images in reversed(parts.items())
             for image_id in set(images["image_id"]) & set(image_ids)}
    if unknown := [image_id for image_id in image_ids if image_id not in where]:
        raise ValueError(f"no image is called {', '.join(unknown)} in the parts {', '.join(parts)} of "
                         f"{competition.name!r}; ids look like {table['image_id'].iloc[0]}")
    store = _open_train(competition, oof, table)
    embedded, fold_of, usable = _embed_train(competition, oof, table, store)
    held_out, cells = [run.recipe["fold"] for run in oof.runs], label_cells(competition, table)
    lines = {}
    for part in dict.fromkeys(where.values()):
        asked, images = [each for each in image_ids if where[each] == part], parts[part]
        if part == "train":
            own, rows = store, pd.Index(table["image_id"]).get_indexer(asked)
            nearest = search_held_out(embedded, held_out, fold_of, usable, rows, ON_SHEET)
            probs, truths = oof.probs[rows], cells[rows]
        else:
            own = open_store(f"{competition.name}-{part}", images, pixel_settings(competition, oof.runs[0].experiment))
            places = own.rows(asked)
            seen = [features[places] for features in embed_part(competition, oof, part, own)]
            nearest = search_from_outside(seen, embedded, held_out, fold_of, usable, ON_SHEET)
            rows = pd.Index(images["image_id"]).get_indexer(asked)
            known = read_predictions(competition, oof, part, images["image_id"])
            probs = np.full((len(asked), len(competition.labels)), np.nan) if known is None else known[rows]
            is_known = set(competition.labels) <= set(images.columns)
            truths = label_cells(competition, images)[rows] if is_known else np.full(probs.shape, np.nan)
        for number, image_id in enumerate(asked):
            text = (f"{short_id(image_id)}\n{part}: {labels_text(competition, truths[number])}\n"
                    f"{_said(competition, probs[number], NEXT_LINE)}")
            lines[image_id] = [Tile(text, own.read(own.rows([image_id]))[0], "#0072b2"), *(
                _tile(competition, table, cells, store, row, distance)
                for row, distance in zip(nearest.rows[number], nearest.distances[number], strict=True) if row >= 0)]
    figure = draw_tiles(f"{competition.name} / {oof.name}: nearest training cases",
                        "Left, framed: the image asked for. Distance: 1 - cosine between features. A training image is "
                        "seen by the model that was not trained on it.", [lines[each] for each in image_ids])
    return save_figure(figure, run_folder(competition, oof.name) / "neighbours_of_images.png")


def _open_train(competition: Competition, oof: Oof, table: pd.DataFrame) -> PixelStore:
    """The training images as the run's networks take them. Raises FileNotFoundError where no fold of it is finished."""
    if not oof.runs:
        raise FileNotFoundError(f"run {oof.name!r} has no finished fold; run: python src/train.py --competition "
                                f"{competition.name} --experiment {oof.name}")
    if oof.folds_missing:
        print(f"{oof.name}: the folds {', '.join(map(str, oof.folds_missing))} are not trained, their images are left "
              f"out; run: {train_command(competition, oof)}")
    return open_store(f"{competition.name}-train", table, pixel_settings(competition, oof.runs[0].experiment))


def _embed_train(competition: Competition, oof: Oof, table: pd.DataFrame,
                 store: PixelStore) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Features a model in the table's order, folds (N,), and which images show anything (N,) bool."""
    rows = store.rows(table["image_id"])
    embedded = embed_part(competition, oof, "train", store)
    if not np.array_equal(rows, np.arange(len(store))):
        embedded = [features[rows] for features in embedded]
    return embedded, fold_numbers(table, oof.runs[0].experiment.split), ~table["constant"].to_numpy()


def _note(oof: Oof, drawn: int, total: int, one_space: bool, agreement: float) -> str:
    chosen = f"{drawn:,} images" if drawn == total else f"{drawn:,} of {total:,} images, drawn at random"
    space = ("Features of one frozen network, the same in all folds." if one_space else
             "Each fold's space is turned onto the first one's without a look at labels, and then correlates with it "
             f"by {agreement:.2f}: what parts the folds may be that.")
    return (f"{chosen}, each as the one model saw it that was not trained on it. {space} Near points are alike; how "
            "far apart groups lie means little.")


def _points(competition: Competition, table: pd.DataFrame, cells: np.ndarray, probs: np.ndarray, rows: np.ndarray,
            places: np.ndarray, nearest: Nearest) -> Points:
    beside = np.setdiff1d(nearest.rows[nearest.rows >= 0], rows)
    named = np.concatenate([rows, beside])
    place_of = np.full(len(table) + 1, -1)  # the last one is that of "none"
    place_of[named] = np.arange(len(named))
    return Points(places, table["image_id"].iloc[named].tolist(),
                  [labels_text(competition, cells[row]) for row in named],
                  [_said(competition, probs[row]) for row in rows], place_of[nearest.rows], nearest.distances)


def _said(competition: Competition, probs: np.ndarray, between: str = ", ") -> str:
    """The highest probabilities (K,) in words."""
    if np.isnan(probs).any():
        return "not predicted"
    order = np.argsort(-probs, kind="stable")[:SAYS]
    return "p " + between.join(f"{competition.labels[k]} {probs[k]:.2f}" for k in order)


def _tile(competition: Competition, table: pd.DataFrame, cells: np.ndarray, store: PixelStore, row: int,
          distance: float) -> Tile:
    image_id = table["image_id"].iloc[row]
    return Tile(f"{short_id(image_id)}\n{labels_text(competition, cells[row])}\ndistance {distance:.3f}",
                store.read(store.rows([image_id]))[0])


def _draw_confusion(title: str, competition: Competition, targets: np.ndarray, decisions: np.ndarray,
                    path: Path) -> None:
    figure, _ = draw_confusion(competition, f"{title}: out-of-fold images\ndecided by rules fitted on other folds",
                               targets, decisions)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
