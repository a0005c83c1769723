"""Submissions: planted errors are found, valid files pass, and the file has the form of the sample."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.files import read_json
from competition import Competition, Part
from results.workspace import Workspace
from scoring.metrics import roc_auc
from scoring.thresholds import criterion
from submitting.submission import (
    Template,
    check_submission,
    fill_submission,
    fill_template,
    is_written,
    read_submission,
    read_template,
    submission_path,
    write_submission,
)
from workspaces import filled_workspace

IDS = ("007", "001", "NA", "10", "1e5", "x,y")
SAMPLE = "image_id,b,a\n" + "".join(f'"{name}",0.0,0.0\n' for name in IDS)
PROBS = Competition(name="probs", about="numbers", task="multilabel", labels=("a", "b"), metric="roc_auc",
                    train=Part(table="train.csv", images="{image_id}.png"),
                    test=Part(table="sample.csv", images="{image_id}.png", labelled=False),
                    sample_submission="sample.csv")
HARD = replace(PROBS, name="hard", submission="labels")
CLASSES = replace(PROBS, name="classes", task="multiclass", metric="accuracy")
TASKS = {competition.name: competition for competition in (PROBS, HARD, CLASSES)}
VALUES = {"probs": np.linspace(0, 1, 12).reshape(6, 2), "hard": np.array([[1, 0], [0, 1]] * 3),
          "classes": np.column_stack([np.linspace(0, 1, 6), np.linspace(1, 0, 6)])}


@pytest.fixture
def data(home, tmp_path) -> Path:
    (tmp_path / "sample.csv").write_text(SAMPLE)
    for name in IDS:
        (tmp_path / f"{name}.png").touch()
    return tmp_path


def sound(name: str, data: Path) -> pd.DataFrame:
    """A submission that is as it must be."""
    return fill_template(TASKS[name], read_template(Workspace(TASKS[name], data)), pd.Series(IDS), VALUES[name])


def check(name: str, data: Path, frame: pd.DataFrame, oof_rates: list | None = None) -> tuple[list[str], list[str]]:
    return check_submission(TASKS[name], read_template(Workspace(TASKS[name], data)), frame,
                            oof_rates and np.array(oof_rates))


# ---- faults


def at(row: int, column: str, text: str):
    def edit(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[row, column] = text
        return frame
    return edit


FAULTS = {
    "a row is missing": ("probs", lambda f: f.drop(2), "1 of 6 ids are missing, the first is 'NA'"),
    "nothing is there": ("probs", lambda f: f.iloc[:0], "6 of 6 ids are missing, the first is '007'"),
    "a row too many": ("probs", lambda f: pd.concat([f, f.iloc[:1].assign(image_id="8")], ignore_index=True),
                       "1 ids are not in the sample submission, the first is '8'"),
    "a wrong id": ("probs", at(0, "image_id", "008"), "1 of 6 ids are missing, the first is '007'"),
    "an id without its zeros": ("probs", at(0, "image_id", "7"), "1 ids are not in the sample submission, the first"),
    "an id as a number": ("probs", at(4, "image_id", "100000.0"), "the first is '100000.0'"),
    "an id twice": ("probs", lambda f: pd.concat([f, f.iloc[3:4]], ignore_index=True),
                    "1 ids occur more than once, the first is '10'"),
    "an id instead of another": ("probs", at(0, "image_id", "10"), "1 of 6 ids are missing, the first is '007'"),
    "another order of rows": ("probs", lambda f: f.iloc[[0, 2, 1, 3, 4, 5]].reset_index(drop=True),
                              "not in the sample's order: row 3 has 'NA', not '001'"),
    "sorted rows": ("probs", lambda f: f.sort_values("image_id").reset_index(drop=True), "not in the sample's order"),
    "an empty cell": ("probs", at(1, "a", ""), "column 'a': 1 cells are not numbers, the first is '' for id '001'"),
    "nan": ("probs", at(1, "a", "nan"), "column 'a': 1 cells are not numbers, the first is 'nan' for id '001'"),
    "infinite": ("probs", at(1, "a", "inf"), "column 'a': 1 cells are not numbers, the first is 'inf'"),
    "a word": ("probs", at(1, "b", "yes"), "column 'b': 1 cells are not numbers, the first is 'yes' for id '001'"),
    "a decimal comma": ("probs", at(1, "b", "0,5"), "column 'b': 1 cells are not numbers, the first is '0,5'"),
    "above 1": ("probs", at(2, "b", "1.01"), "column 'b': 1 values lie outside 0 to 1, the first is 1.01 for id 'NA'"),
    "per cent": ("probs", lambda f: f.assign(a=(100 * f["a"].astype(float)).astype(str)), "values lie outside 0 to 1"),
    "logits": ("probs", at(2, "b", "-3.5"), "column 'b': 1 values lie outside 0 to 1, the first is -3.5"),
    "a constant column": ("probs", lambda f: f.assign(a="0.5"), "column 'a' is 0.5 for every image: nothing was"),
    "the sample itself": ("probs", lambda f: f.assign(a="0.0", b="0.0"), "column 'b' is 0 for every image"),
    "columns in another order": ("probs", lambda f: f[["image_id", "a", "b"]],
                                 "the columns are image_id, a, b, but must be image_id, b, a in this order"),
    "a column is missing": ("probs", lambda f: f.drop(columns="b"), "the columns are image_id, a, but must be"),
    "a column too many": ("probs", lambda f: f.assign(c="0.5"), "the columns are image_id, b, a, c, but must be"),
    "an index column": ("probs", lambda f: f.reset_index(), "the columns are index, image_id, b, a, but must be"),
    "a column of another name": ("probs", lambda f: f.rename(columns={"image_id": "Image"}), "the columns are Image"),
    "numbers instead of labels": ("hard", at(0, "a", "0.7"), "column 'a': 1 values are neither 0 nor 1"),
    "labels outside": ("hard", at(0, "a", "2"), "column 'a': 1 values lie outside 0 to 1"),
    "a row that does not sum to one": ("classes", at(3, "a", "0.9"), "1 rows do not sum to one, the first is id '10'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_error_is_found(data, fault):
    name, edit, message = FAULTS[fault]
    errors, _ = check(name, data, edit(sound(name, data)))
    assert any(message in error for error in errors), errors


def test_all_errors_are_named_at_once(data):
    frame = at(1, "a", "")(at(2, "b", "7")(sound("probs", data))).drop(5)
    errors, _ = check("probs", data, frame)
    assert len(errors) == 3 and "'x,y'" in errors[0]


# ---- valid submissions


@pytest.mark.parametrize("name", TASKS)
def test_a_valid_submission_has_no_errors_and_no_warnings(data, name):
    assert check(name, data, sound(name, data), list(VALUES[name].mean(axis=0))) == ([], [])


@pytest.mark.parametrize("name, edit", [
    ("probs", at(0, "a", "1e-07")),
    ("probs", at(0, "a", "0")),
    ("probs", at(0, "a", "1")),
    ("hard", at(0, "a", "1.0")),
    ("hard", lambda f: f.assign(a="0.0", b=["0.0"] * 5 + ["1.0"])),
    ("classes", at(3, "a", "0.6004")),
], ids=["exponent", "0", "1", "other type", "a rare label found nowhere", "rounded"])
def test_unusual_but_valid_cells_are_no_error(data, name, edit):
    assert check(name, data, edit(sound(name, data)))[0] == []


def test_a_hard_label_found_nowhere_gets_a_warning(data):
    assert check("hard", data, sound("hard", data).assign(a="0.0"))[1] == ["column 'a' is 0 for every image"]


@pytest.mark.parametrize("count", [1, 2])
def test_one_image_or_two_make_a_submission(data, count):
    (data / "sample.csv").write_text("".join(SAMPLE.splitlines(True)[:count + 1]))
    assert check("probs", data, sound("probs", data)) == ([], [])


def test_rates_swapped_between_columns_get_a_warning():
    ids = pd.Series([str(number) for number in range(400)])
    template = Template(pd.DataFrame({"image_id": ids, "a": "0", "b": "0"}), "image_id", ("a", "b"))
    values = np.random.default_rng(0).uniform(0, 1, (400, 2)) * [0.2, 1.0]  # means 0.1 and 0.5
    frame = fill_template(PROBS, template, ids, values)
    assert check_submission(PROBS, template, frame, np.array([0.1, 0.5])) == ([], [])
    errors, warnings = check_submission(PROBS, template, frame, np.array([0.5, 0.1]))
    assert errors == [] and len(warnings) == 2
    assert re.match(r"column 'a': the mean is 0\.10\d, but was 0\.500 on held-out training images", warnings[0])


def test_a_few_images_may_differ_from_the_oofs_rate_by_chance(data):
    assert check("probs", data, sound("probs", data), [0.3, 0.8]) == ([], [])


# ---- filled as the sample is


def test_values_are_joined_by_id_and_columns_by_name(data):
    template = read_template(Workspace(PROBS, data))
    shuffled = [3, 1, 5, 0, 2, 4]
    frame = fill_template(PROBS, template, pd.Series(IDS).iloc[shuffled], VALUES["probs"][shuffled])
    pd.testing.assert_frame_equal(frame, sound("probs", data))
    assert frame.columns.tolist() == ["image_id", "b", "a"] and frame["image_id"].tolist() == list(IDS)
    assert frame["a"].astype(float).to_numpy() == pytest.approx(VALUES["probs"][:, 0], abs=1e-6)


@pytest.mark.parametrize("placeholder, hard, expected", [
    ("0", True, ["1", "0"]),
    ("0.0", True, ["1.0", "0.0"]),
    ("1", True, ["1", "0"]),
    ("0.5", True, ["1.0", "0.0"]),
    ("", True, ["1.0", "0.0"]),
    ("0", False, ["1.000000", "0.000000"]),
    ("0.5", False, ["1.000000", "0.000000"]),
])
def test_numbers_are_written_as_in_the_sample(data, placeholder, hard, expected):
    (data / "sample.csv").write_text(f"image_id,b,a\n007,{placeholder},{placeholder}\n10,{placeholder},{placeholder}\n")
    template = read_template(Workspace(PROBS, data))
    frame = fill_template(HARD if hard else PROBS, template, pd.Series(["10", "007"]), np.array([[0, 0], [1, 1]]))
    assert frame["a"].tolist() == expected and frame["b"].tolist() == expected


def test_other_columns_of_the_sample_stay_as_they_are(data):
    (data / "sample.csv").write_text("image_id,height,a,b,note\n007,0512,0,0,\n10,64,0,0,x\n")
    frame = fill_template(PROBS, read_template(Workspace(PROBS, data)), pd.Series(["007", "10"]), VALUES["probs"][:2])
    assert frame[["height", "note"]].to_numpy().tolist() == [["0512", ""], ["64", "x"]]


def test_labels_of_other_names_in_the_sample_are_filled_in_their_order(data):
    competition = replace(PROBS, labels=("mass", "nodule"), label_columns=("b", "a"))
    frame = fill_template(competition, read_template(Workspace(competition, data)), pd.Series(IDS), VALUES["probs"])
    assert frame["b"].astype(float).to_numpy() == pytest.approx(VALUES["probs"][:, 0], abs=1e-6)


def test_without_a_sample_the_test_images_are_the_template(data):
    template = read_template(Workspace(replace(PROBS, sample_submission=None), data))
    assert template.frame.columns.tolist() == ["image_id", "a", "b"]
    assert template.frame["image_id"].tolist() == list(IDS)


def test_an_id_without_a_prediction_is_named(data):
    with pytest.raises(ValueError, match="1 ids of the sample submission have no prediction, the first is 'NA'"):
        fill_template(PROBS, read_template(Workspace(PROBS, data)), pd.Series(IDS).drop(2), VALUES["probs"][:5])


# ---- text

GRADES = replace(PROBS, name="grades", task="multiclass", label_list_column="grade", submission="text",
                 labels=("no", "yes"), label_map=(("0", "no"), ("1", "yes")))
PROTEINS = replace(PROBS, name="proteins", label_list_column="Target", label_separator=" ", submission="text",
                   submission_column="Predicted", labels=("nucleus", "membrane"),
                   label_map=(("0", "nucleus"), ("16", "membrane")))


def text_template(competition: Competition, data: Path) -> Template:
    (data / "sample.csv").write_text(f"image_id,{competition.submission_column or 'grade'}\n007,0\n001,0\n10,0\n")
    return read_template(Workspace(competition, data))


@pytest.mark.parametrize("competition, decided, expected", [
    (GRADES, [[1, 0], [0, 1], [1, 0]], ["0", "1", "0"]),
    (PROTEINS, [[1, 1], [0, 1], [0, 0]], ["0 16", "16", ""]),
    (replace(PROTEINS, ignored_labels=("none",)), [[1, 1], [0, 1], [0, 0]], ["0 16", "16", "none"]),
])
def test_labels_are_written_as_the_competitions_texts(data, competition, decided, expected):
    template = text_template(competition, data)
    frame = fill_template(competition, template, pd.Series(["007", "001", "10"]), np.array(decided))
    assert frame[template.columns[0]].tolist() == expected
    assert check_submission(competition, template, frame)[0] == []


@pytest.mark.parametrize("texts, said", [
    (["0", "2", "1"], "image '001' has the unknown label '2'"),
    (["0", "", "1"], "1 rows do not name exactly one class, the first is id '001'"),
    (["0", "0 1", "1"], "image '001' has the unknown label '0 1'"),
    (["0", "nan", "1"], "image '001' has the unknown label 'nan'"),
])
def test_a_text_that_is_not_a_class_is_an_error(data, texts, said):
    template = text_template(GRADES, data)
    errors, _ = check_submission(GRADES, template, template.frame.assign(grade=texts))
    assert len(errors) == 1 and said in errors[0]


# ---- written


def test_a_written_submission_is_read_back_and_passes_the_check(data, home):
    template = read_template(Workspace(PROBS, data))
    path = write_submission(PROBS, "run", template, sound("probs", data), {"weights": "w"}, {})
    assert path == home / "submissions" / "probs-run.csv"
    pd.testing.assert_frame_equal(read_submission(path), sound("probs", data), check_dtype=False)
    assert path.read_text().splitlines()[:2] == ["image_id,b,a", "007,0.090909,0.000000"]
    assert check("probs", data, read_submission(path)) == ([], [])


def test_a_submission_with_errors_keeps_the_earlier_one(data):
    template = read_template(Workspace(PROBS, data))
    path = write_submission(PROBS, "run", template, sound("probs", data), {}, {})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"probs-run\.csv was not written:\n  column 'a' is 0\.5 for every image"):
        write_submission(PROBS, "run", template, sound("probs", data).assign(a="0.5"), {}, {})
    assert path.read_bytes() == before and is_written(PROBS, "run", {})


def test_is_written_is_false_after_a_change(data):
    template, inputs = read_template(Workspace(PROBS, data)), {"weights": {"fold0": "abc"}}
    assert not is_written(PROBS, "run", inputs)
    path = write_submission(PROBS, "run", template, sound("probs", data), inputs, {})
    assert is_written(PROBS, "run", inputs) and not is_written(PROBS, "run", {"weights": {"fold0": "abd"}})
    path.write_text(path.read_text().replace("0.0", "0.1", 1))
    assert not is_written(PROBS, "run", inputs)
    write_submission(PROBS, "run", template, sound("probs", data), inputs, {})
    path.with_suffix(".json").unlink()
    assert not is_written(PROBS, "run", inputs)


@pytest.mark.parametrize("raw, error, message", [
    (None, FileNotFoundError, "there is no .*file.csv"),
    (b"", ValueError, "file.csv is empty"),
    (b"image_id,b,a\n007,0.1,0.2\n001,0.", ValueError, "line 3 has 2 cells, but the header has 3"),
    (b"PK\x03\x04\xff", ValueError, "not a table of comma-separated text"),
])
def test_a_file_that_is_not_a_table_is_named(tmp_path, raw, error, message):
    if raw is not None:
        (tmp_path / "file.csv").write_bytes(raw)
    with pytest.raises(error, match=message):
        read_submission(tmp_path / "file.csv")


# ---- from probabilities to a file


def oof_of(competition: Competition, count: int = 60) -> tuple[pd.DataFrame, np.ndarray]:
    """A training table and oof predictions that rank both labels well, on another scale than 0.5."""
    rng = np.random.default_rng(0)
    truth = np.eye(2)[rng.integers(0, 2, count)]
    probs = 0.3 * truth + rng.uniform(0, 0.1, (count, 2))
    if competition.task == "multiclass":
        probs /= probs.sum(axis=1, keepdims=True)
    return pd.DataFrame(truth, columns=["a", "b"]), probs


@pytest.mark.parametrize("name", TASKS)
def test_probabilities_become_a_submission_with_its_manifest(data, name, capsys):
    competition = TASKS[name]
    table, oof = oof_of(competition)
    test = oof[:6]
    template = read_template(Workspace(competition, data))
    frame, metadata = fill_submission(filled_workspace(competition, table), template, pd.Series(IDS), test, oof)
    path = write_submission(competition, "run", template, frame, {"weights": "w"}, metadata)
    written, manifest = read_submission(path), read_json(path.with_suffix(".json"))
    values = written[["a", "b"]].astype(float).to_numpy()
    expected = table.to_numpy()[:6] if name == "hard" else test  # thresholds near 0.2 split the classes, 0.5 finds none
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert manifest["inputs"] == {"weights": "w"} and manifest["oof"]["images"] == 60
    assert manifest["oof"][competition.metric] == pytest.approx(1.0)
    assert f"wrote {path}: 6 rows, checked" in capsys.readouterr().out


def test_rows_without_a_prediction_are_left_out_of_the_metadata(data):
    table, oof = oof_of(PROBS)
    oof[::3] = np.nan
    oof[1, 0], oof[2, 0] = oof[2, 0], oof[1, 0]
    _, metadata = fill_submission(filled_workspace(PROBS, table), read_template(Workspace(PROBS, data)),
                                  pd.Series(IDS), oof_of(PROBS)[1][:6], oof)
    there = ~np.isnan(oof).any(axis=1)
    assert metadata["oof"]["images"] == there.sum() == 40
    assert metadata["oof"]["roc_auc"] == pytest.approx(roc_auc(table.to_numpy()[there], oof[there], "multilabel"))


@pytest.mark.parametrize("metric, expected", [("roc_auc", "f1_macro"), ("f1_macro", "f1_macro"),
                                              ("f1_micro", "f1_micro"), ("accuracy", "accuracy")])
def test_thresholds_are_fitted_for_the_metric_where_it_is_one_of_decisions(metric, expected):
    assert criterion(metric) == expected


def test_a_name_with_dots_keeps_its_manifest_beside_it(data):
    path = write_submission(PROBS, "lr0.1", read_template(Workspace(PROBS, data)), sound("probs", data), {}, {})
    assert path == submission_path(PROBS, "lr0.1") and path.name == "probs-lr0.1.csv"
    assert path.with_suffix(".json").name == "probs-lr0.1.json"
