"""Run folders: recipes, out-of-fold predictions, blends and weights, with the errors if they do not agree."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from common.files import read_json, sha256, write_json
from common.settings import override
from competition import Competition, Part
from data.folds import fold_numbers
from experiment import EXPERIMENTS
from models.classifier import head_modules
from results.checkpoints import (
    build_network,
    load_checkpoint,
    load_model,
    save_checkpoint,
    save_weights,
    start_from_run,
)
from results.runs import (
    Oof,
    Run,
    list_runs,
    open_run,
    probs_frame,
    read_oof,
    read_predictions,
    read_probs,
    read_run,
    run_folder,
    write_blend,
    write_predictions,
    write_probs,
)

SMALL = Competition(name="small", about="nothing drawn", task="multilabel", labels=("a", "b"), metric="roc_auc",
                    train=Part(table="train.csv", images="{image_id}.png"))
SMOKE = EXPERIMENTS["smoke"]
HASH = "f" * 64
TABLE = pd.DataFrame({"image_id": ["007", "NA", "1e5", "x,y", "12", "3"], "fold": [0, 1, 2, 0, 1, 2],
                      "fold_1": [2, 2, 1, 1, 0, 0]})
PROBS = np.random.default_rng(0).uniform(0, 1, (6, 2)).astype(np.float32)


def finish(name: str = "smoke", folds: tuple[int, ...] = (0, 1, 2), competition: Competition = SMALL,
           experiment=SMOKE, folds_hash: str = HASH) -> list[Run]:
    """Runs as training leaves them, but for the weights."""
    runs = [open_run(competition, name, fold, experiment, folds_hash) for fold in folds]
    for run, fold in zip(runs, folds, strict=True):
        held_out = fold_numbers(TABLE, experiment.split) == fold
        write_probs(run.folder / "oof.csv", probs_frame(competition, TABLE.loc[held_out, "image_id"], PROBS[held_out]))
        write_json(run.folder / "result.json", {"score": 0.5, "weights_sha256": f"{name} {fold}"})
    return runs


# ---- one recipe a folder


def test_opening_a_run_twice_gives_the_same_run(home):
    first = open_run(SMALL, "smoke", 0, SMOKE, HASH)
    assert open_run(SMALL, "smoke", 0, SMOKE, HASH) == first == read_run(first.folder)
    assert first.folder == home / "runs" / "small" / "smoke" / "fold0"
    assert first.experiment == SMOKE and not first.is_done


@pytest.mark.parametrize("change, message", [
    ({"experiment": override(SMOKE, ["lr=0.5", "tta=identity,hflip"])},
     "another recipe (lr: 0.001 there, 0.5 now, tta: ['identity'] there, ['identity', 'hflip'] now)"),
    ({"folds_hash": "0" * 64}, "another folds file"),
    ({"competition": replace(SMALL, labels=("b", "a"))}, "another labels (['a', 'b'] there, ['b', 'a'] now)"),
    ({"competition": replace(SMALL, channels=3)}, "another channels (1 there, 3 now)"),
    ({"competition": replace(SMALL, task="multiclass")}, "another task (multilabel there, multiclass now)"),
])
def test_another_recipe_raises_and_leaves_the_folder_unchanged(home, change, message):
    run = open_run(SMALL, "smoke", 0, SMOKE, HASH)
    before = (run.folder / "recipe.json").read_bytes()
    wanted = {"competition": SMALL, "experiment": SMOKE, "folds_hash": HASH, **change}
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        open_run(wanted["competition"], "smoke", 0, wanted["experiment"], wanted["folds_hash"])
    assert str(caught.value).startswith(str(run.folder))
    assert str(caught.value).endswith(f"a --name of its own, or delete {run.folder.parent}")
    assert (run.folder / "recipe.json").read_bytes() == before


def test_description_and_metric_of_a_competition_may_change(home):
    open_run(SMALL, "smoke", 0, SMOKE, HASH)
    open_run(replace(SMALL, about="another text", metric="f1_macro"), "smoke", 0, SMOKE, HASH)


def test_a_folder_without_a_run_raises(home):
    with pytest.raises(FileNotFoundError, match="there is no run in .*smoke"):
        read_run(run_folder(SMALL, "smoke"))


def test_a_broken_recipe_raises_with_its_path(home):
    run = open_run(SMALL, "smoke", 0, SMOKE, HASH)
    (run.folder / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match="recipe.json is not valid JSON"):
        open_run(SMALL, "smoke", 0, SMOKE, HASH)


# ---- out-of-fold predictions


def test_predictions_of_all_folds_are_joined_by_id(home):
    finish()
    shuffled = TABLE.iloc[[4, 2, 5, 0, 3, 1]].reset_index(drop=True)
    oof = read_oof(SMALL, "smoke", shuffled, HASH)
    assert oof.is_whole and [run.recipe["fold"] for run in oof.runs] == [0, 1, 2]
    np.testing.assert_array_equal(oof.probs.astype(np.float32), PROBS[[4, 2, 5, 0, 3, 1]])


def test_missing_folds_are_listed_and_not_filled(home):
    finish(folds=(0, 2))
    open_run(SMALL, "smoke", 1, SMOKE, HASH)  # begun, not done
    oof = read_oof(SMALL, "smoke", TABLE, HASH)
    assert not oof.is_whole and oof.folds_missing == (1,)
    assert np.isnan(oof.probs).all(axis=1).tolist() == (TABLE["fold"] == 1).tolist()
    assert read_oof(SMALL, "lite0", TABLE, HASH).folds_missing == (0, 1, 2)


def test_an_unknown_run_raises(home):
    finish()
    with pytest.raises(FileNotFoundError, match="no run 'nothing' of 'small'; the runs are: smoke"):
        read_oof(SMALL, "nothing", TABLE, HASH)


def test_a_run_on_another_split_is_joined_by_that_split(home):
    finish("other", experiment=replace(SMOKE, split=1))
    oof = read_oof(SMALL, "other", TABLE, HASH)
    assert oof.is_whole and oof.split == 1
    np.testing.assert_array_equal(oof.probs.astype(np.float32), PROBS)
    finish("part", folds=(0,), experiment=replace(SMOKE, split=1))
    missing = np.isnan(read_oof(SMALL, "part", TABLE, HASH).probs).all(axis=1)
    assert missing.tolist() == (TABLE["fold_1"] != 0).tolist()


def test_a_missing_split_raises_with_the_command(home):
    finish("other", experiment=replace(SMOKE, split=1))
    message = r"split=1: the folds file has the splits 0 to 0 only.*make_folds\.py .*--repeats 1;"
    with pytest.raises(ValueError, match=message):
        read_oof(SMALL, "other", TABLE.drop(columns="fold_1"), HASH)


def test_folds_of_one_run_cannot_use_two_splits(home):
    finish("mixed", folds=(0,))
    with pytest.raises(ValueError, match=r"another recipe \(split: 0 there, 1 now\)"):
        open_run(SMALL, "mixed", 1, replace(SMOKE, split=1), HASH)


def test_a_blend_of_several_splits_has_split_zero(home):
    finish("one"), finish("two", experiment=replace(SMOKE, split=1))
    runs = tuple(run for name in ("one", "two") for run in read_oof(SMALL, name, TABLE, HASH).runs)
    assert Oof("both", PROBS, runs, (), ("one", "two"), "mean").split == 0
    assert Oof("two twice", PROBS, runs[3:], (), ("two", "two"), "mean").split == 1


def test_predictions_of_another_folds_file_raise(home):
    finish()
    with pytest.raises(ValueError, match=r"fold0 was trained on another folds file than folds/small\.csv; delete"):
        read_oof(SMALL, "smoke", TABLE, "0" * 64)


@pytest.mark.parametrize("change, message", [
    ({"labels": ("b", "a")}, "labels (['a', 'b'] there, ['b', 'a'] now)"),
    ({"labels": ("a",), "task": "binary"}, "task (multilabel there, binary now)"),
    ({"channels": 3}, "channels (1 there, 3 now)"),
])
def test_predictions_for_another_competition_raise(home, change, message):
    finish()
    with pytest.raises(ValueError, match="fold0 was trained with another " + re.escape(message)):
        read_oof(replace(SMALL, **change), "smoke", TABLE, HASH)


def test_a_new_fold_with_another_recipe_raises_before_training(home):
    finish(folds=(0,))
    with pytest.raises(ValueError, match=r"fold0 holds a run with another recipe \(lr: 0\.001 there, 0\.5 now\)"):
        open_run(SMALL, "smoke", 1, override(SMOKE, ["lr=0.5"]), HASH)
    assert not (run_folder(SMALL, "smoke") / "fold1").exists()


def test_reading_folds_of_different_recipes_raises(home):
    other = finish()[2].folder / "recipe.json"
    other.write_text(other.read_text().replace('"lr": 0.001', '"lr": 0.5'))
    with pytest.raises(ValueError, match=r"fold2 was trained with another recipe \(lr: 0\.5 there, 0\.001 now\); del"):
        read_oof(SMALL, "smoke", TABLE, HASH)


@pytest.mark.parametrize("name", ["", ".", "..", "../other", "a/b", "/a", "a\\b", ".hidden", "two words", "naïve"])
def test_an_invalid_run_name_raises(home, name):
    with pytest.raises(ValueError, match="a run cannot be called .*use letters, digits and"):
        open_run(SMALL, name, 0, SMOKE, HASH)
    assert not (home / "runs").exists()


# ---- probabilities on disk


def read(path, labels: tuple[str, ...], image_ids: pd.Series, subset: bool = False) -> np.ndarray:
    return read_probs(path, replace(SMALL, labels=labels), image_ids, subset).astype(np.float32)


def test_single_precision_probabilities_survive_a_round_trip(tmp_path):
    path = write_probs(tmp_path / "probs.csv", probs_frame(SMALL, TABLE["image_id"], PROBS))
    np.testing.assert_array_equal(read(path, ("a", "b"), TABLE["image_id"][::-1]), PROBS[::-1])
    np.testing.assert_array_equal(read(path, ("b", "a"), TABLE["image_id"]), PROBS[:, ::-1])
    assert path.read_text().splitlines()[0] == "image_id,a,b"


def test_a_subset_of_images_is_read_only_on_request(tmp_path):
    path = write_probs(tmp_path / "probs.csv", probs_frame(SMALL, TABLE["image_id"], PROBS))
    np.testing.assert_array_equal(read(path, ("a", "b"), TABLE["image_id"][1:3], subset=True), PROBS[1:3])
    with pytest.raises(ValueError, match="4 ids differ"):
        read(path, ("a", "b"), TABLE["image_id"][1:3])


@pytest.mark.parametrize("edit, message", [
    (lambda text: text.replace("007,", "7,"), "does not hold the same images: 2 ids differ, for example ['007', '7']"),
    (lambda text: text + "99,0.1,0.1\n", "1 ids differ, for example ['99']"),
    (lambda text: text + "NA,0.1,0.1\n", "has the image 'NA' more than once"),
    (lambda text: text.replace("image_id,a", "image_id,c"), "has no column 'a'"),
    (lambda text: re.sub("12,[^,]*,", "12,,", text), "'' for image '12' is not a probability"),
    (lambda text: re.sub("12,[^,]*,", "12,nan,", text), "'nan' for image '12' is not a probability"),
    (lambda text: re.sub("12,[^,]*,", "12,1.5,", text), "'1.5' for image '12' is not a probability"),
    (lambda text: text[:-15], "the file is cut off or damaged"),
], ids=["other id", "strange id", "id twice", "column", "blank", "nan", "above 1", "cut off"])
def test_a_damaged_file_raises_with_path_and_hint(tmp_path, edit, message):
    path = write_probs(tmp_path / "oof.csv", probs_frame(SMALL, TABLE["image_id"], PROBS))
    path.write_text(edit(path.read_text()))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_probs(path, SMALL, TABLE["image_id"])
    assert "oof.csv" in str(caught.value)


# ---- blends and lists


def test_a_blend_is_read_with_the_runs_of_its_members(home):
    finish("one"), finish("two")
    runs = tuple(run for name in ("one", "two") for run in read_oof(SMALL, name, TABLE, HASH).runs)
    write_blend(SMALL, Oof("blend_mean", PROBS, runs, (), ("one", "two"), "mean"), TABLE["image_id"], HASH)
    made_of = {f"{name}/fold{fold}": f"{name} {fold}" for name in ("one", "two") for fold in range(3)}
    oof = read_oof(SMALL, "blend_mean", TABLE, HASH)
    assert oof.members == ("one", "two") and len(oof.runs) == 6 and oof.is_whole and oof.made_of == made_of
    with pytest.raises(ValueError, match="blend_mean was blended on another folds file"):
        read_oof(SMALL, "blend_mean", TABLE, "0" * 64)
    write_json(run_folder(SMALL, "two") / "fold1" / "result.json", {"weights_sha256": "retrained"})
    with pytest.raises(ValueError, match="from other models than its members have now"):
        read_oof(SMALL, "blend_mean", TABLE, HASH)


def test_outdated_test_predictions_are_not_read(home):
    finish()
    oof, ids = read_oof(SMALL, "smoke", TABLE, HASH), TABLE["image_id"]
    assert read_predictions(SMALL, oof, "test", ids) is None
    write_predictions(SMALL, oof, "test", ids, PROBS)
    np.testing.assert_allclose(read_predictions(SMALL, oof, "test", ids[::-1]), PROBS[::-1], rtol=1e-7)
    assert read_predictions(SMALL, oof, "holdout", ids) is None
    write_json(run_folder(SMALL, "smoke") / "fold0" / "result.json", {"weights_sha256": "retrained"})
    assert read_predictions(SMALL, read_oof(SMALL, "smoke", TABLE, HASH), "test", ids) is None


def test_predictions_of_other_images_with_equal_ids_are_not_read(home):
    finish()
    oof, ids = read_oof(SMALL, "smoke", TABLE, HASH), TABLE["image_id"]
    write_predictions(SMALL, oof, "official_validation", ids, PROBS, "store-1")
    assert read_predictions(SMALL, oof, "official_validation", ids, "store-1") is not None
    assert read_predictions(SMALL, oof, "official_validation", ids) is not None
    assert read_predictions(SMALL, oof, "official_validation", ids, "store-2") is None


def test_a_field_missing_in_an_older_recipe_gets_its_default(home):
    run = open_run(SMALL, "smoke", 0, SMOKE, HASH)
    recipe = read_json(run.folder / "recipe.json")
    del recipe["experiment"]["tta"]
    write_json(run.folder / "recipe.json", recipe)
    assert open_run(SMALL, "smoke", 0, SMOKE, HASH).experiment == SMOKE


def test_all_runs_and_blends_of_a_competition_are_listed(home):
    assert list_runs(SMALL) == []
    finish("b", folds=(1,))
    open_run(SMALL, "a", 0, SMOKE, HASH)
    write_json(run_folder(SMALL, "c") / "blend.json", {})
    (run_folder(SMALL, "") / "d").mkdir()
    (run_folder(SMALL, "") / "leaderboard.csv").touch()
    open_run(replace(SMALL, name="other"), "e", 0, SMOKE, HASH)
    assert list_runs(SMALL) == ["a", "b", "c"]


# ---- networks on disk


def test_a_network_is_loaded_from_its_folder_alone(home):
    (run,) = finish(folds=(0,))
    torch.manual_seed(1)
    model = build_network(run).eval()
    torch.nn.init.normal_(head_modules(model)[0].weight)  # the head starts at zero, with equal logits for any backbone
    save_weights(run, model)
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        logits = model(images)
        torch.testing.assert_close(load_model(read_run(run.folder))(images), logits, atol=0, rtol=0)
    assert logits.std(dim=0).min() > 0


def test_loading_an_unfinished_fold_raises_with_its_command(home):
    run = open_run(SMALL, "smoke", 2, SMOKE, HASH, command="python src/train.py --experiment smoke")
    with pytest.raises(FileNotFoundError, match=r"fold2 is not finished; run: python src/train\.py --experiment smoke"):
        load_model(run)


def test_weights_of_another_network_raise(home):
    (run,) = finish(folds=(0,))
    save_weights(run, build_network(replace(run, recipe={**run.recipe, "labels": ["a", "b", "c"]})))
    with pytest.raises(ValueError, match=r"weights\.safetensors does not fit the network that .*recipe\.json names"):
        load_model(run)


@pytest.mark.parametrize("spoil", ["cut off", "empty", "missing"])
def test_unreadable_weights_raise_with_their_path(home, spoil):
    (run,) = finish(folds=(0,))
    path = run.folder / "weights.safetensors"
    save_weights(run, build_network(run))
    raw = path.read_bytes()
    path.unlink() if spoil == "missing" else path.write_bytes(raw[:-100] if spoil == "cut off" else b"")
    with pytest.raises((ValueError, FileNotFoundError), match=r"weights\.safetensors"):
        load_model(run)


def test_an_unreadable_checkpoint_raises_with_path_and_hint(home):
    run = open_run(SMALL, "smoke", 0, SMOKE, HASH)
    assert load_checkpoint(run) is None
    save_checkpoint(run, {"epoch": 1, "model": {"weight": torch.ones(1000)}})
    assert load_checkpoint(run)["epoch"] == 1
    path = run.folder / "checkpoint.pt"
    for raw in (path.read_bytes()[:-500], b"", b"no checkpoint at all"):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read; delete it to train this fold from"):
            load_checkpoint(run)


# ---- starting from another run


def trained(name: str = "source", experiment=SMOKE, competition: Competition = SMALL, fold: int = 0) -> torch.nn.Module:
    """A finished fold with weights of its own; returns its network."""
    run = open_run(competition, name, fold, experiment, HASH)
    model = build_network(run, weights="none")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
        for buffer in model.buffers():
            buffer += 2
    write_json(run.folder / "result.json", {"score": 0.5, "weights_sha256": save_weights(run, model)})
    return model


def start(change: tuple[str, ...] = (), name: str = "source", fold: int = 0, competition: Competition = SMALL,
          experiment=SMOKE, folds_hash: str = HASH) -> tuple[torch.nn.Module, dict[str, str]]:
    """The network that training of another run starts with, and the hash of the weights it starts from."""
    experiment = override(replace(experiment, weights=f"run:{name}"), change)
    run = open_run(competition, "new", fold, experiment, folds_hash)
    model = build_network(run)
    return model, start_from_run(model, competition, name, fold, experiment, folds_hash)


@pytest.mark.parametrize("change", [["network=cnn_d"], ["network=test_resnet"], ["network=cnn_d", "per_task=true"],
                                    ["network=cnn_d", "colour=rgb"]])
def test_a_run_starts_from_the_same_fold_of_another(home, change):
    experiment = override(SMOKE, change)
    for fold in (0, 1):
        there = trained(experiment=experiment, fold=fold)
        model, hashes = start(fold=fold, experiment=experiment)
        assert model.left_out == []
        for name, value in there.state_dict().items():  # mean and std are among them
            assert torch.equal(model.state_dict()[name], value), name
        raw = (run_folder(SMALL, "source") / f"fold{fold}" / "weights.safetensors").read_bytes()
        assert hashes == {f"source/fold{fold}": sha256(raw)}


def test_another_recipe_with_the_same_network_may_start_from_a_run(home):
    there = trained()
    model, _ = start(("lr=0.1", "augmentation=warp", "epochs=3"))
    assert torch.equal(model.network.conv1.weight, there.network.conv1.weight)


@pytest.mark.parametrize("labels", [("a", "b", "c"), ("b", "a")])
@pytest.mark.parametrize("network, head", [("cnn_d", "output"), ("test_resnet", "fc"), ("test_vit", "head")])
def test_a_head_for_other_labels_starts_at_zero(home, network, head, labels):
    experiment = override(SMOKE, [f"network={network}"])
    there = trained(experiment=experiment, competition=replace(SMALL, labels=labels))
    model, _ = start(experiment=experiment)
    assert model.left_out == [f"network.{head}.bias", f"network.{head}.weight"]
    assert not any(model.state_dict()[name].any() for name in model.left_out)
    assert all(torch.equal(value, there.state_dict()[name]) for name, value in model.state_dict().items()
               if name not in model.left_out)


@pytest.mark.parametrize("there, now, message", [
    (["split=1"], [], "weights=run:source: that run has split 1, this one 0; name a run with the same split"),
    (["network=cnn_b"], [], "that run has network cnn_b, this one cnn_d"),
    (["per_task=true"], [], "that run has per_task True, this one False"),
    (["colour=rgb"], [], "that run has channels 3, this one 1"),
    (["image_size=96"], [], r"weights\.safetensors does not hold the weights of .*'network\.hidden\.weight'"),
])
def test_starting_from_another_split_or_network_raises(home, there, now, message):
    trained(experiment=override(SMOKE, there))
    with pytest.raises(ValueError, match=message):
        start(tuple(now))


def test_starting_from_another_folds_file_raises(home):
    trained()
    with pytest.raises(ValueError, match=r"another folds file than folds/small\.csv; delete .*source and retrain it"):
        start(folds_hash="0" * 64)


def test_a_run_cannot_start_from_itself(home):
    with pytest.raises(ValueError, match="weights=run:new: a run cannot start from itself; give this one a --name"):
        start(name="new")


def test_starting_from_an_unfinished_run_raises_with_its_command(home):
    with pytest.raises(FileNotFoundError, match="run:source: there is no .*fold0; first run: python src/train.py "
                                                "--competition small --experiment source"):
        start()
    open_run(SMALL, "source", 0, SMOKE, HASH, command="python src/train.py --experiment source")
    with pytest.raises(FileNotFoundError, match=r"fold0 is not finished; run: python .*--experiment source"):
        start()


def test_starting_from_a_blend_raises(home):
    write_json(run_folder(SMALL, "both") / "blend.json", {})
    with pytest.raises(FileNotFoundError, match="run:both: that is a blend and has no weights; name one of its runs"):
        start(name="both")


@pytest.mark.parametrize("spoil", ["cut off", "another's"])
def test_weights_that_differ_from_the_result_raise(home, spoil):
    trained()
    path = run_folder(SMALL, "source") / "fold0" / "weights.safetensors"
    if spoil == "cut off":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        save_weights(read_run(path.parent), build_network(read_run(path.parent)))
    with pytest.raises(ValueError, match=r"weights\.safetensors (cannot be read|is not what .*result\.json says)"):
        start()
