"""Every error planted into a valid submission is found, and no valid submission is rejected."""

import gzip
import io
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.files import read_csv, sha256
from results.runs import Oof
from results.workspace import Workspace
from submitted import COMPETITIONS, RATES, Sample, make_sample
from submitting import checks, prediction_checks
from submitting.checks import check_file
from submitting.manifest import read_manifest, run_inputs, write_manifest
from submitting.submission import fill_submission, read_template, template_inputs, write_submission
from training.prediction import mean_of_models, read_models, write_models

ALL = tuple(COMPETITIONS)
PROBS = ("multilabel", "classes", "binary")
NUMBERS = (*PROBS, "hard")
INDEPENDENT = ("multilabel", "binary")  # a column may change without the others
SEVERAL = ("multilabel", "classes")     # columns of probabilities


@dataclass(frozen=True)
class Fault:
    """A change of a valid file, the kinds of submission it applies to, and the expected message."""

    kinds: tuple[str, ...]
    message: str  # a regular expression that an error matches, or a warning if not `is_error`
    spoil: Callable[[pd.DataFrame], pd.DataFrame] | None = None  # the table, every cell text
    rewrite: Callable[[str], str | bytes] | None = None          # the file's text
    is_error: bool = True


def numbers(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A change of the values (n, K), written with six decimals; hard labels as whole numbers."""
    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        whole = frame.iloc[:, 1:].apply(lambda cells: cells.str.fullmatch("[01]")).to_numpy().all()
        values = change(frame.iloc[:, 1:].to_numpy(float))
        frame.iloc[:, 1:] = [[f"{value:.0f}" if whole else f"{value:.6f}" for value in row] for row in values]
        return frame
    return spoil


def first_column(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return numbers(lambda values: np.column_stack([change(values[:, 0]), values[:, 1:]]))


def cell(text: str, row: int = 7, column: int = 1) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        frame.iat[row, column] = text
        return frame
    return spoil


def ids(change: Callable[[str], str]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(image_id=frame["image_id"].map(change))


def contents(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A change of all columns but the ids."""
    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        rest = change(frame.iloc[:, 1:].copy())
        return pd.concat([frame[["image_id"]], rest.reset_index(drop=True)], axis=1)
    return spoil


def zipped(text: str) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("submission.csv", text)
    return raw.getvalue()


def half_filled(frame: pd.DataFrame) -> pd.DataFrame:
    frame.iloc[100:, 1:] = "0.5"
    return frame


def one_batch_twice(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[:64], values[:64], values[:64], values[192:]])


def one_hot(values: np.ndarray) -> np.ndarray:
    return np.eye(values.shape[1])[values.argmax(axis=1)] if values.shape[1] > 1 else (values > 0.5).astype(float)


def two_decimals(values: np.ndarray) -> np.ndarray:
    """To two decimals; rows of classes still sum to one."""
    values = values.round(2)
    if values.shape[1] > 1:
        values[:, -1] = (1 - values[:, :-1].sum(axis=1)).clip(0, 1)
    return values


FAULTS = {
    # ids
    "a row is missing": Fault(ALL, "1 of 240 ids are missing", lambda f: f.drop(7)),
    "half the rows are missing": Fault(ALL, "120 of 240 ids are missing", lambda f: f.iloc[:120]),
    "only the header": Fault(ALL, "240 of 240 ids are missing", lambda f: f.iloc[:0]),
    "a row too many": Fault(ALL, "1 ids are not in the sample", lambda f: pd.concat(
        [f, f.iloc[:1].assign(image_id="new")])),
    "a row twice": Fault(ALL, "1 ids occur more than once", lambda f: pd.concat([f, f.iloc[3:4]])),
    "every row twice": Fault(ALL, "240 ids occur more than once", lambda f: pd.concat([f, f])),
    "an id in place of another": Fault(ALL, "more than once", cell("003000", 7, 0)),
    "rows sorted by id": Fault(ALL, "not in the sample's order", lambda f: f.sort_values("image_id")),
    "rows reversed": Fault(ALL, "not in the sample's order", lambda f: f.iloc[::-1]),
    "rows shuffled": Fault(ALL, "not in the sample's order", lambda f: f.sample(frac=1, random_state=0)),
    "two rows exchanged": Fault(ALL, "not in the sample's order", lambda f: f.iloc[[1, 0, *range(2, 240)]]),
    "ids without their zeros": Fault(ALL, "'003000' lost its leading zeros", ids(lambda i: i.lstrip("0"))),
    "ids as decimal numbers": Fault(ALL, "became a decimal number", ids(lambda i: f"{i}.0" if i.isdigit() else i)),
    "blanks around the ids": Fault(ALL, "blanks around it", ids(lambda i: f" {i}")),
    "ids as file names": Fault(ALL, "the sample has '003000'", ids(lambda i: f"{i}.png")),
    "ids in capitals": Fault(ALL, "upper and lower case differ", ids(str.upper)),
    "ids with a power of ten": Fault(ALL, "power of ten", ids(lambda i: f"{int(i):.1E}" if i.isdigit() else i)),
    "row numbers for ids": Fault(ALL, "240 ids are not in the sample", lambda f: f.assign(
        image_id=[str(n) for n in range(len(f))])),
    "an empty id": Fault(ALL, "1 of 240 ids are missing", cell("", 7, 0)),
    # columns
    "the index was left in": Fault(ALL, "the file has an index column", lambda f: f.reset_index(names="")),
    "a column is missing": Fault(ALL, "the columns are", lambda f: f.iloc[:, :-1]),
    "a column too many": Fault(ALL, "the columns are", lambda f: f.assign(fold="0")),
    "columns in another order": Fault(SEVERAL, "in this order", lambda f: f.iloc[:, [0, 2, 1, 3]]),
    "the ids last": Fault(ALL, "in this order", lambda f: f.iloc[:, [*range(1, f.shape[1]), 0]]),
    "a column of another name": Fault(ALL, "the columns are Id", lambda f: f.rename(columns={"image_id": "Id"})),
    "capitals in the header": Fault(ALL, "upper and lower case differ", lambda f: f.rename(columns=str.upper)),
    "blanks in the header": Fault(ALL, "blanks around the names", lambda f: f.rename(columns="{} ".format)),
    "no header": Fault(ALL, "the header is missing|repeated in the header", rewrite=lambda t: t.partition("\n")[2]),
    "two columns of one name": Fault(NUMBERS, "is repeated|the columns are", lambda f: f.assign(again="0.5").rename(
        columns={"again": "mass"})),
    "a second header line": Fault(ALL, "a second header line", rewrite=lambda t: t.split("\n")[0] + "\n" + t),
    "two files in one": Fault(ALL, "more than once|second header", rewrite=lambda t: t + t),
    # the file
    "packed with gzip": Fault(ALL, "packed with gzip", rewrite=lambda t: gzip.compress(t.encode())),
    "a zip file": Fault(ALL, "a zip or Excel file", rewrite=zipped),
    "UTF-16": Fault(ALL, "UTF-16", rewrite=lambda t: t.encode("utf-16")),
    "not UTF-8": Fault(ALL, "not UTF-8: line 2 has the byte 0xe9", rewrite=lambda t: t.replace(
        "003000", "0é3000").encode("latin-1")),
    "empty": Fault(ALL, "is empty", rewrite=lambda t: ""),
    "blank lines only": Fault(ALL, "is empty", rewrite=lambda t: "\n\n"),
    "semicolons": Fault(ALL, "separated by ';'", rewrite=lambda t: t.replace(",", ";")),
    "semicolons and decimal commas": Fault(PROBS, "separated by ';'", rewrite=lambda t: t.replace(",", ";").replace(
        ".", ",")),
    "tabs": Fault(ALL, r"separated by '\\t'", rewrite=lambda t: t.replace(",", "\t")),
    "decimal commas": Fault(PROBS, "line 2 has", rewrite=lambda t: t.replace("0.", "0,")),
    "cut off within a row": Fault(NUMBERS, "the file is cut off", rewrite=lambda t: t[:t.rindex(",")]),
    "cut off within an id": Fault(ALL, "the file is cut off", rewrite=lambda t: t[:t.rindex("\n", 0, -1) + 3]),
    "cut off within a number": Fault(PROBS, "may be cut off", rewrite=lambda t: t[:-4], is_error=False),
    "cut off at a line's end": Fault(ALL, "40 of 240 ids are missing", rewrite=lambda t: "".join(
        t.splitlines(True)[:201])),
    "a quote that does not end": Fault(ALL, "not a table|cut off", rewrite=lambda t: t.replace("003000", '"003000', 1)),
    "a byte order mark": Fault(ALL, "byte order mark", rewrite=lambda t: "\ufeff" + t, is_error=False),
    "lines as on Windows": Fault(ALL, "as on Windows", rewrite=lambda t: t.replace("\n", "\r\n"), is_error=False),
    "an HTML page": Fault(ALL, "the columns are|cut off", rewrite=lambda t: "<!DOCTYPE html>\n<html>\n"),
    # cells
    "an empty cell": Fault(NUMBERS, "1 cells are not numbers, the first is ''", cell("")),
    "nan": Fault(NUMBERS, "the first is 'nan'", cell("nan")),
    "infinite": Fault(NUMBERS, "the first is 'inf'", cell("inf")),
    "a word": Fault(NUMBERS, "the first is 'yes'", cell("yes")),
    "True and False": Fault(("hard",), "240 cells are not numbers", lambda f: f.assign(mass=f["mass"].map(
        {"0": "False", "1": "True"}))),
    "a decimal comma in quotes": Fault(NUMBERS, "write decimals with a point", cell("0,5")),
    "a separator of thousands": Fault(NUMBERS, "not numbers, the first is '1,000'", cell("1,000")),
    "blanks around the numbers": Fault(NUMBERS, "240 cells have blanks", lambda f: f.assign(mass=f["mass"] + " "),
                                       is_error=False),
    "a power of ten": Fault(PROBS, "written with a power of ten", lambda f: f.assign(mass=[
        f"{float(p):.6e}" for p in f["mass"]]), is_error=False),
    "above one": Fault(NUMBERS, "outside 0 to 1", cell("1.01")),
    "below zero": Fault(NUMBERS, "outside 0 to 1", cell("-0.01")),
    "per cent": Fault(PROBS, "outside 0 to 1", numbers(lambda v: 100 * v)),
    "logits": Fault(PROBS, "outside 0 to 1", numbers(lambda v: np.log(v / (1 - v)))),
    "class numbers": Fault(("hard",), "outside 0 to 1", cell("2")),
    "probabilities for decisions": Fault(("hard",), "neither 0 nor 1", cell("0.7")),
    "rows do not sum to one": Fault(("classes",), "240 rows do not sum to one", numbers(lambda v: v * 0.9)),
    "an unknown word": Fault(("text",), "unknown label '3'", cell("3")),
    "another separator": Fault(("text",), "unknown label '0,16'", cell("0,16")),
    "a label's name": Fault(("text",), "unknown label 'mass'", cell("mass")),
    "a missing value as a word": Fault(("text",), "unknown label 'nan'", cell("nan")),
    # values
    "a constant column": Fault(INDEPENDENT, "'mass' is 0.3 for every image", first_column(lambda v: v * 0 + 0.3)),
    "the sample itself": Fault(INDEPENDENT, "is 0.5 for every image", numbers(lambda v: v * 0 + 0.5)),
    "all zeros": Fault(INDEPENDENT, "is 0 for every image", numbers(lambda v: v * 0)),
    "nothing was decided": Fault(("hard",), "is 0 for every image", numbers(lambda v: v * 0), is_error=False),
    "no label anywhere": Fault(("text",), "is 0 for every image", lambda f: f.assign(Predicted=""), is_error=False),
    "two columns swapped": Fault((*SEVERAL, "hard"), "'nodule' holds what the run predicted for 'hernia'",
                                 numbers(lambda v: v[:, [0, 2, 1]])),
    "all columns moved on": Fault((*SEVERAL, "hard"), "'mass' holds what the run predicted for 'nodule'",
                                  numbers(lambda v: v[:, [1, 2, 0]])),
    "labels' texts swapped": Fault(("text",), "'mass' holds what the run predicted for 'nodule'", lambda f: f.assign(
        Predicted=[" ".join({"0": "16", "16": "0"}.get(word, word) for word in text.split())
                   for text in f["Predicted"]])),
    "swapped and rounded": Fault(SEVERAL, "'nodule' holds what the run predicted for 'hernia'",
                                 numbers(lambda v: v.round(4)[:, [0, 2, 1]])),
    "a column in two places": Fault(("multilabel", "hard"), "'nodule' holds what the run predicted for 'mass'",
                                    numbers(lambda v: v[:, [0, 0, 2]])),
    "a column inverted": Fault((*INDEPENDENT, "hard"), "'mass' is inverted", first_column(lambda v: 1 - v)),
    "everything inverted": Fault((*INDEPENDENT, "hard"), "'mass' is inverted", numbers(lambda v: 1 - v)),
    "a column inverted and squared": Fault(INDEPENDENT, "'mass' is inverted",
                                               first_column(lambda v: (1 - v) ** 2)),
    "values one row too low": Fault(ALL, "1 row too low", contents(lambda f: f.iloc[[-1, *range(239)]])),
    "values one row too high": Fault(ALL, "1 row too high", contents(lambda f: f.iloc[[*range(1, 240), 0]])),
    "values two rows too low": Fault(ALL, "2 rows too low", contents(lambda f: f.iloc[[-2, -1, *range(238)]])),
    "the first row lost, the last one twice": Fault(ALL, "1 row too high", contents(
        lambda f: f.iloc[[*range(1, 240), 239]])),
    "values reversed": Fault(PROBS, "at other ids", contents(lambda f: f.iloc[::-1])),
    "values shuffled": Fault(PROBS, "at other ids", contents(lambda f: f.sample(frac=1, random_state=0))),
    "decisions shuffled": Fault(("hard", "text"), "does not follow the run's own", contents(
        lambda f: f.sample(frac=1, random_state=0)), is_error=False),
    "one column sorted": Fault(INDEPENDENT, "at other ids|not what the run predicted", first_column(np.sort)),
    "two decimals": Fault(PROBS, "has 2 decimals", numbers(two_decimals), is_error=False),
    "one decimal": Fault(INDEPENDENT, "has 1 decimal:", numbers(lambda v: v.round(1)), is_error=False),
    "decisions for probabilities": Fault(PROBS, "all values are 0 or 1", numbers(one_hot)),
    "rows that were never filled": Fault(INDEPENDENT, "140 of 240 rows still have the sample's values", half_filled,
                                         is_error=False),
    "a column copied onto another": Fault(("multilabel",), "'hernia' is the same as 'mass' in every row",
                                          numbers(lambda v: v[:, [0, 1, 0]]), is_error=False),
    "a batch three times": Fault(PROBS, "rows repeat an earlier row", numbers(one_batch_twice), is_error=False),
    "one cell edited": Fault(INDEPENDENT, "1 of .* values are not what the run predicted", cell("0.123456"),
                             is_error=False),
    "probabilities squeezed": Fault(INDEPENDENT, "unlike the held-out predictions", numbers(lambda v: v / 4),
                                    is_error=False),
    "every decision yes": Fault(("hard",), "is 1 for every image", numbers(lambda v: v * 0 + 1), is_error=False),
    "decisions at a wrong threshold": Fault(("hard",), "the mean is .* on held-out", first_column(
        lambda v: np.where(np.arange(240) % 4 < 3, 1, v)), is_error=False),
}
CASES = [(name, kind) for name, fault in FAULTS.items() for kind in fault.kinds]


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, Sample]:
    """A valid submission of every kind, and all that it is compared with."""
    made = {}
    with pytest.MonkeyPatch.context() as patched:
        for kind in ALL:
            folder = tmp_path_factory.mktemp(kind)
            patched.setenv("STARTER_HOME", str(folder))
            made[kind] = make_sample(kind, folder)
    return made


@pytest.fixture
def enter(samples, tmp_path, monkeypatch) -> Callable[[str], Sample]:
    """Makes a kind's sample the home folder; its submission is a copy, to be changed."""
    def enter(kind: str, own: bool = False) -> Sample:
        sample = samples[kind]
        if own:  # to be changed
            shutil.copytree(sample.folder, tmp_path, dirs_exist_ok=True)
            sample = replace(sample, folder=tmp_path, path=tmp_path / sample.path.relative_to(sample.folder),
                            rival=tmp_path / sample.rival.relative_to(sample.folder))
        else:
            sample = replace(sample, path=Path(shutil.copy(sample.path, tmp_path)))
        monkeypatch.setenv("STARTER_HOME", str(sample.folder))
        return sample
    return enter


def plant(fault: Fault, path: Path) -> None:
    text = path.read_text()
    if fault.spoil:
        text = fault.spoil(read_csv(path)).to_csv(index=False, lineterminator="\n")
    spoilt = fault.rewrite(text) if fault.rewrite else text
    assert spoilt != path.read_text(), "the planted error changes nothing"
    path.write_bytes(spoilt if isinstance(spoilt, bytes) else spoilt.encode())


def pass_checks(sample: Sample, path: Path | None = None) -> tuple[list[str], list[str]]:
    return check_file(Workspace(sample.competition, sample.folder), path or sample.path, sample.rival)


def has_message(messages: list[str], pattern: str) -> bool:
    return any(re.search(pattern, message) for message in messages)


# ---- planted errors


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_planted_error_is_found(enter, name, kind):
    sample, fault = enter(kind), FAULTS[name]
    plant(fault, sample.path)
    errors, warnings = pass_checks(sample)
    assert has_message(errors if fault.is_error else warnings, fault.message), (errors, warnings)
    assert bool(errors) == fault.is_error or not fault.is_error


def test_the_unchanged_samples_are_valid(enter):
    for kind in ALL:
        assert pass_checks(enter(kind)) == ([], [])


CHECKS = {  # a check, and an error that passes if it is removed
    "_moved_columns": ("two columns swapped", "multilabel"),
    "_inverted_columns": ("everything inverted", "binary"),
    "_moved_rows": ("values shuffled", "classes"),
    "against_own": ("one cell edited", "multilabel"),
    "against_oof": ("probabilities squeezed", "multilabel"),
    "check_values": ("two decimals", "binary"),
    "unfilled_rows": ("rows that were never filled", "binary"),
    "check_cells": ("a power of ten", "binary"),
    "check_bytes": ("cut off within a number", "multilabel"),
}


@pytest.mark.parametrize("check", CHECKS)
def test_an_error_passes_if_its_check_is_removed(enter, monkeypatch, check):
    name, kind = CHECKS[check]
    nothing = {"_moved_columns": [], "_inverted_columns": [], "_moved_rows": None, "against_oof": [],
               "unfilled_rows": [], "check_cells": []}.get(check, ([], []))
    for module in (prediction_checks, checks):
        if hasattr(module, check):
            monkeypatch.setattr(module, check, lambda *arguments: nothing)
    sample, fault = enter(kind), FAULTS[name]
    plant(fault, sample.path)
    errors, warnings = pass_checks(sample)
    assert not has_message(errors if fault.is_error else warnings, fault.message)


# ---- files from elsewhere: only the last submission and its run are known

FOREIGN = {
    "two columns swapped": (numbers(lambda v: v[:, [1, 0, 2]]), ("multilabel", "classes"),
                            "'mass' agrees with 'nodule' of .*-rival.csv"),
    "a column inverted": (first_column(lambda v: 1 - v), INDEPENDENT, "'mass' is inverted compared with"),
    "values one row too low": (contents(lambda f: f.iloc[[-1, *range(239)]]), ALL, "moved by 1 row"),
    "noise": (first_column(lambda v: np.random.default_rng(1).random(240)), INDEPENDENT, "does not agree with that"),
    "all from another population": (first_column(lambda v: 0.9 + v / 10), INDEPENDENT, "the mean is 0.9.* on held-out"),
    "decisions for probabilities": (numbers(one_hot), PROBS, "all values are 0 or 1"),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, each in FOREIGN.items() for kind in each[1]])
def test_an_error_in_a_foreign_file_is_found(enter, name, kind):
    sample, (spoil, _, message) = enter(kind), FOREIGN[name]
    foreign = sample.path.with_name("from_a_colleague.csv")
    frame = spoil(read_csv(sample.path))
    frame.to_csv(foreign, index=False, lineterminator="\n")
    errors, warnings = pass_checks(sample, foreign)
    assert has_message(errors + warnings, message), (errors, warnings)


@pytest.mark.parametrize("kind", ALL)
def test_a_valid_foreign_file_passes(enter, kind):
    sample = enter(kind)
    (sample.path.with_name("from_a_colleague.csv")).write_text(sample.path.read_text())
    assert pass_checks(sample, sample.path.with_name("from_a_colleague.csv")) == ([], [])


@pytest.mark.parametrize("kind", ALL)
def test_a_copy_of_the_last_submission_gets_a_warning(enter, kind):
    sample = enter(kind)
    errors, warnings = check_file(Workspace(sample.competition, sample.folder), sample.path, sample.path)
    assert errors == [] and has_message(warnings, f"the same as {sample.path.name}: every value")


def test_the_newest_other_file_is_the_last_submission_by_default(enter):
    sample = enter("multilabel", own=True)
    shutil.copy(sample.rival, sample.path.with_name("multilabel-copy.csv"))
    warnings = check_file(Workspace(sample.competition, sample.folder), sample.rival)[1]
    assert has_message(warnings, "the same as multilabel-copy.csv")


# ---- models and manifests


def read_ours(sample: Sample) -> Oof:
    return Workspace(sample.competition, sample.folder).oof("ours")


def change_models(sample: Sample, change: Callable[[np.ndarray], None]) -> None:
    """Changes what the models of "ours" predicted, and nothing else."""
    oof = read_ours(sample)
    image_ids = read_template(Workspace(sample.competition, sample.folder)).frame["image_id"]
    probs = read_models(sample.competition, oof, "test", image_ids)
    change(probs)
    write_models(sample.competition, oof, "test", image_ids, probs)


def noise(probs: np.ndarray) -> None:
    probs[2] = np.random.default_rng(0).random(probs[2].shape)


def constant(probs: np.ndarray) -> None:
    probs[2] = 0.5


def invert(probs: np.ndarray) -> None:
    probs[2] = 1 - probs[2]


def all_low(probs: np.ndarray) -> None:
    probs[2] = 0.2 * probs[2]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("change", "message"), [(noise, "ours/fold2 orders the images unlike the others"),
                                              (constant, "ours/fold2 orders the images unlike"),
                                              (invert, "ours/fold2 orders the images unlike"),
                                              (all_low, "ours/fold2 predicts '.*' at another level")])
def test_a_broken_fold_is_named(enter, kind, change, message):
    sample = enter(kind, own=True)
    change_models(sample, change)
    errors, warnings = pass_checks(sample)
    assert errors == [] and has_message(warnings, message), warnings
    assert not has_message(warnings, "fold0|fold1|fold3")


def test_a_run_that_was_trained_again_is_named(enter):
    sample = enter("binary", own=True)
    result = sample.folder / "runs" / "binary" / "ours" / "fold1" / "result.json"
    result.write_text(result.read_text().replace("ours1", "other"))
    assert has_message(pass_checks(sample)[1], "ours was trained again since this file was made")


def test_a_file_that_was_changed_after_its_manifest_is_named(enter):
    sample = enter("multilabel", own=True)
    plant(FAULTS["one cell edited"], sample.path)
    assert has_message(pass_checks(sample)[1], "multilabel-ours.json was written for another file")


@pytest.mark.parametrize(("content", "message"), [
    ("{", "is not valid JSON"), ("{}", "is not a manifest"), ("[]", "is not a manifest"),
    ('{"sha256": "", "inputs": {}}', "lacks 'submission'"),
])
def test_a_file_that_is_not_a_manifest_is_named(enter, content, message):
    sample = enter("binary", own=True)
    sample.path.with_suffix(".json").write_text(content)
    errors, warnings = pass_checks(sample)
    assert errors == [] and has_message(warnings, message)


@pytest.mark.parametrize("kind", INDEPENDENT)
def test_a_calibrated_file_is_valid(enter, kind):
    sample = enter(kind, own=True)
    frame = numbers(lambda values: values**2 / (values**2 + (1 - values)**2))(read_csv(sample.path))
    frame.to_csv(sample.path, index=False, lineterminator="\n")
    manifest = read_manifest(sample.path.with_suffix(".json"))
    means = dict(zip(sample.competition.labels, frame.iloc[:, 1:].astype(float).mean(), strict=True))
    write_manifest(sample.path.with_suffix(".json"), {**manifest, "sha256": sha256(sample.path.read_bytes()),
                                                     "oof": {**manifest["oof"], "means": means}})
    assert pass_checks(sample) == ([], [])


def test_a_manifest_changed_by_hand_is_named(enter):
    sample = enter("binary", own=True)
    manifest = sample.path.with_suffix(".json")
    manifest.write_text(manifest.read_text().replace('"images": 240', '"images": 241'))
    assert has_message(pass_checks(sample)[1], "was changed after it was written")


def test_a_manifest_of_another_competition_is_not_used(enter):
    sample = enter("binary", own=True)
    manifest = sample.path.with_suffix(".json")
    write_manifest(manifest, {**read_manifest(manifest), "competition": "other"})
    assert has_message(pass_checks(sample)[1], "was written for another file")


# ---- valid files

VALID = [dict(kind=kind, seed=seed, **settings) for kind in ALL for seed, settings in enumerate([
    {}, {"test_images": 2}, {"test_images": 20}, {"constant": 0.25}, {"skill": 0.7}, {"skill": 6.0},
    {"images": 60, "test_images": 60}, {"shifted": 0.8}, {"shifted": 1.3}, {"rare": True}])]


@pytest.mark.parametrize("kind", ALL)
def test_no_valid_file_is_rejected(kind, tmp_path, monkeypatch):
    """Other seeds, two and twenty images, constant ones, weak and strong models, other prevalences, rare labels."""
    warned = {}
    for number, settings in enumerate(each for each in VALID if each["kind"] == kind):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.setenv("STARTER_HOME", str(folder))
        settings = {name: value for name, value in settings.items() if name != "kind"}
        sample = make_sample(kind, folder, **to_rates(kind, settings))
        errors, warnings = pass_checks(sample)
        assert errors == [], settings
        if warnings:
            warned[number] = (settings, warnings)
    assert len(warned) <= 2, warned


def to_rates(kind: str, settings: dict) -> dict:
    """Settings of `make_sample`, with "rare" and "shifted" as prevalences."""
    rates = RATES[kind]
    if settings.pop("rare", False) and len(rates) > 1:
        settings["rates"] = (*rates[:-1], 0.02)
    if factor := settings.pop("shifted", None):
        settings["test_rates"] = tuple(min(0.9, factor * rate) for rate in rates)
    return settings


def test_a_submission_of_some_folds_is_compared_with_their_predictions(enter):
    sample = enter("multilabel", own=True)
    oof, template = read_ours(sample), read_template(Workspace(sample.competition, sample.folder))
    some, image_ids = replace(oof, runs=oof.runs[1:3]), template.frame["image_id"]
    probs = mean_of_models(read_models(sample.competition, oof, "test", image_ids)[1:3].astype(float))
    workspace = Workspace(sample.competition, sample.folder)
    frame, metadata = fill_submission(workspace, template, image_ids, probs, oof.probs)
    inputs = template_inputs(sample.competition, template) | run_inputs(sample.competition, some, {})
    path = write_submission(sample.competition, "ours-fold1-fold2", template, frame, inputs, metadata)
    assert pass_checks(sample, path) == ([], [])
    plant(FAULTS["a column inverted"], path)
    write_manifest(path.with_suffix(".json"), {**read_manifest(path.with_suffix(".json")),
                                               "sha256": sha256(path.read_bytes())})
    assert has_message(pass_checks(sample, path)[0], "'mass' is inverted")
