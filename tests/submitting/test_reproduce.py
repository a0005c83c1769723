"""A submission is reproduced byte for byte, or the first difference is named before anything is predicted."""

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import pandas as pd
import pytest

import blend
import make_demo
import make_folds
import predict
import submit
import train
from competition import COMPETITIONS
from data.pixel_store import open_store
from submitting import manifest, reproduce
from submitting.manifest import read_manifest, write_manifest


@pytest.fixture(scope="module")
def made_once(tmp_path_factory) -> Path:
    """A small demo with two networks, a submission of each and two blends."""
    home = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STARTER_HOME", str(home))
        make_demo.main(["--images", "40", "--set", "test_images=24"])
        make_folds.main(["--folds", "2"])
        for seed, name in enumerate(("one", "two"), start=3):
            for fold in "01":  # one at a time, in this process: to start others takes longer than to train
                train.main(["--experiment", "mlp_a", "--set", "epochs=1", f"seed={seed}", "--name", name, "--fold",
                            fold])
        predict.main(["--experiment", "one", "two"])
        predict.main(["--experiment", "one", "--fold", "1"])
        blend.main(["--experiment", "one", "two"])
    return home


@pytest.fixture
def made(made_once, home) -> Path:
    """The same, copied for each test; files keep their times, so that no image looks new."""
    shutil.copytree(made_once, home, dirs_exist_ok=True)
    return home


def again(home: Path, name: str = "one") -> list[Path]:
    return submit.main(["--reproduce", str(home / "submissions" / f"demo-{name}.json")])


@pytest.mark.parametrize("name", ["one", "one-fold1", "blend_mean", "blend_rank_mean"])
def test_a_submission_is_reproduced_without_earlier_predictions(made, capsys, name):
    for kept in made.glob("runs/demo/*/test*"):
        kept.unlink()
    (made / "submissions" / f"demo-{name}.csv").unlink()
    before = sorted(made.rglob("*"))
    again(made, name)
    assert "is reproduced: the same 24 rows, byte for byte" in capsys.readouterr().out
    assert sorted(made.rglob("*")) == before  # nothing is left behind


def test_predictions_just_made_and_predictions_read_again_give_the_same_bytes(made):
    path = made / "submissions" / "demo-two.csv"
    fresh = path.read_bytes()
    path.unlink()
    predict.main(["--experiment", "two"])
    assert path.read_bytes() == fresh


# ---- differences


def flip_bit(path: Path, at: int = -5) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def replace_image(home: Path) -> None:
    path = sorted((home / "data" / "demo" / "test").glob("*.png"))[3]
    cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def reverse_rows(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")


def change_folds(home: Path) -> None:
    path = home / "folds" / "demo.csv"
    path.write_text(path.read_text().replace(",0\n", ",x\n").replace(",1\n", ",0\n").replace(",x\n", ",1\n"))
    make_folds.main([])


RUN = "runs/demo/one/fold1"
CHANGES = {
    "a test image": (replace_image, r"\(data\): the ids or pixels of the 24 test images are not those that one"),
    "a test image's row": (lambda home: reverse_rows(home / "data/demo/sample_submission.csv"), r"\(data\): the ids"),
    "the folds": (change_folds, r"\(folds\): .*folds/demo.csv, or the training table"),
    "the recipe": (lambda home: edit(home / RUN / "recipe.json", '"seed": 3', '"seed": 4'),
                   r"\(recipe\): .*one/fold1 is not what"),
    "the prior": (lambda home: edit(home / RUN / "result.json", '"prior": [\n    0.', '"prior": [\n    0.0'),
                  r"\(recipe\): .*one/fold1 is not what"),
    "a recipe that is gone": (lambda home: shutil.rmtree(home / "runs/demo/one"),
                              r"\(recipe\): .*one/fold0 is missing"),
    "a weight": (lambda home: flip_bit(home / RUN / "weights.safetensors"),
                 r"\(weights\): .*one/fold1/weights.safetensors is not what the submission was made from"),
    "weights that are gone": (lambda home: (home / RUN / "weights.safetensors").unlink(),
                              r"\(weights\): .*one/fold1/weights.safetensors is missing"),
    "the oof": (lambda home: edit(home / RUN / "oof.csv", ",0.", ",0.1"), r"\(oof\): .*one/fold1/oof.csv is not"),
    "the template": (lambda home: edit(home / "data/demo/sample_submission.csv", "0.5", "0.25"),
                     r"\(template\): the sample submission has changed"),
}


@pytest.mark.parametrize("name", ["one", "blend_mean"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_input_is_named_before_predicting(made, monkeypatch, change, name):
    spoil, said = CHANGES[change]
    spoil(made)
    monkeypatch.setattr(reproduce, "predict_models", None)
    with pytest.raises(ValueError, match=said):
        again(made, name)


def test_the_first_of_several_is_named(made):
    for change in ("a weight", "the oof", "a test image"):
        CHANGES[change][0](made)
    with pytest.raises(ValueError, match=r"\(data\)"):
        again(made)


def test_a_blend_of_other_weights_or_members_is_named(made):
    edit(made / "runs/demo/blend_mean/blend.json", '"kind": "mean"', '"kind": "rank_mean"')
    with pytest.raises(ValueError, match=r"\(recipe\): .*blend_mean is not what"):
        again(made, "blend_mean")


@pytest.mark.parametrize("where, there, said", [
    ("code", {"models/classifier.py": "0" * 16}, "different code: models/classifier.py: 0000000000000000 then, "),
    ("code", {"gone.py": "0" * 16}, "different code: gone.py: 0000000000000000 then, none now"),
    ("versions", {"torch": "1.0"}, "different version: torch: 1.0 then, "),
    ("computed", {"one": {"device": "cuda", "name": "a card", "threads": 1, "number_format": "fp32"}},
     "different device: one: device cuda then, cpu now, name a card then, "),
])
def test_different_code_version_or_device_is_a_warning(made, capsys, where, there, said):
    path = made / "submissions" / "demo-one.json"
    told = read_manifest(path)
    write_manifest(path, {**told, where: {**told[where], **there}})
    again(made)
    out = capsys.readouterr().out
    assert said in out and "byte for byte" in out


def test_different_bytes_are_an_error_with_the_first_difference(made, monkeypatch):
    path = made / "submissions" / "demo-one.json"
    told = read_manifest(path)
    write_manifest(path, {**told, "versions": {**told["versions"], "torch": "1.0"}})
    true = reproduce.predict_models

    def a_little_off(*arguments):
        return {part: probs * 0.999 for part, probs in true(*arguments).items()}

    monkeypatch.setattr(reproduce, "predict_models", a_little_off)
    with pytest.raises(ValueError, match=r"the bytes differ \(72 of 96 cells differ, by at most 0\.000\d+\); the "
                                         r"first difference is the version: torch: 1\.0 then"):
        again(made)


# ---- wrong manifests


def test_a_manifest_changed_by_hand_is_an_error(made):
    edit(made / "submissions" / "demo-one.json", '"images": 40', '"images": 41')
    with pytest.raises(ValueError, match="was changed after it was written"):
        again(made)


def test_a_manifest_of_another_competition_names_the_flag(made, monkeypatch):
    monkeypatch.setitem(COMPETITIONS, "mine", replace(COMPETITIONS["demo"], name="mine"))
    with pytest.raises(ValueError, match="is of the competition 'demo', not 'mine'; give --competition demo"):
        submit.main(["--competition", "mine", "--data-dir", str(made / "data" / "demo"), "--reproduce",
                      str(made / "submissions" / "demo-one.json")])


def test_a_missing_manifest_and_a_submission_in_its_place_are_named(made):
    with pytest.raises(FileNotFoundError, match="there is no .*demo-none.json"):
        again(made, "none")
    with pytest.raises(ValueError, match="demo-one.csv is not valid JSON"):
        submit.main(["--reproduce", str(made / "submissions" / "demo-one.csv")])


def test_weights_changed_since_training_predict_nothing(made):
    flip_bit(made / RUN / "weights.safetensors")
    (made / "runs/demo/one/test.json").unlink()
    with pytest.raises(ValueError, match=r"weights.safetensors is not what .*result.json says was trained"):
        predict.main(["--experiment", "one"])


# ---- written


def test_a_manifest_is_sorted_and_records_all_inputs(made):
    path = made / "submissions" / "demo-blend_mean.json"
    said = read_manifest(path)
    names = [line.strip().partition('"')[2].partition('"')[0] for line in path.read_text().splitlines()
             if line.startswith('  "')]
    assert names == sorted(names)
    models = {f"{run}/fold{fold}" for run in ("one", "two") for fold in (0, 1)}
    assert set(said["inputs"]["weights"]) == models
    assert set(said["inputs"]["recipes"]) == set(said["inputs"]["oof"]) == models | {"blend_mean"}
    assert set(said["inputs"]["images"]) == set(said["computed"]) == {"one", "two"}
    assert said["inputs"]["seeds"] == {"one": 3, "two": 4} and said["numbers"] == "%.6f"
    assert said["computed"]["one"]["device"] == "cpu" and said["computed"]["one"]["number_format"] == "fp32"
    assert said["code"]["predict.py"] == manifest.describe_code()["predict.py"]
    assert {"python", "torch", "timm", "numpy", "pandas", "safetensors"} <= set(said["versions"])


def test_the_hash_of_images_does_not_depend_on_their_files(made):
    from competition import DEMO
    from data.pixel_store import PixelSettings
    from data.tables import read_part

    def hash_now() -> str:
        images = read_part(DEMO, made / "data" / "demo", "test")
        return manifest.hash_images(open_store("demo-test", images, PixelSettings(64, 1)), images["image_id"])

    before = hash_now()
    for path in (made / "data" / "demo" / "test").glob("*.png"):
        path.write_bytes(path.read_bytes())  # another time of change
    assert hash_now() == before
    replace_image(made)
    assert hash_now() != before


@pytest.mark.parametrize("fails", [".csv", ".json"])
def test_a_full_disk_leaves_the_earlier_submission_and_its_manifest(made, monkeypatch, fails):
    """The disk is full at the submission, or at its manifest."""
    folder = made / "submissions"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    edit(made / "data/demo/sample_submission.csv", "0.5", "0.25")  # so that it is to be written anew

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    write_table, write_text = pd.DataFrame.to_csv, Path.write_text
    if fails == ".csv":
        monkeypatch.setattr(pd.DataFrame, "to_csv", lambda self, *path, **named: full(*path) if path else write_table(
            self, **named))
    else:
        monkeypatch.setattr(Path, "write_text", lambda self, *text, **named: full(self) if (
            self.parent == folder) else write_text(self, *text, **named))
    with pytest.raises(OSError, match=r"No space left on device; the submission was not written.*demo-one\.csv"):
        predict.main(["--experiment", "one"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_every_written_submission_passes_the_checks(made, capsys):
    for path in sorted((made / "submissions").glob("*.csv")):
        submit.main(["--check", str(path)])
    out = capsys.readouterr().out
    assert out.count("has the form of sample_submission.csv") == 5


def test_a_submission_with_an_unreadable_image_is_reproduced(made, capsys):
    image = next((made / "data" / "demo" / "test").glob("*.png"))
    image.write_bytes(image.read_bytes()[:60])
    predict.main(["--experiment", "one", "--unreadable", "black"])
    submit.main(["--reproduce", str(made / "submissions" / "demo-one.json")])
    assert "the same 24 rows" in capsys.readouterr().out
