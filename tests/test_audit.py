"""The audit reports every planted problem and runs on competitions of every kind."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import audit
import competition as descriptions
from auditing import shortcut_checks
from auditing.findings import Report
from auditing.label_checks import check_labels, suggest_label_repeats
from common.files import home as home_folder
from common.files import json_ready, read_csv, write_csv
from competition import Competition, Part
from data.image_scan import Scan
from data.tables import read_train
from real_data import DATA, needs

N = 48
MESSY = Competition(name="messy", about="Noise with problems.", task="multilabel", labels=("square", "other"),
                    metric="roc_auc", train=Part(table="train.csv", images="train/{image_id}.png"),
                    test=Part(table="test.csv", images="test/{image_id}.png", labelled=False), group_column="patient")


def draw(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def noise(seed: int, size: int = 32) -> np.ndarray:
    """A blurred noise image, different for every seed."""
    image = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    return cv2.GaussianBlur(image, (5, 5), 0)


def register(monkeypatch, competition: Competition) -> None:
    monkeypatch.setitem(descriptions.COMPETITIONS, competition.name, competition)


def table_of(count: int = N) -> pd.DataFrame:
    number = np.arange(count)
    return pd.DataFrame({
        "image_id": [f"i{n:02d}" for n in number], "patient": [f"p{n // 2}" for n in number], "square": number // 2 % 2,
        "other": (number // 2 % 3 == 0).astype(int), "age": 20 + number // 2, "sex": ["F" if n // 2 % 2 else "M"
                                                                                     for n in number],
        "report": [f"free text number {n}" for n in number]}).astype(str)


@pytest.fixture
def messy(home, monkeypatch):
    """The data folder of a competition with one problem of each kind."""
    register(monkeypatch, MESSY)
    data, table = home / "data" / "messy", table_of()
    for number, image_id in enumerate(table["image_id"]):
        draw(data / "train" / f"{image_id}.png", noise(number))
    for number in range(12):
        draw(data / "test" / f"t{number:02d}.png", noise(1000 + number))
    draw(data / "train" / "i00.png", np.zeros((32, 32), np.uint8))
    draw(data / "train" / "i01.png", noise(1, 96))
    draw(data / "train" / "i02.png", np.dstack([noise(2)] * 4))
    whole = (data / "train" / "i03.png").read_bytes()
    (data / "train" / "i03.png").write_bytes(whole[:len(whole) // 2])
    draw(data / "train" / "i11.png", noise(4))  # equals i04, of another patient and with another label
    draw(data / "test" / "t05.png", noise(6))  # i06
    draw(data / "train" / "nobody.png", noise(99))
    table.loc[7, "age"], table.loc[8, "sex"] = "414", "F"
    table.loc[9, "square"], table.loc[10, "other"] = "-1", ""
    write_csv(data / "train.csv", table)
    write_csv(data / "test.csv", pd.DataFrame({"image_id": [f"t{n:02d}" for n in range(12)], "square": 0, "other": 0}))
    return data


@pytest.fixture
def undrawn(monkeypatch):
    """No plots: they take most of the time."""
    monkeypatch.setattr(Report, "plot", lambda *arguments: None)


def run(name: str, *flags: str) -> dict:
    """audit.json of an audit."""
    path = audit.main(["--competition", name, *flags])
    summary = json.loads(path.read_text(encoding="utf-8"))
    assert all((path.parent / plot).stat().st_size > 1000 for plot in summary["plots"])
    assert {plot.name for plot in path.parent.glob("*.png")} == set(summary["plots"])
    return summary


def finding_with(summary: dict, words: str) -> dict:
    """The one finding with these words."""
    found = [finding for finding in summary["findings"] if words in finding["what"]]
    assert len(found) == 1, [finding["what"] for finding in summary["findings"]]
    return found[0]


def test_every_planted_problem_is_reported_with_examples(messy, capsys):
    summary = run("messy", "--quick")
    named = {
        "1 train image of 48 cannot be read.": ("error", "i03"),
        "1 train image is constant (2.1 %): all pixels have one grey value. 1 of them has": ("warning", "i00"),
        "1 train image has another size than 32x32": ("note", "i01 (96x96)"),
        "1 train image has another pixel mode than L": ("note", "i02 (RGBA)"),
        "1 file in the image folders is in no table.": ("warning", "train/nobody.png"),
        "2 training images have identical pixels: 1 set, 1 of them with several": ("warning", "i04 = i11"),
        "1 set of identical images has different labels": ("warning", "i04 i11: square 0 1"),
        "1 test image has exactly the same pixels": ("error", "i06 = t05"),
        "1 image has an impossible age": ("warning", "i07: 414"),
        "1 patient has more than one value of sex": ("warning", "p4"),
        "1 label cell is uncertain (1.0 %)": ("note", ""), "1 label cell is blank (1.0 %)": ("note", "")}
    for words, (severity, example) in named.items():
        finding = finding_with(summary, words)
        assert finding["severity"] == severity
        assert any(each.startswith(example) for each in finding["examples"]) or not example, finding
    screen = capsys.readouterr().out
    assert all(finding["what"][:30] in screen for finding in summary["findings"])
    ranks = [["error", "warning", "note"].index(finding["severity"]) for finding in summary["findings"]]
    assert ranks == sorted(ranks)


def test_audit_json_has_the_counts(messy, undrawn):
    summary = run("messy", "--quick")
    train, counts = summary["images"]["train"], summary["labels"]["cells"]["train"]
    assert (train["images"], train["unreadable"], train["constant"], train["patients"]) == (N, 1, 1, N // 2)
    assert summary["images"]["test"]["patients"] is None  # its table has no column of patients
    assert train["unreadable_images"][0]["image_id"] == "i03"
    assert [counts[0][kind] for kind in ("present", "absent", "uncertain", "blank")] == [24, 23, 1, 0]
    assert summary["duplicates"]["exact_sets"] == 1 and summary["duplicates"]["exact_sets_of_several_patients"] == 1
    assert summary["parts"]["shared_with_train"]["test"]["exact"] == 1
    assert summary["columns"]["left_out"] == {"patient": "it identifies the patient",
                                              "report": "ids or free text, 48 different values"}
    assert set(summary["columns"]["numeric"]) == {"age"} and set(summary["columns"]["categorical"]) == {"sex"}
    assert summary["leakage"] is None and summary["command"] == ["audit.py", "--competition", "messy", "--quick"]
    # every readable picture that is not black counts alike
    pictures = [noise(n) for n in range(2, N) if n not in (3, 11)] + [noise(1, 96), noise(4)]
    assert summary["channels"]["mean"][0] == pytest.approx(np.mean([p.mean() for p in pictures]) / 255, abs=1e-4)


def test_an_incomplete_search_for_near_duplicates_is_reported(messy, undrawn, monkeypatch):
    """Pairs within the smallest distance are found all the same."""
    draw(messy / "train" / "i20.png", cv2.add(noise(21), 1))
    summary = run("messy", "--quick")
    assert summary["duplicates"]["near_pairs"] == 1 and summary["duplicates"]["hash_distance_searched"] == 84
    monkeypatch.setattr("data.duplicates.CHECKS", 0)
    monkeypatch.setattr("data.duplicates.FREE_CHECKS", 0)
    summary = run("messy", "--quick")
    finding = finding_with(summary, "up to a hash distance of 24 of 256 bits only")
    assert finding["severity"] == "note" and summary["duplicates"]["near_pairs"] == 1


def test_a_column_that_predicts_a_label_is_reported(messy, undrawn):
    summary = run("messy", "--quick")
    finding = finding_with(summary, "from file and table columns alone")
    assert "square AUC" in finding["examples"][0] and "best column sex" in finding["examples"][0]
    best = next(iter(summary["probes"]["metadata"][0]["families"]))
    assert best == "sex" and summary["probes"]["metadata"][0]["auc"] > 0.9


def test_shared_patients_are_a_finding_here_and_an_error_in_training(messy, undrawn):
    table = read_csv(messy / "test.csv")
    write_csv(messy / "test.csv", table.assign(patient=["p3", "p3", *(f"q{n}" for n in range(2, 12))]))
    summary = run("messy", "--quick")
    finding = finding_with(summary, "1 patient has images in train and in test")
    assert finding["severity"] == "error" and finding["examples"] == ["p3"]
    assert summary["parts"]["shared_with_train"]["test"]["shared_patients"] == 1
    assert summary["images"]["train"]["images"] == N
    with pytest.raises(ValueError, match=r"2 training images have a group that is in the test part too \(p3\)"):
        read_train(MESSY, messy)


def test_a_new_audit_replaces_the_whole_folder(messy, undrawn, home):
    run("messy", "--quick")
    stale = home / "runs" / "messy" / "audit" / "stale.png"
    stale.write_bytes(b"0" * 2000)
    run("messy", "--quick")
    assert not stale.exists()


def test_an_interrupted_audit_keeps_the_older_one(messy, undrawn, home, monkeypatch):
    run("messy", "--quick")
    before = (home / "runs" / "messy" / "audit" / "audit.json").read_bytes()
    monkeypatch.setattr(audit, "probe_train", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        audit.main(["--competition", "messy", "--quick"])
    assert (home / "runs" / "messy" / "audit" / "audit.json").read_bytes() == before
    assert [path.name for path in (home / "runs" / "messy").iterdir()] == ["audit"]


def test_leakage_is_reported_beside_the_score_without_it(messy, monkeypatch, capsys):
    """The features identify the patient and not the label, so random folds score higher."""
    def fake(name: str, images: np.ndarray, key: str) -> np.ndarray:
        rng = np.random.default_rng(0)
        patients = [number // 2 for number in range(N) if number not in (0, 3)]  # black, unreadable
        assert len(patients) == len(images)
        return rng.normal(size=(N, 16))[patients] + rng.normal(0, 0.01, (len(images), 16))

    monkeypatch.setattr(shortcut_checks, "frozen_features", fake)
    summary = run("messy")
    folds = summary["leakage"]["folds"]
    assert folds["random"] > folds["grouped"] + 0.2
    assert "Random folds would report" in capsys.readouterr().out
    assert {row["relation"] for row in folds["by_relation"]} == {"exact duplicate", "same patient"}
    assert summary["leakage"]["oversampling"][-1]["label"] == "mean"
    assert {"leakage_folds.png", "leakage_oversampling.png"} <= set(summary["plots"])


def test_oversampling_is_measured_for_the_rarer_side_of_a_binary_task(home, undrawn, monkeypatch, capsys):
    """Features are noise: the F1 of the rarer side, the absence, comes from repeated images only."""
    register(monkeypatch, replace(MESSY, name="two", task="binary", labels=("square",), test=None, group_column=None))
    small(home, "two", {"square": [str(int(n % 6 > 0)) for n in range(N)]}, count=N)
    monkeypatch.setattr(shortcut_checks, "frozen_features", lambda name, images, key: np.random.default_rng(0).normal(
        size=(len(images), 16)))
    rows = {row["label"]: row for row in run("two")["leakage"]["oversampling"]}
    assert list(rows) == ["square", "no square", "mean"] and rows["no square"]["repeats"] == 5
    assert rows["no square"]["f1_before"] > rows["no square"]["f1_after"] + 0.4
    screen = capsys.readouterr().out
    assert "Oversampling rare labels before the split would report" in screen
    assert f"{rows['no square']['f1_before']:.3f}" in screen and f"{rows['no square']['f1_after']:.3f}" in screen


def test_without_rare_labels_oversampling_is_not_reported(home, undrawn, monkeypatch):
    register(monkeypatch, replace(MESSY, name="even", task="binary", labels=("square",), test=None, group_column=None))
    small(home, "even", {"square": [str(n % 2) for n in range(N)]}, count=N)
    monkeypatch.setattr(shortcut_checks, "frozen_features", lambda name, images, key: np.random.default_rng(0).normal(
        size=(len(images), 16)))
    summary = run("even")
    assert summary["leakage"]["oversampling"] is None
    assert not any("Oversampling" in finding["what"] for finding in summary["findings"])


# ---- labels


def check_labels_of(name: str) -> tuple[dict, Report]:
    """The labels of audit.json, and the report, with plots in the home folder; no other check is run."""
    competition, data = descriptions.COMPETITIONS[name], home_folder() / "data" / name
    report = Report(competition, home_folder())
    check_labels(report, data, audit.load_parts(competition, data)[0])
    return json_ready(report.summary["labels"], 6), report


def test_identical_and_opposite_labels_are_one_finding_each(home, undrawn, monkeypatch):
    """14 identical labels would be 91 pairs, and as many findings."""
    first, second = (np.arange(120) % each == 0 for each in (2, 4))
    cells = {"a": first, "b": first, "c": first, "d": first, "e": ~first, "f": second}
    register(monkeypatch, replace(MESSY, name="same", labels=tuple(cells), test=None, group_column=None))
    small(home, "same", {label: cell.astype(int).astype(str) for label, cell in cells.items()}, count=120)
    labels, report = check_labels_of("same")
    nested, same, opposite = ([each for each in report.findings if words in each.what]
                              for words in ("also has the second", "nearly identical", "nearly opposite"))
    assert len(nested) == len(same) == len(opposite) == 1
    assert nested[0].what.startswith("In 10 pairs of labels") and len(nested[0].examples) == 5
    assert nested[0].examples[0] == "a → b" and len(labels["nested"]) == 10 and ["f", "a"] in labels["nested"]
    assert same[0].what.startswith("6 pairs") and same[0].examples[0] == "a, b: phi 1.00"
    assert opposite[0].what.startswith("4 pairs") and opposite[0].examples[0] == "a, e: phi -1.00"
    assert len(labels["alike"]) == 10


def test_labels_are_counted_for_each_training_file(home, monkeypatch):
    """Two files are read together as the training part; a third, optional one is missing."""
    parts = (Part(table="train_labels.csv", images="train/{image_id}.png"),
             Part(table="val_labels.csv", images="val/{image_id}.png"),
             Part(table="more.csv", images="more/{image_id}.png", optional=True))
    register(monkeypatch, replace(MESSY, name="apart", train=parts, test=None))
    data, table = home / "data" / "apart", table_of()
    table.loc[40:, "square"] = "1"
    for folder, rows in (("train", table[:36]), ("val", table[36:])):
        for image_id in rows["image_id"]:
            draw(data / folder / f"{image_id}.png", noise(int(image_id[1:])))
        write_csv(data / f"{folder}_labels.csv", rows[["image_id", "patient", "square", "other"]])
    labels, report = check_labels_of("apart")
    files = labels["train_files"]
    assert list(files) == ["train_labels", "val_labels"]
    assert "labels_by_file.png" in report.plots and (home / "labels_by_file.png").stat().st_size > 1000
    assert [(row["present"], row["absent"]) for row in (files["train_labels"][0], files["val_labels"][0])] == [
        (18, 18), (10, 2)]
    sums = [sum(files[name][k]["present"] for name in files) for k in range(2)]
    assert sums == [row["present"] for row in labels["cells"]["train"]]


def test_sampler_counts_leave_out_constant_images(messy, home):
    """The first image is constant and has the second label; the fourth is unreadable; see the fixture."""
    labels, report = check_labels_of("messy")
    shown = labels["samplers"]
    assert "label_samplers.png" in report.plots and (home / "label_samplers.png").stat().st_size > 1000
    assert list(shown) == ["natural", "square_root", "balanced", "label_repeats"] and labels["label_repeats"] == {
        "square": 1, "other": 2}
    assert shown["natural"][0]["images"] == N - 2
    assert (shown["natural"][1]["present"], labels["cells"]["train"][1]["present"]) == (15, 16)
    assert "train_files" not in labels  # there is one


def test_label_repeats_come_from_system_001_or_from_frequencies():
    def copies_of(labels: tuple, present: list, absent: int = 200) -> list:
        return suggest_label_repeats(pd.DataFrame({"label": labels, "present": present, "absent": absent})).tolist()

    copies = copies_of(descriptions.CHEXPERT_LABELS, [1] * 14)
    assert dict(zip(descriptions.CHEXPERT_LABELS, copies, strict=True)) == {
        "No Finding": 4, "Enlarged Cardiomediastinum": 1, "Cardiomegaly": 1, "Lung Opacity": 0, "Lung Lesion": 9,
        "Edema": 1, "Consolidation": 1, "Pneumonia": 1, "Atelectasis": 1, "Pneumothorax": 1, "Pleural Effusion": 0,
        "Pleural Other": 10, "Fracture": 8, "Support Devices": 0}
    assert copies_of(("a", "b", "c", "d"), [100, 60, 24, 0]) == [1, 2, 4, 10]
    assert copies_of(("a",), [50]) == [4] and copies_of(("a",), [800]) == [1]  # against the images without it


# ---- a given split


def test_a_split_that_shares_images_and_patients_is_an_error(messy, undrawn, tmp_path):
    split = pd.DataFrame({"file": [*(f"i{n:02d}.png" for n in range(20)), "i00.png", "i02.png", "stranger.png"],
                          "split": ["train"] * 17 + ["test"] * 6})
    summary = run("messy", "--quick", "--split", str(write_csv(tmp_path / "split.csv", split)))
    finding = finding_with(summary, "of the split overlap")
    # i00 and i02 are in both; p8's second image is in test
    assert finding["severity"] == "error" and "of 6 images in test, 2 are also in train" in finding["what"]
    assert "3 belong to a patient in train" in finding["what"]
    assert finding_with(summary, "1 row of 23 in the split")["severity"] == "warning"
    assert summary["split"]


def test_a_split_that_shares_nothing_is_a_note(messy, undrawn, tmp_path):
    split = pd.DataFrame({"file": ["i04", "i05", "i08", "i09"], "split": ["train", "train", "test", "test"]})
    summary = run("messy", "--quick", "--split", str(write_csv(tmp_path / "split.csv", split)))
    assert finding_with(summary, "of the split share no image")["severity"] == "note"


def test_a_missing_split_file_is_an_error(messy):
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        audit.main(["--competition", "messy", "--split", "nowhere.csv"])


# ---- competitions of every kind


def small(home, name: str, cells: dict, columns: tuple = ("image_id",), count: int = 8) -> Path:
    data, table = home / "data" / name, table_of(count)
    for number, image_id in enumerate(table["image_id"]):
        draw(data / "train" / f"{image_id}.png", noise(number))
    write_csv(data / "train.csv", table[list(columns)].assign(**cells))
    return data


def test_files_without_a_row_are_strays_without_an_ending_too(home, undrawn, monkeypatch):
    register(monkeypatch, replace(MESSY, name="uids", test=None, group_column=None, train=Part(
        table="train.csv", images="train/{image_id}")))
    data = small(home, "uids", {"square": "1", "other": "0"}, count=4)
    for number, path in enumerate(sorted((data / "train").iterdir())):
        path.rename(path.with_name(f"1.2.840.{number}"))
    rows = read_csv(data / "train.csv")
    write_csv(data / "train.csv", rows.assign(image_id=[f"1.2.840.{number}" for number in range(4)])[:3])
    assert finding_with(run("uids", "--quick"), "1 file in the image folders is in no table")["examples"] == [
        "train/1.2.840.3"]


def test_two_images_without_test_part_and_patients_are_audited(home, monkeypatch):
    register(monkeypatch, replace(MESSY, name="tiny", test=None, group_column=None))
    small(home, "tiny", {"square": ["1", "0"], "other": ["0", "0"]}, count=2)
    summary = run("tiny")
    assert finding_with(summary, "each image counts as its own patient")
    assert finding_with(summary, "Leakage was not measured")
    assert summary["images"]["train"]["patients"] is None and summary["leakage"] is None
    assert summary["probes"]["metadata"][0]["auc"] is None


def test_a_competition_of_unreadable_images_is_audited(home, monkeypatch):
    register(monkeypatch, replace(MESSY, name="broken", test=None, group_column=None))
    data = small(home, "broken", {"square": "1", "other": "0"})
    for path in (data / "train").iterdir():
        path.write_bytes(b"not a picture")
    summary = run("broken")
    assert finding_with(summary, "8 train images of 8 cannot be read")["severity"] == "error"
    assert summary["channels"] == {"mean": [None], "std": [None], "images": 0}


@pytest.mark.parametrize("task, labels, cells", [
    ("binary", ("square",), {"square": list("01010101")}),
    ("binary", ("square",), {"square": ["1"] * 8}),
    ("multiclass", ("a", "b", "c"), {"a": list("10010010"), "b": list("01001001"), "c": list("00100100")}),
    ("multilabel", ("a", "b"), {"a": ["-1"] * 8, "b": [""] * 8}),
])
def test_every_task_and_constant_labels_are_audited(home, monkeypatch, task, labels, cells):
    register(monkeypatch, replace(MESSY, name="kind", task=task, labels=labels, group_column="patient", test=Part(
        table="train.csv", images="train/{image_id}.png", labelled=False), shared_groups="distinct", channels=3))
    small(home, "kind", cells, columns=("image_id", "patient", "age"))
    summary = run("kind", "--quick")
    assert len(summary["labels"]["cells"]["train"]) == len(labels)
    assert len(summary["channels"]["mean"]) == 3
    assert finding_with(summary, "exactly the same pixels")["what"].startswith("8 test images")


def test_many_labels_with_long_names_and_dollars_are_drawn(home, monkeypatch):
    labels = tuple(f"a rather long name of a finding, with $ {k} $ in it" for k in range(14))
    register(monkeypatch, replace(MESSY, name="many", labels=labels, test=None, group_column="patient"))
    small(home, "many", {label: [str((n + k) % 3 // 2) for n in range(8)] for k, label in enumerate(labels)},
          columns=("image_id", "patient", "age", "sex"))
    summary = run("many", "--quick")
    assert len(summary["labels"]["phi"]) == 14
    assert {"age_by_sex.png", "age_decades.png"} <= set(summary["plots"])


def test_colour_channels_are_measured_from_the_pixels(home, undrawn, monkeypatch):
    register(monkeypatch, replace(MESSY, name="colour", test=None, group_column=None, channels=3))
    data = small(home, "colour", {"square": "1", "other": "0"})
    pictures = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    pictures[..., 0] //= 4
    for path, picture in zip(sorted((data / "train").iterdir()), pictures, strict=True):
        draw(path, picture)
    channels = run("colour", "--quick")["channels"]
    np.testing.assert_allclose(channels["mean"], pictures[..., ::-1].mean(axis=(0, 1, 2)) / 255, atol=1e-5)
    np.testing.assert_allclose(channels["std"], pictures[..., ::-1].std(axis=(0, 1, 2)) / 255, atol=1e-5)


def test_a_missing_image_file_is_an_error(messy):
    (messy / "train" / "i05.png").unlink()
    with pytest.raises(FileNotFoundError, match="i05"):
        audit.main(["--competition", "messy", "--quick"])


@pytest.mark.slow
@needs("nih1000")
def test_row_order_predicts_labels_of_the_nih_sample(home, undrawn):
    """Its table lists the images without a finding first."""
    summary = run("nih14", "--quick", "--data-dir", str(DATA / "nih1000"))
    assert finding_with(summary, "from the order of rows and the image ids alone")["severity"] in ("note", "warning")
    assert summary["duplicates"]["exact_sets"] == summary["duplicates"]["near_pairs"] == 0
    assert summary["parts"]["left_out"] == 77


def test_a_scan_has_the_fields_that_the_audit_reads():
    assert {"ids", "reason", "height", "width", "mode", "file_bytes", "mean", "std", "constant", "pixel_hash",
            "phash", "paths", "folder"} <= set(Scan.__dataclass_fields__)


@needs("nih1000")
def test_the_split_column_of_the_nih_sample_shares_patients(home, undrawn, monkeypatch):
    """15 patients of its train and valid, 8 of train and test, 9 of valid and test."""
    monkeypatch.setattr(audit, "probe_train", lambda report, *others: report.summary.update(probes={"left_out": {}}))
    monkeypatch.setattr(audit, "probe_part", lambda *arguments: None)
    summary = run("nih14", "--quick", "--data-dir", str(DATA / "nih1000"), "--split",
                  str(DATA / "nih1000" / "sample_labels.csv"))
    shared = {(row["part"], row["other"]): row["groups"] for row in summary["split"]}
    assert (shared["train", "valid"], shared["train", "test"], shared["valid", "test"]) == (15, 8, 9)


@pytest.mark.slow
@needs("chest_xray")
def test_a_published_split_with_test_images_in_train_is_an_error(home, undrawn):
    summary = run("pneumonia2", "--quick", "--data-dir", str(DATA / "chest_xray"), "--split",
                  str(DATA / "chest_xray" / "leaky_split.csv"))
    finding = finding_with(summary, "The parts test and train of the split overlap")
    assert finding["severity"] == "error" and "of 784 images in test, 784 are also in train" in finding["what"]
    assert finding_with(summary, "The parts val and train of the split overlap")["severity"] == "error"
