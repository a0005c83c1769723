"""Which layer points best, by Grad-CAM and by HiResCAM: python tests/benchmarks/gradcam_layers.py

Needs finished runs on the demo, whose findings' masks are known; networks and images a label are arguments. Every layer
that gives a map explains out-of-fold images on which a label is there: is the hottest pixel in the finding, how much of
the heat is. Layers, and the rule "the last map of at least so many cells a side", are chosen on the patients of one
half and reported on those of the other. Ten minutes of one core for all six networks.
"""

import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "src")]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import nn  # noqa: E402
from tqdm import tqdm  # noqa: E402

from commandline import add_experiment, load_workspace, make_parser  # noqa: E402
from common.console import make_console  # noqa: E402
from common.hardware import tune_process  # noqa: E402
from data.folds import fold_numbers  # noqa: E402
from explain import read_masks  # noqa: E402
from explaining.held_out_maps import BlendMember, open_members  # noqa: E402
from explaining.map_quality import mean_interval, share_inside  # noqa: E402
from explaining.methods import METHODS as ALL_METHODS  # noqa: E402
from explaining.methods import explain_images  # noqa: E402
from explaining.pointing_game import hottest_pixel  # noqa: E402
from models.cam_layers import CLASS_BLOCKS, map_sides  # noqa: E402
from results.checkpoints import load_model  # noqa: E402
from training.batches import ordered_batches  # noqa: E402

NAMES = ["cnn_a", "cnn_b", "cnn_c", "cnn_d", "cnn_e", "lite0"]
METHODS = {name: method for name, method in ALL_METHODS.items() if method.cam_layer}
LEAST = (2, 4, 5, 6, 7, 8, 12, 16, 32)  # cells a side
BATCH = 32


def main() -> None:
    parser = make_parser(__doc__)
    add_experiment(parser)
    parser.add_argument("--images", type=int, default=150, help="of every label, at most; default: 150")
    parser.set_defaults(experiment=NAMES)
    args = parser.parse_args()
    tune_process()
    workspace = load_workspace(args)
    competition, data_dir, table = workspace.competition, workspace.data_dir, workspace.table
    targets = workspace.label_targets.copy()
    targets[table["constant"].to_numpy()] = np.nan
    played = {}
    for name in args.experiment:
        oof = workspace.oof(name)
        member, = open_members(competition, oof, table)
        masks = {k: read_masks(data_dir, label, table["image_id"],
                               np.flatnonzero((targets[:, k] == 1) & ~np.isnan(oof.probs[:, k])),
                               member.store.settings, args.images) for k, label in enumerate(competition.labels)}
        played[name] = pd.DataFrame(play(member, table, masks))
        show_layers(name, played[name])
    show_rules(played)


def play(member: BlendMember, table: pd.DataFrame, masks: dict[int, dict[int, np.ndarray]]) -> Iterator[dict]:
    """A row a layer, method, label and image."""
    places, fold_of = member.store.rows(table["image_id"]), fold_numbers(table, member.runs[0].experiment.split)
    halves = np.array([zlib.crc32(group.encode()) % 2 for group in table["group"].astype(str)])
    for run in tqdm(member.runs, desc=member.name, unit="fold", disable=None):
        model = load_model(run)
        used, sides = model.cam_layers, candidates(model.network, run.recipe["channels"], run.experiment.image_size)
        for k, by_row in masks.items():
            rows = np.array([row for row in by_row if fold_of[row] == run.recipe["fold"]], int)
            for images, _, stored in ordered_batches(member.store, places[rows], BATCH) if len(rows) else ():
                done, rows = rows[:len(stored)], rows[len(stored):]
                for method in METHODS:
                    for layer, side in sides.items():
                        model.cam_layers = {METHODS[method].cam_layer: layer}
                        maps = explain_images(method, model, images, k, run.recipe["task"])
                        for row, heat, nothing in zip(done, maps.heat.numpy(), maps.empty.tolist(), strict=True):
                            yield {"layer": layer, "side": side, "method": method, "half": halves[row],
                                   "used": layer == used[METHODS[method].cam_layer],
                                   "inside": float(not nothing and by_row[row][hottest_pixel(heat)]),
                                   "share": share_inside(heat, by_row[row])}


def candidates(network: nn.Module, channels: int, image_size: int) -> dict[str, int]:
    """The layers of `map_sides`; of a transformer with a class token all blocks and their first norms."""
    sides = map_sides(network, channels, image_size)
    if hasattr(network, "blocks") and hasattr(network, "cls_token"):
        side = next(iter(sides.values()))
        sides = {name: side for name, _ in network.named_modules()
                 if name.startswith(("blocks.", *CLASS_BLOCKS)) and name.rpartition(".")[2] == "norm1"
                 or name.startswith("blocks.") and name.count(".") == 1}
    return sides


def cell(values: pd.Series) -> str:
    mean, low, high = mean_interval(values.to_numpy())
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def show_layers(name: str, played: pd.DataFrame) -> None:
    """All layers by both measures and methods; in bold what the code looks at."""
    board = Table("layer", "cells", *(f"{method}: {what}" for method in METHODS for what in ("inside", "heat inside")),
                  title=f"{name}: {len(played) // played.groupby(['layer', 'method']).ngroups} images")
    for (layer, side), part in played.groupby(["layer", "side"], sort=False):
        cells = []
        for method in METHODS:
            mine = part[part["method"] == method]
            style = "[bold]" if mine["used"].any() else ""
            cells += [style + cell(mine["inside"]), style + cell(mine["share"])]
        board.add_row(layer, str(side), *cells)
    make_console().print(board)


def show_rules(played: dict[str, pd.DataFrame]) -> None:
    """The rule by its number, chosen on one half; on the other what it gives, beside each network's own best layer."""
    board = Table("least cells", *(f"{method}, half {half}" for method in METHODS for half in (0, 1)),
                  title="hottest pixel inside, mean over networks: the last map of at least so many cells")
    for least in LEAST:
        board.add_row(str(least), *(
            f"{np.mean([by_rule(each, method, least, half).mean() for each in played.values()]):.3f}"
            for method in METHODS for half in (0, 1)))
    make_console().print(board)
    board = Table("network", "method", "least cells", "by the rule", "best layer", "by that layer", "in use", "by that",
                  title="chosen on half 0, hottest pixel inside on half 1")
    for method in METHODS:
        least = max(LEAST, key=lambda number: np.mean([by_rule(each, method, number, 0).mean()
                                                       for each in played.values()]))
        for name, each in played.items():
            mine = each[each["method"] == method]
            best = mine[mine["half"] == 0].groupby("layer", sort=False)["inside"].mean().idxmax()
            other = mine[mine["half"] == 1]
            board.add_row(name, method, str(least), cell(by_rule(each, method, least, 1)), best,
                          cell(other.loc[other["layer"] == best, "inside"]), other.loc[other["used"], "layer"].iloc[0],
                          cell(other.loc[other["used"], "inside"]))
    make_console().print(board)


def by_rule(played: pd.DataFrame, method: str, least: int, half: int) -> pd.Series:
    """Hits of one half by the last layer of at least so many cells, or the largest there is."""
    layers = played.drop_duplicates("layer")
    layer = layers.loc[layers["side"] >= min(least, layers["side"].max()), "layer"].iloc[-1]
    return played.loc[(played["layer"] == layer) & (played["method"] == method) & (played["half"] == half), "inside"]


if __name__ == "__main__":
    main()
