"""Bundles for code competitions: complete, accepted by Kaggle's client, with the same predictions elsewhere."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import blend
import decide
import make_bundle
import make_demo
import make_folds
import predict
from common.files import read_json
from competition import COMPETITIONS, Competition, Part
from data.pixel_store import PixelSettings, open_store
from data.tables import read_part, read_train
from kaggle_server import serve
from results.workspace import Workspace
from submitting import kernel_simulation
from submitting.kernel_simulation import (
    CONSTANT,
    CORRUPT,
    BundleRun,
    check_hidden,
    check_known,
    estimate_time,
    make_hidden_data,
    run_bundle,
    simulate,
)
from untrained import write_untrained

DEMO = COMPETITIONS["demo"]


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A small demo with two untrained runs, their blend, and submissions of all."""
    home = tmp_path_factory.mktemp("bundle")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STARTER_HOME", str(home))
        make_demo.main(["--images", "60", "--set", "test_images=24"])
        make_folds.main(["--folds", "2"])
        for seed, name in enumerate(("run", "other")):
            write_untrained(DEMO, name, seed, with_network=True)
        predict.main(["--experiment", "run", "other"])
        blend.main(["--experiment", "run", "other"])
    return home


@pytest.fixture
def trained(trained_once, home):
    """The same, a copy for each test."""
    shutil.copytree(trained_once, home, dirs_exist_ok=True)
    return home


def bundle_of(*more: str, name: str = "run") -> Path:
    made, = make_bundle.main(["--experiment", name, "--user", "me", *more])
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- what is written


def test_a_bundle_holds_what_predicting_needs_and_no_logs(trained, capsys):
    folder = bundle_of()
    files = set(contents(folder))
    assert {"kernel-metadata.json", "predict_kernel.py", "dataset/bundle.json", "dataset/dataset-metadata.json",
            "dataset/src/predict.py", "dataset/folds/demo.csv", "dataset/folds/demo.json",
            "dataset/runs/demo/run/fold1/weights.safetensors", "dataset/runs/demo/run/fold1/oof.csv"} <= files
    assert not [path for path in files if path.endswith(("log.csv", "checkpoint.pt", "test.csv", ".png"))]
    kernel, dataset = (read_json(folder / name) for name in ("kernel-metadata.json", "dataset/dataset-metadata.json"))
    assert kernel | {"title": ""} == {
        "id": "me/demo-run-predict", "title": "", "code_file": "predict_kernel.py", "language": "python",
        "kernel_type": "script", "is_private": True, "enable_gpu": True, "enable_internet": False,
        "dataset_sources": [dataset["id"]], "competition_sources": []}
    assert "set kaggle='NAME'" in capsys.readouterr().out


def test_a_bundle_of_a_blend_holds_its_members(trained, monkeypatch, capsys):
    monkeypatch.setitem(COMPETITIONS, "demo", replace(DEMO, kaggle="chest-demo"))
    folder = bundle_of(name="blend_mean")
    files = set(contents(folder))
    assert {f"dataset/runs/demo/{name}/fold{fold}/weights.safetensors" for name in ("run", "other")
            for fold in (0, 1)} | {"dataset/runs/demo/blend_mean/blend.json"} <= files
    assert read_json(folder / "kernel-metadata.json")["competition_sources"] == ["chest-demo"]
    assert f"kaggle kernels push -p {folder}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("demo", "cnn_e", "models"), ("a", "b", "predict"), ("x" * 90, "y" * 90, "models"),
                                   ("nih14", "Lite0_224+SE--", "predict")])
def test_slugs_follow_kaggles_rules(words):
    slug = make_bundle.make_slug(*words)
    assert 6 <= len(slug) <= 50 and slug.endswith(f"-{words[-1]}") and set(slug) <= set("abcdefghijklmnopqrstuvwxyz"
                                                                                       "0123456789-")
    assert "--" not in slug and make_bundle.make_slug("demo", "cnn_e", "models") == "demo-cnn-e-models"


@pytest.mark.skipif(find_spec("kaggle") is None, reason="the package kaggle is not installed (it needs Python 3.11)")
def test_kaggles_client_accepts_the_kernel(trained, monkeypatch):
    monkeypatch.setitem(COMPETITIONS, "demo", replace(DEMO, kaggle="chest-demo"))
    folder = bundle_of()
    with serve() as (service, environment):
        code = "import sys; from kaggle import api; api.authenticate(); api.kernels_push(sys.argv[1])"
        done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60,
                              env={**os.environ, **environment, "HOME": str(trained)})
    assert done.returncode == 0, done.stderr
    assert "does not resolve" not in done.stdout + done.stderr  # title and id belong together
    sent = service.sent("SaveKernel")
    assert sent["slug"] == "me/demo-run-predict" and sent["text"] == (folder / "predict_kernel.py").read_text()
    assert sent["datasetDataSources"] == ["me/demo-run-models"] and sent["isPrivate"]
    assert sent["competitionDataSources"] == ["chest-demo"] and not sent["enableInternet"]


# ---- what goes wrong


def test_a_missing_fold_is_an_error_with_the_command(trained):
    shutil.rmtree(trained / "runs" / "demo" / "run" / "fold1")
    with pytest.raises(FileNotFoundError, match=r"lacks the folds \[1\]; run: .*train.*--fold 1"):
        bundle_of()


def test_missing_weights_are_an_error(trained):
    (trained / "runs" / "demo" / "run" / "fold0" / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="there is no .*fold0/weights.safetensors; .*train that fold again"):
        bundle_of()


def test_changed_weights_are_an_error(trained):
    (trained / "runs" / "demo" / "run" / "fold0" / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="fold0/weights.safetensors is not what .*train that fold again"):
        bundle_of()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_bundle_leaves_the_earlier_one(trained, monkeypatch, error):
    folder = bundle_of()
    before, copy, copied = contents(folder), shutil.copyfile, []

    def fail(source, target):
        copied.append(target)
        if len(copied) > 10:
            raise error
        return copy(source, target)

    monkeypatch.setattr(make_bundle.shutil, "copyfile", fail)
    with pytest.raises(type(error), match="make room and run the command again" if error.args else None):
        bundle_of()
    assert contents(folder) == before and [path.name for path in folder.parent.glob(".*.part")] == []


def test_old_unfinished_bundles_are_removed(trained):
    for name, age in (("old", 2 * make_bundle.LEFTOVER_SECONDS), ("young", 0)):
        left = trained / "submissions" / f".demo-run-bundle.{name}.part"
        left.mkdir()
        os.utime(left, (time.time() - age,) * 2)
    bundle_of()
    assert [path.name for path in (trained / "submissions").glob(".*")] == [".demo-run-bundle.young.part"]


def test_a_full_disk_is_an_error_before_anything_is_written(trained, monkeypatch):
    monkeypatch.setattr(make_bundle.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(OSError, match="needs .* MB, and 0 MB are free; make room"):
        bundle_of()


@pytest.mark.parametrize("more", [("--user", ""), ("--user", "a/b"), ("--wheels", "python3"), ("--time-limit", "0"),
                                  ("--time-limit", "nan")])
def test_impossible_flags_are_an_error(home, more):
    with pytest.raises(ValueError, match=more[0]):
        make_bundle.main(["--experiment", "run", "--user", "me", *more])


def test_wheels_that_cannot_be_downloaded_are_an_error_with_pips_output(tmp_path, monkeypatch):
    monkeypatch.setattr(make_bundle.subprocess, "run", lambda command, **more: subprocess.CompletedProcess(
        command, 1, "", f"no {' '.join(command)}"))
    with pytest.raises(RuntimeError, match="for Python 3.11:\nno .*pip download --no-deps .*--python-version 3.11"):
        make_bundle.download_wheels(tmp_path / "wheels", "3.11")


# ---- the simulation


@pytest.mark.slow
def test_a_simulated_blend_predicts_known_and_hidden_images_alike(trained, monkeypatch):
    monkeypatch.setattr(kernel_simulation, "REPEATS", 3)
    folder = bundle_of("--simulate", name="blend_mean")
    content = read_json(folder / "simulation.json")
    assert [run["images"] for run in content["runs"]] == [24, 74]
    assert content["runs"][0]["result"] == "the same bytes as predict.py here"
    assert content["runs"][1]["result"].startswith("all known images the same")
    assert content["images_possible"] > 1000


STUB = """
import os, pathlib
def main(argv):
    home = pathlib.Path(os.environ["STARTER_HOME"])
    assert (home / "folds" / "demo.csv").exists() and (home / "runs" / "demo" / "run" / "fold0").is_dir()
    (home / "submissions").mkdir()
    (home / "submissions" / "demo-run.csv").write_text(" ".join(argv))
"""


def test_the_kernel_finds_zipped_and_nested_folders(trained, tmp_path):
    folder, where = bundle_of(), tmp_path / "clean"
    dataset, packed = folder / "dataset", where / "input" / "datasets" / "me" / "models"
    shutil.rmtree(dataset / "src")
    (dataset / "src").mkdir()
    (dataset / "src" / "predict.py").write_text(STUB)
    for name in ("src", "runs", "folds"):
        shutil.make_archive(str(packed / name), "zip", dataset / name)
    shutil.copy(dataset / "bundle.json", packed)
    (where / "input" / "competitions").mkdir()
    data = where / "input" / "competitions" / "chest"
    data.symlink_to(trained / "data" / "demo")
    _, path = run_bundle(folder, where, hours=0.01)
    assert path.read_text() == f"--competition demo --data-dir {data} --experiment run --unreadable black"


def test_a_simulation_without_a_submission_names_the_command(trained):
    (trained / "submissions" / "demo-run.csv").unlink()
    with pytest.raises(FileNotFoundError, match="run: python src/predict.py --competition demo --experiment run"):
        simulate(Workspace(DEMO, trained / "data" / "demo"), bundle_of(), 9)


KERNEL = """
import os, pathlib, socket
assert "STARTER_HOME" not in os.environ and not os.listdir(os.environ["BUNDLE_OUTPUT"])
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=5)
except OSError:
    pathlib.Path(os.environ["BUNDLE_OUTPUT"], "submission.csv").write_text("alone")
"""


def test_a_simulated_bundle_has_no_network(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        (tmp_path / "predict_kernel.py").write_text(KERNEL.format(port=server.getsockname()[1]))
        assert run_bundle(tmp_path, tmp_path, hours=0.01)[1].read_text() == "alone"


@pytest.mark.parametrize(("code", "message"), [
    ("print('some text'); raise SystemExit(3)", "ended with code 3 and no submission.csv; its output:\nsome text"),
    ("", "ended with code 0 and no submission.csv"),
    ("import time; time.sleep(60)", "did not end within 0.0003 hours"),
])
def test_a_bundle_that_fails_is_an_error_with_its_output(tmp_path, code, message):
    (tmp_path / "predict_kernel.py").write_text(code)
    with pytest.raises(RuntimeError, match=message):
        run_bundle(tmp_path, tmp_path, hours=0.0003)


# ---- hidden test sets


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(len(str(path))).integers(0, 255, (8, 8), np.uint8))


@pytest.fixture
def shared_table(tmp_path) -> tuple[Competition, Path]:
    """Training and test images in one table and one folder, as NIH's are."""
    rows = [(f"{i}_0.png", "train" if i < 4 else "test", f"p{i}", i % 2) for i in range(7)]
    pd.DataFrame(rows, columns=["name", "split", "patient", "a"]).to_csv(tmp_path / "rows.csv", index=False)
    for name, *_ in rows:
        draw(tmp_path / "images" / name)
    listed = {"table": "rows.csv", "images": "images/{name}"}
    return Competition(name="shared", about="both in one table", task="binary", labels=("a",), metric="roc_auc",
                       id_column="name", group_column="patient",
                       train=Part(**listed, row_filter=(("split", ("train",)),)),
                       test=Part(**listed, row_filter=(("split", ("test",)),))), tmp_path


def test_a_hidden_set_in_a_shared_table_leaves_the_training_images(shared_table, tmp_path_factory):
    competition, folder = shared_table
    data, before = tmp_path_factory.mktemp("hidden") / "data", contents(folder)
    ids = make_hidden_data(Workspace(competition, folder), data)
    test, known = (read_part(competition, where, "test") for where in (data, folder))
    assert len(test) == 32 and set(test["image_id"]) == set(ids) and not set(ids) & set(known["image_id"])
    assert set(ids.values()) == set(known["image_id"])
    train_now, train_then = (read_train(competition, where)[0].drop(columns="path") for where in (data, folder))
    pd.testing.assert_frame_equal(train_now, train_then)
    assert contents(folder) == before


def test_a_hidden_set_of_a_folder_keeps_what_patterns_find(tmp_path, tmp_path_factory):
    for place in ("train/N/p1_1.jpg", "train/P/p2_1.jpg", "test/N/p1_7.jpg", "test/P/p9_8.jpg"):
        draw(tmp_path / place)
    competition = Competition(name="folders", about="", task="binary", labels=("P",), metric="roc_auc",
                              train=Part(images="train/*/*.jpg"), test=Part(images="test/*/*.jpg"),
                              label_pattern="/([NP])/", label_map=(("N", ""), ("P", "P")),
                              group_pattern=r"(p\d+)_", shared_groups="distinct")
    data = tmp_path_factory.mktemp("hidden") / "data"
    ids = make_hidden_data(Workspace(competition, tmp_path), data)
    test = read_part(competition, data, "test")
    assert len(test) == 22 and set(test["image_id"]) == set(ids)
    known = read_part(competition, tmp_path, "test").set_index("image_id")
    for row in test.itertuples():
        assert (row.group, row.P) == tuple(known.loc[ids[row.image_id], ["group", "P"]])


def test_a_test_set_that_cannot_be_hidden_is_an_error():
    with pytest.raises(ValueError, match="cannot be made of 'pneumoniamnist'"):
        make_hidden_data(Workspace(COMPETITIONS["pneumoniamnist"], Path("nowhere")), Path("x"))


@pytest.mark.parametrize(("change", "ranked", "message"), [
    ({}, False, None),
    ({"a": ["0.100001", "0.9", "0.5", "0.5"]}, False, None),
    ({"a": ["0.2", "0.9", "0.5", "0.5"]}, True, None),
    ({"a": ["0.2", "0.9", "0.5", "0.5"]}, False, "1 of 2 known images are predicted differently in the hidden .*'x'"),
    ({"a": ["0.1", "0.9", "0.5", "0.6"]}, False, "the corrupt image was not predicted like the constant one"),
    ({"id": ["h1", "h2", "h3", CONSTANT]}, False, "has other ids than its sample"),
])
def test_hidden_predictions_must_be_the_known_ones(change, ranked, message):
    competition = replace(DEMO, id_column="id", labels=("a",), task="binary")
    ids = {"h1": "x", "h2": "y", CORRUPT: "x", CONSTANT: "x"}
    frame = {"id": list(ids), "a": ["0.1", "0.9", "0.5", "0.5"]} | change
    arguments = competition, pd.DataFrame(frame), pd.DataFrame({"id": ["y", "x"], "a": ["0.9", "0.1"]}), ids, ranked
    if message:
        with pytest.raises(ValueError, match=message):
            check_hidden(*arguments)
    else:
        assert "known images the same" in check_hidden(*arguments)


def test_other_bytes_of_the_known_set_are_an_error(tmp_path):
    for name, value in (("new", "0.2"), ("known", "0.1")):
        (tmp_path / f"{name}.csv").write_text(f"image_id,a\nx,{value}\n")
    with pytest.raises(ValueError, match="1 of 1 rows differ"):
        check_known(tmp_path / "new.csv", tmp_path / "known.csv")


def test_time_is_estimated_from_two_sizes():
    content = estimate_time(BundleRun("known", 100, 15.0, ""), BundleRun("large", 1000, 60.0, ""), hours=1)
    assert (content["start_seconds"], content["seconds_per_image"]) == (10.0, pytest.approx(0.05))
    assert content["images_possible"] == 71_800
    slow = estimate_time(BundleRun("known", 100, 20.0, ""), BundleRun("large", 1000, 10.0, ""), hours=1)
    assert slow["images_possible"] == 360_000
    late = estimate_time(BundleRun("known", 10, 5000.0, ""), BundleRun("large", 100, 5900.0, ""), hours=1)
    assert late["images_possible"] == 0


# ---- images that cannot be read


def test_an_unreadable_image_counts_as_black_only_where_allowed(home, capsys):
    for i in range(20):
        draw(home / f"{i}.png")
    (home / "3.png").write_bytes(b"no image")
    table = pd.DataFrame({"image_id": [str(i) for i in range(20)], "path": [str(home / f"{i}.png") for i in range(20)]})
    store = open_store("store", table, PixelSettings(8, 1), unreadable="black")
    assert store.constant.tolist() == [i == 3 for i in range(20)] and not store.read([3]).any()
    assert store.read([7]).any() and "1 of the 20 images of store cannot be read and count as black:\n  3: " in (
        capsys.readouterr().out)
    with pytest.raises(ValueError, match="1 of the 20 images of store cannot be read"):
        open_store("store", table, PixelSettings(8, 1))
    for i in (5, 6):
        (home / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="3 of the 20 images of store cannot be read"):
        open_store("store", table, PixelSettings(8, 1), unreadable="black")


def test_the_kernel_names_a_dataset_that_is_not_attached(tmp_path):
    (tmp_path / "kernel.py").write_text(make_bundle.ENTRY)
    done = subprocess.run([sys.executable, str(tmp_path / "kernel.py")], capture_output=True, text=True,
                          env={**os.environ, "BUNDLE_INPUT": str(tmp_path)})
    assert "holds no bundle.json: attach the dataset" in done.stderr


def test_a_bundle_holds_the_adopted_rule(trained, monkeypatch):
    decide.main(["--experiment", "run", "--metric", "log_loss", "--adopt", "temperature"])
    predict.main(["--experiment", "run"])
    folder = bundle_of()
    assert "dataset/runs/demo/run/decisions.json" in contents(folder)
    here = trained / "submissions" / "demo-run.csv"
    monkeypatch.setenv("BUNDLE_INPUT", str(trained / "input"))
    (trained / "input").mkdir()
    (trained / "input" / "models").symlink_to(folder / "dataset")
    (trained / "input" / "data").symlink_to(trained / "data" / "demo")
    run = trained / "run"
    (run / "output").mkdir(parents=True)
    subprocess.run([sys.executable, str(folder / "predict_kernel.py")], check=True, env={
        **os.environ, "BUNDLE_OUTPUT": str(run / "output"), "BUNDLE_HOME": str(run / "home")})
    assert (run / "output" / "submission.csv").read_bytes() == here.read_bytes()


def test_a_blend_of_blends_is_an_error_with_the_command(trained):
    blend.main(["--experiment", "blend_mean", "run", "--name", "nest"])
    with pytest.raises(ValueError, match="has the blend 'blend_mean' as a member.*--experiment run other"):
        bundle_of(name="nest_mean")
