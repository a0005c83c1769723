"""find_shortcuts.py from the files to the alarm: a letter in the corner that tells the label, blends, classes."""


from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import competition as descriptions
import find_shortcuts
from common.files import write_csv, write_json
from competition import Competition, Part
from data.folds import attach_folds, make_folds, read_folds
from data.pixel_store import PixelSettings, open_store
from data.tables import read_train
from experiment import Experiment
from explaining import shortcut_signals
from models.classifier import Classifier
from results import checkpoints
from results.checkpoints import build_network, save_weights
from results.runs import Oof, open_run, probs_frame, read_oof, run_folder, write_blend, write_probs

SIZE, N = 24, 80
LETTERS = Competition(name="letters", about="Letters in corners.", task="multilabel", labels=("marked", "never"),
                      metric="roc_auc", train=Part(table="train.csv", images="train/{image_id}.png"))
KINDS = Competition(name="kinds", about="The same, two classes.", task="multiclass", labels=("plain", "marked"),
                    metric="accuracy", train=Part(table="train.csv", images="train/{image_id}.png"))


def fabricate(home, monkeypatch, competition: Competition):
    """Noise, with a letter in the upper left of every second image, which is what its label tells; and its folds."""
    monkeypatch.setitem(descriptions.COMPETITIONS, competition.name, competition)
    data, rng = home / "data" / competition.name, np.random.default_rng(0)
    (data / "train").mkdir(parents=True)
    has = np.arange(N) % 2
    for number in range(N):
        image = rng.integers(60, 120, (SIZE, SIZE), dtype=np.uint8)
        image[1:4, 1:4] = 255 if has[number] else image[1:4, 1:4]
        cv2.imwrite(str(data / "train" / f"i{number:02d}.png"), image)
    first = has if competition is LETTERS else 1 - has
    second = np.zeros(N, int) if competition is LETTERS else has
    write_csv(data / "train.csv", pd.DataFrame({
        "image_id": [f"i{number:02d}" for number in range(N)], competition.labels[0]: first,
        competition.labels[1]: second, "Patient Sex": np.where(rng.random(N) < 0.5, "F", "M"),
        "View Position": np.where(has, "AP", "PA"), "age_years": rng.integers(1, 90, N), "image_page": "x"}))
    table, _ = read_train(competition, data)
    make_folds(competition, table, open_store(f"{competition.name}-train", table, PixelSettings(SIZE, 1)), n_folds=2,
               seed=0)
    return data


@pytest.fixture
def letters(home, monkeypatch):
    return fabricate(home, monkeypatch, LETTERS)


def add_run(competition: Competition, data, name: str = "cnn_b", folds: tuple[int, ...] = (0, 1), seed: int = 0):
    """A run with random weights and probabilities that say nothing."""
    split = read_folds(competition)
    table = attach_folds(competition, read_train(competition, data)[0], split)
    rng = np.random.default_rng(seed)
    for fold in folds:
        run = open_run(competition, name, fold, Experiment(network="cnn_b", image_size=SIZE), split.hash)
        torch.manual_seed(fold)
        weights_hash = save_weights(run, build_network(run))
        ids = table.loc[table["fold"] == fold, "image_id"]
        first = rng.random(len(ids))
        write_probs(run.folder / "oof.csv", probs_frame(competition, ids, np.stack([first, 1 - first], axis=1)))
        write_json(run.folder / "result.json", {"prior": [0.5, 0.5], "weights_sha256": weights_hash})
    return table, split


class Looks(nn.Module):
    """Two logits that are the brightness of one place, and its negative."""

    def __init__(self, place: slice):
        super().__init__()
        self.place, self.scale = place, nn.Parameter(torch.ones(()))

    def forward(self, images):
        seen = images[:, :, self.place, self.place].mean(dim=(1, 2, 3))
        return self.scale * torch.stack([-seen, seen], dim=1)


@pytest.fixture
def put_in(monkeypatch):
    """Says where all networks look, whatever weights were saved: the first label's logit falls with its brightness."""
    def put(place: slice) -> None:
        def load(run, device="cpu"):
            return Classifier(Looks(place), 1, (0.5,), (0.25,), cam_layers={}).eval()

        for module in (shortcut_signals, checkpoints):
            monkeypatch.setattr(module, "load_model", load)
    return put


def test_a_run_gets_a_table_a_figure_and_the_limits(letters, capsys):
    add_run(LETTERS, letters)
    found = find_shortcuts.main(["--competition", "letters", "--experiment", "cnn_b", "cnn_b"])
    printed = capsys.readouterr().out
    assert list(found) == ["cnn_b"] and "No alarm does not mean no shortcut" in printed and "undefined" in printed
    assert "columns: Patient Sex, View Position, age_years" in printed
    folder = run_folder(LETTERS, "cnn_b")
    assert cv2.imread(str(folder / "shortcuts.png")) is not None
    frame = pd.read_csv(folder / "shortcuts.csv")
    assert set(frame["signal"]) == {"alone", "filled in", "attribution", "follows", "AUC gap", "calibration gap"}
    assert frame.loc[frame["label"] == "never", "value"].isna().all()
    assert frame.loc[(frame["label"] == "marked"), "value"].notna().any()
    assert not frame.loc[frame["label"] == "never", "alarm"].any()
    assert found["cnn_b"].groupby("label").size().to_dict() == {"marked": 4, "never": 4}


def test_networks_that_read_the_letter_raise_an_alarm(home, monkeypatch, put_in, capsys):
    data = fabricate(home, monkeypatch, KINDS)
    add_run(KINDS, data)
    put_in(slice(1, 4))
    frames = find_shortcuts.main(["--competition", "kinds", "--experiment", "cnn_b"])
    found = frames["cnn_b"].set_index(["label", "signal"])
    for signal in ("alone", "filled in", "attribution"):
        assert found.loc[("marked", signal), "alarm"], signal
        assert found.loc[("marked", signal), "where"] == "upper left"
    assert found.loc[("marked", "alone"), "value"] == 1
    assert "cnn_b: ALARM" in capsys.readouterr().out


def test_networks_that_read_the_middle_raise_none(letters, put_in):
    add_run(LETTERS, letters)
    put_in(slice(8, 16))
    found = find_shortcuts.main(["--competition", "letters", "--experiment", "cnn_b"])["cnn_b"]
    found = found.set_index(["label", "signal"])
    assert not found.loc["marked"].loc[["alone", "filled in", "attribution"], "alarm"].any()
    assert found.loc[("marked", "alone"), "value"] == 0.5 and found.loc[("marked", "filled in"), "value"] == 0


def test_members_of_a_blend_are_checked_one_by_one(letters, capsys):
    for seed, name in enumerate(("cnn_b", "again")):
        table, split = add_run(LETTERS, letters, name, seed=seed)
    members = [read_oof(LETTERS, name, table, split.hash) for name in ("cnn_b", "again")]
    blend = Oof("both", np.mean([each.probs for each in members], axis=0), members[0].runs + members[1].runs, (),
                ("cnn_b", "again"), "mean")
    write_blend(LETTERS, blend, table["image_id"], split.hash)
    found = find_shortcuts.main(["--competition", "letters", "--experiment", "both", "again"])
    assert list(found) == ["cnn_b", "again"]
    assert "both is a blend; its members are checked: cnn_b, again" in capsys.readouterr().out


def test_a_missing_fold_is_named_and_no_fold_is_an_error(letters, capsys):
    with pytest.raises(FileNotFoundError, match="no finished fold; run: python src/train.py"):
        find_shortcuts.main(["--competition", "letters", "--experiment", "cnn_b"])
    add_run(LETTERS, letters, folds=(1,))
    find_shortcuts.main(["--competition", "letters", "--experiment", "cnn_b"])
    assert "folds 0 are not trained" in capsys.readouterr().out


def test_equally_many_images_with_and_without_a_label():
    targets = np.full((5000, 2), np.nan)
    targets[:, 0] = np.arange(5000) % 4 == 0
    targets[:8, 1] = [1, 1, 1, 0, 0, np.nan, 0, 0]
    drawn = find_shortcuts.draw_rows(targets)
    assert [drawn[targets[:, 0] == side, 0].sum() for side in (1, 0)] == [300, 300]
    np.testing.assert_array_equal(drawn[:, 1], ~np.isnan(targets[:, 1]))
    assert find_shortcuts.draw_rows(np.ones((4000, 14))).sum(axis=0).tolist() == [107] * 14


def test_numbers_of_hospitals_are_names_and_rare_ones_left_out(monkeypatch, capsys):
    ids = [str(number) for number in range(60)]
    columns = pd.DataFrame({"hospital": [str(number % 3) for number in range(60)], "age": ids,
                            "scanner": [*map(str, range(50)), *["50"] * 10]}, index=ids)
    monkeypatch.setattr(find_shortcuts, "read_columns", lambda *_: columns)
    found = find_shortcuts.subgroup_columns(LETTERS, Path(), pd.DataFrame({"image_id": ids}))
    assert set(found["hospital"]) == {"0", "1", "2"}
    assert set(found["age"]) == {"at most 29.5", "above 29.5"}
    assert len(set(found["scanner"])) == 1 + find_shortcuts.MOST_VALUES and "50" in found["scanner"]
    assert "scanner has 51 values; the 8 most frequent are checked" in capsys.readouterr().out


def test_subgroup_columns_are_found_by_their_words():
    named = ("Patient Sex", "PatientAge", "site_id", "View Position", "AP/PA", "Frontal/Lateral", "hospital", "scanner")
    others = ("Image Index", "Stage", "usage", "page", "paper", "split", "Follow-up #", "manager")
    words = {name: find_shortcuts.is_subgroup_column(name) for name in named + others}
    assert [name for name, is_one in words.items() if is_one] == list(named)
