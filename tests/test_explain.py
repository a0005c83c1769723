"""The sheets of Grad-CAM: which images stand on them, what is drawn, and the pointing game."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import beta

import competition as descriptions
import explain
from common.files import write_csv, write_json
from competition import Competition, Part
from data.folds import attach_folds, make_folds, read_folds
from data.pixel_store import PixelSettings, open_store
from data.tables import read_train
from experiment import Experiment
from explain import explain_run, pick_examples
from explaining import attribution
from explaining.heatmap_sheet import Panel, draw_sheet, heat_colours
from explaining.held_out_maps import held_out_maps, open_members
from explaining.image_view import make_columns, pick_labels, truth_text
from explaining.map_quality import CHANCE
from explaining.methods import METHODS, Method
from explaining.pointing_game import hottest_pixel, pointing_game
from results.checkpoints import build_network, load_model, save_weights
from results.runs import Oof, Run, open_run, probs_frame, read_oof, run_folder, write_blend, write_probs
from results.workspace import Workspace

SIZE, N = 24, 40
SQUARES = Competition(name="squares", about="Bright squares.", task="multilabel", labels=("square", "other"),
                      metric="roc_auc", train=Part(table="train.csv", images="train/{image_id}.png"))


@pytest.fixture
def squares(home, monkeypatch):
    """A competition of noise with a bright square in every second image, its folds and the square's masks."""
    monkeypatch.setitem(descriptions.COMPETITIONS, "squares", SQUARES)
    data, rng = home / "data" / "squares", np.random.default_rng(0)
    (data / "train").mkdir(parents=True)
    (data / "truth" / "masks" / "square").mkdir(parents=True)
    rows = []
    for number in range(N):
        image = rng.integers(0, 120, (SIZE, SIZE), dtype=np.uint8)
        if positive := number % 2:
            mask = np.zeros((SIZE, SIZE), np.uint8)
            row, column = rng.integers(0, SIZE - 8, 2)
            mask[row:row + 8, column:column + 8] = 255
            image = np.maximum(image, mask)
            cv2.imwrite(str(data / "truth" / "masks" / "square" / f"i{number:02d}.png"), mask)
        if number >= N - 2:
            image[:] = 0  # black
        cv2.imwrite(str(data / "train" / f"i{number:02d}.png"), image)
        rows.append((f"i{number:02d}", positive, -1 if number == 3 else int(number % 3 == 0)))
    write_csv(data / "train.csv", pd.DataFrame(rows, columns=["image_id", "square", "other"]))
    table, _ = read_train(SQUARES, data)
    make_folds(SQUARES, table, open_store("squares-train", table, PixelSettings(SIZE, 1)), n_folds=2, seed=0)
    return data


def fabricate(data, name: str, network: str = "cnn_b", folds: tuple[int, ...] = (0, 1), per_task: bool = False):
    """A run with random weights whose predicted probability that the square is there grows by number."""
    table, _ = read_train(SQUARES, data)
    split = read_folds(SQUARES)
    table = attach_folds(SQUARES, table, split)
    for fold in folds:
        run = open_run(SQUARES, name, fold, Experiment(network=network, image_size=SIZE, per_task=per_task), split.hash)
        torch.manual_seed(fold)
        weights_hash = save_weights(run, build_network(run))
        ids = table.loc[table["fold"] == fold, "image_id"]
        probs = np.stack([ids.str[1:].astype(int) / N, np.full(len(ids), 0.25)], axis=1)
        write_probs(run.folder / "oof.csv", probs_frame(SQUARES, ids, probs))
        write_json(run.folder / "result.json", {"prior": [0.5, 0.5], "weights_sha256": weights_hash})
    return table


def panel(heat: np.ndarray, is_empty: bool = False, mask: np.ndarray | None = None) -> Panel:
    return Panel("an image", np.full(heat.shape, 100, np.uint8), heat, is_empty, mask)


def paint(figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def tiles(figure, pixels: np.ndarray) -> list[np.ndarray]:
    """The pixels of every axes, in the order in which they were drawn."""
    height, width = pixels.shape[:2]
    boxes = [axes.get_position() for axes in figure.axes]
    return [pixels[round((1 - box.y1) * height):round((1 - box.y0) * height),
                   round(box.x0 * width):round(box.x1 * width)]
            for box in boxes]


def test_the_most_confident_cases_come_first():
    targets = np.array([1, 1, 0, 1, 0, 1, np.nan, 1.0])
    probs = np.array([0.6, 0.9, 0.8, 0.1, 0.2, 0.3, 0.99, 0.7])
    decisions, groups = (probs >= 0.5).astype(int), np.arange(8).astype(str)
    chosen = {outcome: pick_examples(targets, probs, decisions, groups, outcome, count=2)
              for outcome in explain.OUTCOMES}
    assert chosen["true positives"][0].tolist() == [1, 7] and chosen["true positives"][1] == 3
    assert chosen["false positives"][0].tolist() == [2]
    assert chosen["false negatives"][0].tolist() == [3, 5]  # the surest first: the lowest probability
    assert chosen["true negatives"][0].tolist() == [4]


def test_a_group_is_shown_once_by_its_surest_image():
    probs, groups = np.array([0.7, 0.9, 0.8, 0.6]), np.array(["a", "a", "b", "b"])
    rows, total = pick_examples(np.ones(4), probs, np.ones(4), groups, "true positives")
    assert rows.tolist() == [1, 2] and total == 4


def test_hot_pixels_are_red_and_cold_ones_grey():
    heat = np.zeros((16, 16), np.float32)
    heat[4, 12] = 1.0
    figure = draw_sheet("title", "caption", [("label", "true positives", [panel(heat)])])
    image, overlay, _ = tiles(figure, paint(figure))
    height, width = overlay.shape[:2]
    red, green, blue = overlay[round(4.5 / 16 * height), round(12.5 / 16 * width)]
    assert red > 180 and green < 60 and blue < 60
    assert np.ptp(overlay[-4, 4]) == 0  # far away: as grey as it was
    assert np.ptp(image, axis=2).max() == 0  # the image beside it carries no heat


def test_the_colour_bar_has_hot_on_top():
    figure = draw_sheet("title", "caption", [("label", "true positives", [panel(np.zeros((8, 8), np.float32))])])
    bar = tiles(figure, paint(figure))[-1]
    (red, green, blue), bottom = bar[3, bar.shape[1] // 2], bar[-4, bar.shape[1] // 2]
    assert red > 180 and green < 90 and blue < 90
    assert np.ptp(bottom) < 20


def test_the_outline_is_drawn_where_the_mask_ends():
    mask = np.zeros((16, 16), bool)
    mask[:, :8] = True
    outlined = panel(np.zeros((16, 16), np.float32), mask=mask)
    figure = draw_sheet("title", "caption", [("label", "true positives", [outlined])])
    _, overlay, _ = tiles(figure, paint(figure))
    red, green, blue = overlay[overlay.shape[0] // 2].T
    drawn = np.flatnonzero(np.minimum(green, blue) - red > 60) / overlay.shape[1]
    assert len(drawn) and np.abs(drawn - 0.5).max() < 1 / 16


@pytest.mark.parametrize("is_empty", [True, False])
def test_an_empty_map_is_called_empty(is_empty):
    cold = panel(np.zeros((8, 8), np.float32), is_empty)
    figure = draw_sheet("title", "caption", [("label", "true positives", [cold])])
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert ("empty" in said) is is_empty


def test_hot_is_red_and_cold_is_clear():
    hot, warm, cold = heat_colours(np.array([1.0, 0.5, 0.0]))
    assert hot[:3].tolist() == [1, 0, 0]
    assert warm[0] == 1 and 0.3 < warm[1] < 1 and warm[2] == 0
    assert cold[3] == 0 and hot[3] > warm[3] > 0.3


def test_hottest_of_a_plateau_is_its_middle():
    heat = np.zeros((9, 9))
    heat[4:9, 0:3] = 1.0
    assert hottest_pixel(heat) == (6, 1)
    heat[0, 8] = 1.5
    assert hottest_pixel(heat) == (0, 8)


def test_pointing_game_counts_hits_misses_and_empty_maps():
    mask = np.zeros((32, 32), bool)
    mask[8:16, 8:16] = True  # a sixteenth of the image
    masks = [{row: mask for row in range(4)}, {}]
    hottest = {(0, 0): (10, 10), (0, 1): (10, 17), (0, 2): (30, 30), (0, 3): None}
    played = pointing_game(("found", "never drawn"), masks, hottest, np.array([0, 0, 1, 1])).set_index("label")
    assert list(played.index) == ["found", "all"]
    found = played.loc["found"]
    assert (found["images"], found["empty"], found["inside"]) == (4, 1, 0.25)
    assert found["chance"] == 1 / 16
    assert found["best_guess"] == 1.0  # the other fold's masks are in the same place


def test_the_interval_is_wilsons():
    mask = np.eye(8, dtype=bool)
    masks, hottest = [{row: mask for row in range(10)}], {(0, row): (0, 0) if row < 7 else (0, 1) for row in range(10)}
    played = pointing_game(("diagonal",), masks, hottest, np.arange(10) % 2).iloc[0]
    assert (played["low"], played["high"]) == pytest.approx((0.3968, 0.8922), abs=1e-4)  # Wilson 1927 for 7 of 10
    exact = beta.ppf(0.025, 7, 4)
    assert played["low"] != pytest.approx(exact, abs=1e-3)


def test_the_best_guess_comes_from_other_folds():
    left, right = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    left[:, :2], right[:, 6:] = True, True
    masks, hottest = [{0: left, 1: left, 2: right, 3: right}], {(0, row): (0, 0) for row in range(4)}
    assert pointing_game(("side",), masks, hottest, np.array([0, 0, 1, 1])).iloc[0]["best_guess"] == 0


def test_a_run_gets_a_figure_and_a_pointing_game(squares, capsys):
    fabricate(squares, "toy")
    sheets = explain.main(["--competition", "squares", "--experiment", "toy"])
    folder = run_folder(SQUARES, "toy")
    assert sheets == [folder / "gradcam.png"]
    sheet = cv2.imread(str(sheets[0]))
    assert sheet.shape[0] > 500 and sheet.std() > 20
    played = pd.read_csv(folder / "pointing.csv").set_index("label")
    assert played.loc["square", "images"] == N // 2 - 1  # one of the positives is black
    assert "other" not in played.index  # it has no masks
    assert "hottest pixel" in capsys.readouterr().out


def test_figures_are_made_anew_only_for_new_weights(squares, capsys):
    fabricate(squares, "toy")
    sheet, = explain.main(["--competition", "squares", "--experiment", "toy"])
    first = sheet.stat().st_mtime_ns
    assert explain.main(["--competition", "squares", "--experiment", "toy"]) == [sheet]
    assert sheet.stat().st_mtime_ns == first
    assert "is up to date" in capsys.readouterr().out
    write_json(run_folder(SQUARES, "toy") / "fold1" / "result.json",
               {"prior": [0.5, 0.5], "weights_sha256": "trained again"})
    explain.main(["--competition", "squares", "--experiment", "toy"])
    assert sheet.stat().st_mtime_ns > first


def test_every_image_is_explained_by_the_model_of_its_own_fold(squares, monkeypatch):
    table = fabricate(squares, "toy")
    asked = []
    original = attribution.grad_cam

    def spy(model, images, label):
        asked.append((float(next(model.parameters()).detach().sum()), images))
        return original(model, images, label)

    monkeypatch.setattr(attribution, "grad_cam", spy)
    explain_run(Workspace(SQUARES, squares), "toy")
    store = open_store("squares-train", table, PixelSettings(SIZE, 1))
    images = store.read(store.rows(table["image_id"]))
    fold_of = {image.tobytes(): fold for image, fold in zip(images, table["fold"], strict=True)}
    models = {fold: float(next(build_weights(fold).parameters()).detach().sum()) for fold in (0, 1)}
    assert len(asked) > 2
    for weights, images in asked:
        assert {models[fold_of[image.numpy().tobytes()]] for image in images[:, 0]} == {weights}


def build_weights(fold: int) -> torch.nn.Module:
    torch.manual_seed(fold)
    experiment = Experiment(network="cnn_b", image_size=SIZE)
    return build_network(Run(Path(), {"channels": 1, "labels": ["a", "b"]}, experiment))


def test_uncertain_labels_and_constant_images_are_not_used(squares, monkeypatch):
    table = fabricate(squares, "toy")
    shown = []
    monkeypatch.setattr(explain, "pick_examples",
                        lambda targets, *rest: shown.append(targets) or pick_examples(targets, *rest))
    explain_run(Workspace(SQUARES, squares), "toy")
    black = table["constant"].to_numpy()
    assert black.sum() == 2
    for targets in shown:
        assert np.isnan(targets[black]).all()
    assert np.isnan(shown[-1][3])  # the other label of image 3 is uncertain


def test_missing_folds_are_named_and_left_out(squares, capsys):
    table = fabricate(squares, "toy", folds=(1,))
    assert len(explain_run(Workspace(SQUARES, squares), "toy")) == 1
    assert "folds 0 are not trained" in capsys.readouterr().out
    played = pd.read_csv(run_folder(SQUARES, "toy") / "pointing.csv").set_index("label")
    here = (table["fold"] == 1) & (table["square"] == 1) & ~table["constant"]
    assert played.loc["square", "images"] == here.sum()


def test_a_run_without_a_fold_names_the_command(squares):
    with pytest.raises(FileNotFoundError, match=r"python src/train.py --competition squares --experiment cnn_b"):
        explain_run(Workspace(SQUARES, squares), "cnn_b")


@pytest.mark.parametrize("network", ["lstm", "mlp_a"])
def test_a_network_without_a_convolution_says_so(squares, capsys, network):
    fabricate(squares, "plain", network)
    assert explain_run(Workspace(SQUARES, squares), "plain") == []
    assert f"{network} has no convolution" in capsys.readouterr().out
    assert not (run_folder(SQUARES, "plain") / "gradcam.png").exists()


def test_one_network_per_label_is_explained(squares):
    fabricate(squares, "tasks", per_task=True)
    assert len(explain_run(Workspace(SQUARES, squares), "tasks")) == 1
    account = json.loads((run_folder(SQUARES, "tasks") / "gradcam.json").read_text())
    assert account["made_from"]["layer"] == {"tasks": "conv3"}


def write_blend_of(table, name: str, members: tuple[str, ...], kind: str = "mean") -> None:
    split = read_folds(SQUARES)
    runs = [run for member in members for run in read_oof(SQUARES, member, table, split.hash).runs]
    write_blend(SQUARES, Oof(name, np.full((N, 2), 0.5), tuple(runs), (), members, kind), table["image_id"],
                split.hash)


def test_a_blend_is_explained_by_the_mean_of_its_members_maps(squares):
    fabricate(squares, "small")
    table = fabricate(squares, "other", "mlp_a")
    write_blend_of(table, "both", ("small", "other"))
    split, wanted = read_folds(SQUARES), {(0, 1), (0, 4), (1, 7)}
    maps = {}
    for name in ("small", "other", "both"):
        members = open_members(SQUARES, read_oof(SQUARES, name, table, split.hash), table)
        maps[name] = {(k, row): heat for k, row, heat, _ in held_out_maps(members, table, wanted, "occlusion")}
    for key in wanted:
        mean = (maps["small"][key] + maps["other"][key]) / 2
        np.testing.assert_allclose(maps["both"][key], mean / max(mean.max(), 1e-9), atol=1e-6)
    assert len(explain_run(Workspace(SQUARES, squares), "both")) == 1


def test_a_member_without_maps_is_named_and_left_out(squares, capsys):
    fabricate(squares, "plain", "mlp_a")
    table = fabricate(squares, "toy")
    write_blend_of(table, "both", ("toy", "plain"))
    assert len(explain_run(Workspace(SQUARES, squares), "both")) == 1
    assert "plain: Grad-CAM cannot explain it: mlp_a has no convolution" in capsys.readouterr().out


def test_any_network_is_explained_by_occlusion(squares, monkeypatch):
    monkeypatch.setitem(METHODS, "occlusion", replace(METHODS["occlusion"], pointing_images=4))
    fabricate(squares, "plain", "lstm")
    sheet, = explain_run(Workspace(SQUARES, squares), "plain", "occlusion")
    assert sheet.name == "occlusion.png"
    assert pd.read_csv(sheet.parent / "pointing_occlusion.csv")["images"].tolist() == [4, 4]


def test_wrong_decisions_are_listed_beside_the_figures(squares, capsys):
    table = fabricate(squares, "toy")
    explain.main(["--competition", "squares", "--experiment", "toy"])
    path = run_folder(SQUARES, "toy") / "errors.csv"
    assert str(path) in capsys.readouterr().out
    errors = pd.read_csv(path)
    truth = table.set_index("image_id").loc[errors["image_id"]]
    assert len(errors) and (errors["truth"] != errors["predicted"]).all()
    for label in SQUARES.labels:
        mine = (errors["label"] == label).to_numpy()
        assert (truth[label].to_numpy()[mine] == errors["truth"].to_numpy()[mine]).all()


def test_a_registered_method_reaches_every_script(squares, monkeypatch):
    def brightness(model, images, label, task):
        return attribution.maps_from_signed(images.float().mean(dim=1) / 255)

    monkeypatch.setitem(METHODS, "brightness", Method("Brightness", brightness, pointing_images=5))
    monkeypatch.setattr("explaining.attribution.LIME_SAMPLES", 24)
    monkeypatch.setattr("explaining.attribution.GRID", 4)
    fabricate(squares, "toy")
    command = ["--competition", "squares", "--experiment", "toy"]
    sheet, = explain.main([*command, "--method", "brightness"])
    pointing = pd.read_csv(sheet.parent / "pointing_brightness.csv").set_index("label")
    assert sheet.name == "brightness.png" and pointing.loc["square", ["images", "inside"]].tolist() == [5, 1]
    drawn = []
    monkeypatch.setattr("explaining.image_view.draw_grid", lambda *given: drawn.extend(given[-1]) or Figure())
    explain.main([*command, "--image", "i01"])
    assert "Brightness" in [method for _, method, _ in drawn]
    measures = pd.read_csv(explain.main([*command, "--evaluate-maps", "2"])[0]).set_index("method")
    assert measures.loc["brightness", "inside"] == 1


@pytest.mark.parametrize("network", ["cnn_b", "mlp_a"])
def test_images_asked_for_get_a_sheet_each(squares, network, monkeypatch):
    monkeypatch.setattr("explaining.attribution.LIME_SAMPLES", 24)
    fabricate(squares, "toy", network)
    sheets = explain.main(["--competition", "squares", "--experiment", "toy", "--image", "i01", "i38"])
    assert [path.name for path in sheets] == ["look_i01.png", "look_i38.png"]
    assert all(cv2.imread(str(path)).std() > 10 for path in sheets)


def test_an_unknown_image_is_an_error_with_similar_ids(squares):
    fabricate(squares, "toy")
    with pytest.raises(ValueError, match=r"no image 'i1' in the parts train of 'squares'; ids are such as .*i"):
        explain.main(["--competition", "squares", "--experiment", "toy", "--image", "i1"])


def test_column_titles_name_the_held_out_fold(squares):
    fabricate(squares, "toy")
    table = fabricate(squares, "plain", "mlp_a")
    write_blend_of(table, "both", ("toy", "plain"))
    split, row = read_folds(SQUARES), 5
    fold = table["fold"].iloc[row]
    members = open_members(SQUARES, read_oof(SQUARES, "toy", table, split.hash), table)
    titles = [column.title for column in make_columns(members, table, row, is_training=True)]
    assert titles[fold] == f"fold {fold}  held out" and titles[1 - fold] == f"fold {1 - fold}  trained on it"
    members = open_members(SQUARES, read_oof(SQUARES, "both", table, split.hash), table)
    columns = make_columns(members, table, row, is_training=True)
    assert [(column.title, [run.recipe["fold"] for _, run in column.models]) for column in columns] == \
        [("toy", [fold]), ("plain", [fold])]
    assert [len(column.models) for column in make_columns(members, table, row, is_training=False)] == [2, 2]


def test_a_blends_figure_decides_by_the_mean_probability(squares, monkeypatch):
    """Ranks have other thresholds than the probabilities on the sheet."""
    table, decided = fabricate(squares, "toy"), []

    def keep(competition, name, members, images, row, cells, fitted, masks):
        decided.append(fitted.describe(0))
        return Figure()

    monkeypatch.setattr("explaining.image_view.view_image", keep)
    write_blend_of(table, "both", ("toy",), "rank_mean")  # 0.5 for all images
    explain.main(["--competition", "squares", "--experiment", "both", "toy", "--image", "i01"])
    assert decided[0] == decided[1] != "p ≥ 0.500"


def test_positive_labels_come_first_then_probable_ones():
    cells, probs = np.array([0, 1, np.nan, -1, 1.0]), np.array([0.9, 0.1, 0.5, 0.8, 0.2])
    assert pick_labels(cells, probs) == [4, 1, 0]
    assert pick_labels(None, probs) == [0, 3, 2]
    assert [truth_text(cells, k) for k in range(4)] == ["absent", "present", "empty", "uncertain"]
    assert truth_text(None, 0) == "truth unknown"


def test_maps_are_measured_beside_chance_one_image_per_group(squares, monkeypatch, capsys):
    monkeypatch.setattr("explaining.attribution.LIME_SAMPLES", 24)
    fabricate(squares, "toy")
    path, = explain.main(["--competition", "squares", "--experiment", "toy", "--evaluate-maps", "2"])
    summary = pd.read_csv(path).set_index("method")
    assert list(summary.index) == ["gradcam", "hirescam", "occlusion", "lime", "chance"]
    images = pd.read_csv(path.with_name("measured_images.csv"))
    assert (images.groupby(["label", "method"]).size() == 2).all()
    # the other label has no masks: deletion and insertion only
    assert images.loc[images["label"] == "other", ["inside", "share_inside"]].isna().all(axis=None)
    assert images[["deletion", "insertion"]].notna().all(axis=None)
    assert (images.loc[images["label"] == "square", "area"] - 64 / SIZE**2).abs().max() < 1e-5
    assert "by chance that share of the heat lies inside" in capsys.readouterr().out


def test_blends_are_measured_by_mean_maps_and_mean_probabilities(squares, monkeypatch):
    """Of two equal members it is what each alone is; of two others, what a map does to both, in the mean.

    A member that a method cannot explain has no part in its map, but in the probability.
    """
    def load_answering(run, device):
        """The last layer starts at zero, and would answer alike to all images."""
        model = load_model(run, device)
        torch.manual_seed(run.folder.parent.name == "plain")
        torch.nn.init.normal_(model.network.output.weight)
        return model

    monkeypatch.setattr("explaining.map_quality.load_model", load_answering)
    monkeypatch.setattr("explaining.map_quality.METHODS", {name: METHODS[name] for name in ("gradcam", "occlusion")})
    monkeypatch.setattr("explaining.attribution.GRID", 4)
    fabricate(squares, "toy")
    fabricate(squares, "plain", "mlp_a")
    table = fabricate(squares, "twin")
    write_blend_of(table, "both", ("toy", "twin"))
    write_blend_of(table, "mixed", ("toy", "plain"), "rank_mean")
    names, keys = ("toy", "plain", "both", "mixed"), ["image_id", "label", "method"]
    explain.main(["--competition", "squares", "--experiment", *names, "--evaluate-maps", "2"])
    alone, plain, both, mixed = (pd.read_csv(run_folder(SQUARES, name) / "measured_images.csv").set_index(keys)
                                 for name in names)
    assert not alone["empty"].all() and alone["deletion"].std() > 0.01 and alone["randomised"].notna().any()
    pd.testing.assert_frame_equal(both, alone, rtol=1e-4, atol=1e-5)
    guesses = alone.index.get_level_values("method") == CHANCE  # the same maps for all
    cams = alone.index.get_level_values("method") == "gradcam"
    for curve in ("deletion", "insertion"):
        mean = (alone[curve] + plain[curve].reindex(alone.index)) / 2
        np.testing.assert_allclose(mixed[curve][guesses], mean[guesses], atol=1e-5)
        assert (mixed[curve][cams] != alone[curve][cams]).all()
    pd.testing.assert_frame_equal(mixed[cams][["empty", "inside", "share_inside", "randomised"]],
                                  alone[cams][["empty", "inside", "share_inside", "randomised"]], atol=1e-5)


@pytest.mark.parametrize("flags", [["--evaluate-maps", "0"], ["--evaluate-maps", "2", "--image", "i01"]])
def test_contradicting_flags_are_an_error(squares, flags):
    with pytest.raises(SystemExit):
        explain.main(["--competition", "squares", "--experiment", "toy", *flags])
