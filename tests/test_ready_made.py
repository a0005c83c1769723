"""Every ready-made competition in its layout: described, audited, split, trained for an epoch, submitted, checked."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import audit
import describe
import layouts
import leaderboard
import make_folds
import predict
import submit
import train
from common.files import read_csv, read_json
from competition import COMPETITIONS, MEDMNIST
from data.tables import label_cells, read_part, read_train, submitted_part
from real_data import require

LAYOUTS = {
    "nih14_full": layouts.write_nih14_full,
    "chexpert": partial(layouts.write_chexpert, small=False),
    "chexpert_small": layouts.write_chexpert,
    "cxr_npt": layouts.write_cxr_npt,
    "scans3": layouts.write_scans3,
    "pneumonia2": layouts.write_chest_xray,
    "pneumonia3": layouts.write_chest_xray,
    **{name: partial(layouts.write_medmnist, name=name) for name in MEDMNIST},
}


def test_every_competition_has_a_layout_here_or_images_elsewhere():
    assert {*LAYOUTS, "demo", "nih3", "nih14"} == set(COMPETITIONS)  # nih3, nih14: the files of nih14_full, cut


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read_as_the_organisers_meant_it(name, home):
    competition, folder = COMPETITIONS[name], LAYOUTS[name](home / "files")
    table, left_out = read_train(competition, folder)
    cells = label_cells(competition, table)
    assert len(table) > 40 and len(left_out) == 0
    assert (cells == 1).any(axis=0).all() and (cells == 1).mean() < 0.9
    kept_apart = read_part(competition, folder, submitted_part(competition))
    assert not set(kept_apart["path"]) & set(table["path"])
    if competition.shared_groups != "distinct":
        assert not set(kept_apart["group"]) & set(table["group"])


def test_chexpert_is_frontal_without_the_lost_image(home):
    table, _ = read_train(COMPETITIONS["chexpert"], layouts.write_chexpert(home / "files", small=False))
    assert table["image_id"].str.endswith("frontal.jpg").all()
    assert not table["image_id"].str.contains("patient40761").any()
    assert table["group"].str.fullmatch(r"patient\d{5}").all() and table["group"].nunique() < len(table)
    cells = label_cells(COMPETITIONS["chexpert"], table)
    assert (cells == -1).any() and np.isnan(cells).any()


def test_kaggles_little_val_part_is_training_data(home):
    table, _ = read_train(COMPETITIONS["pneumonia2"], layouts.write_chest_xray(home / "files"))
    assert table["image_id"].str.startswith("val/").any()


def test_scans3_is_read_in_full_size(home):
    folder = layouts.write_scans3(home / "files", 12_000, 3_000, 5_000)
    sizes = {"train_labels": (12_000, "10000.png", "21999.png"), "val_labels": (3_000, "40000.png", "42999.png"),
             "sample_submission": (5_000, "70000.png", "74999.png")}
    for table, (count, first, last) in sizes.items():
        rows = read_csv(folder / f"{table}.csv")
        assert list(rows.columns) == ["id", "label1", "label2", "label3"]
        assert (len(rows), rows["id"].iloc[0], rows["id"].iloc[-1]) == (count, first, last)
    table, left_out = read_train(COMPETITIONS["scans3"], folder)
    assert len(table) == 15_000 and table["image_id"].iloc[-1] == "42999.png" and not len(left_out)
    assert len(read_part(COMPETITIONS["scans3"], folder, "test")) == 5_000


ALWAYS = ("chexpert_small", "nih14_full", "cxr_npt", "scans3", "pneumonia3", "chestmnist", "breastmnist", "retinamnist")
STEPS = [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in LAYOUTS]
SAMPLES = [pytest.param(name, marks=pytest.mark.slow) for name in ("nih3", "nih14")]


def write_layout(name: str, home: Path) -> Path:
    """The organisers' files, small; of nih3 and nih14 the real ones."""
    if name in LAYOUTS:
        return LAYOUTS[name](home / "files")
    return require("nih1000")


@pytest.mark.parametrize("name", STEPS + SAMPLES)
def test_from_the_organisers_files_to_a_checked_submission(name, home, capsys, monkeypatch):
    monkeypatch.setattr(train, "count_cores", lambda: 1)  # no processes beside this one: each would import torch anew
    folder = write_layout(name, home)
    described, _ = describe.main([str(folder), "--name", "described"])
    assert "description that reads this folder already: --competition" in (screen := capsys.readouterr().out)
    assert re.search(rf"--competition (\w+ or )*{name}\b", " ".join(screen.split()))
    # classes of these folders are NORMAL and PNEUMONIA; which pneumonia stands in the files' names
    assert described.task == ("binary" if name == "pneumonia3" else COMPETITIONS[name].task)
    where = ["--competition", name, "--data-dir", str(folder)]
    said = read_json(audit.main([*where, "--quick"]))
    assert said["competition"] == name
    make_folds.main([*where, "--folds", "2"])
    scores = train.main([*where, "--experiment", "smoke"])
    assert len(scores["smoke"]) == 2
    path, = predict.main([*where, "--experiment", "smoke"])
    submit.main([*where, "--check", str(path)])
    assert "checked" in capsys.readouterr().out
    wanted = read_part(COMPETITIONS[name], folder, submitted_part(COMPETITIONS[name]))["image_id"]
    assert set(read_csv(Path(path))[COMPETITIONS[name].id_column]) == set(wanted)
    if COMPETITIONS[name].metric == "roc_auc":  # its intervals are quick
        assert np.isfinite(leaderboard.main(where).set_index("run").loc["smoke", "cv"])
