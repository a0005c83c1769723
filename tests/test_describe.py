"""Descriptions written out of folders: well-known competitions in small, each field decided, each doubt asked."""

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

import layouts
from competition import COMPETITIONS, Competition, Part
from data.decoding import decode_image
from data.tables import described_parts, label_cells, read_part, read_sample, read_train
from describe import constant, main, make_name, write_literal
from describing.groups import find_group_pattern
from describing.image_headers import read_headers
from describing.image_paths import find_id
from describing.inventory import IMAGE_ENDINGS, _find_unnamed_dicoms, read_inventory
from describing.label_columns import find_labels
from real_data import DATA, needs

PROBS, TEXT = {"submission": "probs"}, {"submission": "text"}

# layout, fields that are decided, what some question must say
WELL_KNOWN = {
    "ranzcr": ({
        "task": "multilabel", "labels": layouts.RANZCR_LABELS, "metric": "roc_auc", "id_column": "StudyInstanceUID",
        "train": Part(table="train.csv", images="train/{StudyInstanceUID}.jpg"),
        "test": Part(table="sample_submission.csv", images="test/{StudyInstanceUID}.jpg", labelled=False),
        "group_column": "PatientID", "sample_submission": "sample_submission.csv", "channels": 1, "laterality": True,
        **PROBS,
    }, ["Is `PatientID` the patient", "sample_submission.csv are 0", "train_annotations.csv .* is not used", "metric"]),
    "siim_isic": ({
        "task": "binary", "labels": ("target",), "metric": "roc_auc", "id_column": "image_name",
        "train": Part(table="train.csv", images="jpeg/train/{image_name}.jpg"),
        "test": Part(table="test.csv", images="jpeg/test/{image_name}.jpg", labelled=False),
        "group_column": "patient_id", "shared_groups": "error", "sample_submission": "sample_submission.csv",
        "channels": 3, "laterality": False, **PROBS,
    }, [r"also at train/\{image_name\}\.dcm", "`diagnosis` looks like a label as well", "Is `patient_id`"]),
    "aptos": ({
        "task": "multiclass", "labels": ("0", "1", "2", "3", "4"), "metric": "quadratic_kappa", "id_column": "id_code",
        "train": Part(table="train.csv", images="train_images/{id_code}.png"), "label_list_column": "diagnosis",
        "test": Part(table="test.csv", images="test_images/{id_code}.png", labelled=False),
        "sample_submission": "sample_submission.csv", "submission_column": None, "channels": 3, "laterality": False,
        **TEXT,
    }, ["classes in `diagnosis` are numbers", "identifies the patient", "quadratic_kappa is a guess"]),
    "retinopathy": ({
        "task": "multiclass", "labels": ("0", "1", "2", "3", "4"), "metric": "quadratic_kappa", "id_column": "image",
        "train": Part(table="trainLabels.csv", images="train/{image}.jpeg"), "label_list_column": "level",
        "test": Part(table="sampleSubmission.csv", images="test/{image}.jpeg", labelled=False),
        "group_pattern": r"/(\d+)_(?:left|right)\b", "sample_submission": "sampleSubmission.csv", "channels": 3, **TEXT,
    }, ["Is '10' in 'train/10_left.jpeg' the patient"]),
    "vinbigdata": ({
        "task": "multilabel", "labels": tuple(sorted(layouts.VIN_CLASSES)), "id_column": "image_id",
        "train": Part(table="train.csv", images="train/{image_id}.dicom", repeated_rows="any"),
        "test": Part(table="sample_submission.csv", images="test/{image_id}.dicom", labelled=False),
        "label_list_column": "class_name", "ignored_labels": ("No finding",), "sample_submission": None, "channels": 1,
    }, ["PredictionString.*boxes.*cannot express it", "`rad_id` names 3 readers", "`No finding` in `class_name`"]),
    "rsna_pneumonia": ({
        "task": "binary", "labels": ("Target",), "id_column": "patientId", "channels": 1,
        "train": Part(table="stage_2_train_labels.csv", images="stage_2_train_images/{patientId}.dcm",
                      repeated_rows="any"),
        "test": Part(table="stage_2_sample_submission.csv", images="stage_2_test_images/{patientId}.dcm",
                     labelled=False),
        "group_column": None, "sample_submission": None,
    }, ["PredictionString.*cannot express it", "detailed_class_info.csv .* is not used", "has up to 2 rows per image",
        "`patientId` is different for every image"]),
    "ham10000": ({
        "task": "multiclass", "labels": ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"), "id_column": "image_id",
        "train": Part(table="HAM10000_metadata.csv", images="HAM10000_images_part_*/{image_id}.jpg"), "test": None,
        "label_list_column": "dx", "group_column": "lesion_id", "sample_submission": None, "channels": 3,
        "laterality": False,
    }, ["Is `lesion_id` the patient", "no sample submission"]),
    "isic_2019": ({
        "task": "multiclass", "labels": layouts.ISIC_2019_LABELS, "id_column": "image", "channels": 3,
        "train": Part(table=("ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv"),
                      images="ISIC_2019_Training_Input/{image}.jpg"),
        "test": Part(table="ISIC_2019_Test_Metadata.csv", images="ISIC_2019_Test_Input/{image}.jpg", labelled=False),
        "group_column": None, "laterality": False,
    }, ["No training image has `UNK`", "`lesion_id` looks like the group but is blank for 4 of 36"]),
    "plant_2020": ({
        "task": "multiclass", "labels": ("healthy", "multiple_diseases", "rust", "scab"), "id_column": "image_id",
        "train": Part(table="train.csv", images="images/{image_id}.jpg"), "metric": "roc_auc", "channels": 3,
        "test": Part(table="test.csv", images="images/{image_id}.jpg", labelled=False),
        "sample_submission": "sample_submission.csv", "group_pattern": None, "laterality": False, **PROBS,
    }, ["which metric"]),
    "plant_2021": ({
        "task": "multilabel", "label_list_column": "labels", "label_separator": " ", "id_column": "image",
        "metric": "f1_macro", "labels": ("complex", "frog_eye_leaf_spot", "healthy", "powdery_mildew", "rust", "scab"),
        "train": Part(table="train.csv", images="train_images/{image}"),
        "test": Part(table="sample_submission.csv", images="test_images/{image}", labelled=False),
        "sample_submission": "sample_submission.csv", "submission_column": None, "channels": 3, **TEXT,
    }, ["`healthy` never occurs with another label"]),
    "protein_atlas": ({
        "task": "multilabel", "labels": tuple(map(str, range(28))), "id_column": "Id", "label_list_column": "Target",
        "label_separator": " ", "train": Part(table="train.csv", images="train/{Id}_green.png"),
        "test": Part(table="sample_submission.csv", images="test/{Id}_green.png", labelled=False),
        "sample_submission": "sample_submission.csv", "submission_column": "Predicted", "channels": 1, **TEXT,
    }, ["Every id has 4 files", "The labels are numbers"]),
    "histopathologic": ({
        "task": "binary", "labels": ("label",), "id_column": "id", "channels": 3, "laterality": False,
        "train": Part(table="train_labels.csv", images="train/{id}.tif"),
        "test": Part(table="sample_submission.csv", images="test/{id}.tif", labelled=False),
        "sample_submission": "sample_submission.csv", **PROBS,
    }, ["hold probabilities", "identifies the patient"]),
    "cassava": ({
        "task": "multiclass", "labels": tuple(layouts.CASSAVA.values()), "label_map": tuple(layouts.CASSAVA.items()),
        "train": Part(table="train.csv", images="train_images/{image_id}"), "label_list_column": "label",
        "test": Part(table="sample_submission.csv", images="test_images/{image_id}", labelled=False),
        "sample_submission": "sample_submission.csv", "metric": "accuracy", "channels": 3, **TEXT,
    }, ["metric"]),
    "covidx": ({
        "task": "binary", "labels": ("positive",), "label_map": (("negative", ""), ("positive", "positive")),
        "train": Part(table="train.txt", header=("patient", "file", "class", "column4"), separator=" ",
                      images="train/{file}"),
        "test": Part(table="test.txt", header=("patient", "file", "class", "column4"), separator=" ",
                     images="test/{file}"),
        "id_column": "file", "label_list_column": "class", "group_column": "patient", "channels": 1, "laterality": True,
    }, ["has no header", "Is 'positive' the finding", "test.txt has labels"]),
    "nih14_full": ({
        "task": "multilabel", "labels": tuple(sorted(layouts.NIH_LABELS)), "id_column": "Image Index",
        "train": Part(table="Data_Entry_2017.csv", images="images_*/images/{Image Index}",
                      id_list="train_val_list.txt"),
        "test": Part(table="Data_Entry_2017.csv", images="images_*/images/{Image Index}", id_list="test_list.txt"),
        "label_list_column": "Finding Labels", "ignored_labels": ("No Finding",), "group_column": "Patient ID",
        "shared_groups": "error", "channels": 1, "laterality": True,
    }, ["`No Finding` never", "`View Position` holds AP", "BBox_List_2017.csv"]),
    "chexpert": ({
        "task": "multilabel", "labels": layouts.CHEXPERT_LABELS, "id_column": "Path", "channels": 1,
        "train": Part(table="CheXpert-v1.0-small/train.csv", images="{Path}"), "test": None,
        "official_validation": Part(table="CheXpert-v1.0-small/valid.csv", images="{Path}"),
        "group_pattern": r"(patient\d+)", "laterality": True,
    }, ["label cells are -1", "label cells are blank", "`Frontal/Lateral` holds Frontal", "labelled more carefully"]),
    "chest_xray": ({
        "task": "binary", "labels": ("PNEUMONIA",), "label_pattern": "/(PNEUMONIA|NORMAL)/", "channels": 1,
        "train": (Part(images="train/*/*.jpeg"), Part(images="val/*/*.jpeg")), "test": Part(images="test/*/*.jpeg"),
        "label_map": (("NORMAL", ""), ("PNEUMONIA", "PNEUMONIA")), "group_pattern": r"(person\d+|IM-\d+)",
        "shared_groups": "distinct", "laterality": True,
    }, [r"file names of PNEUMONIA contain (bacteria|virus) \(18\)", "val/ is added to the training part",
        "does the numbering restart"]),
    "cxr_npt": ({
        "task": "multiclass", "labels": ("n", "p", "t"), "label_pattern": "/(n|p|t)/", "channels": 1,
        "train": (Part(images="dataset/training/*/*.png"), Part(images="dataset/validation/*/*.png")),
        "test": Part(images="dataset/test/*/*.png"), "group_pattern": None,
    }, ["identifies the patient"]),
    "scans3": ({
        "task": "multilabel", "labels": ("label1", "label2", "label3"), "id_column": "id", "channels": 1,
        "train": (Part(table="train_labels.csv", images="train_images/{id}"),
                  Part(table="val_labels.csv", images="val_images/{id}")),
        "test": Part(table="sample_submission.csv", images="test_images/{id}", labelled=False),
        "sample_submission": "sample_submission.csv", **PROBS,
    }, ["hard labels", "val_labels.csv is added to", "Do left and right differ"]),
    "ubc_ocean": ({
        "task": "multiclass", "labels": ("CC", "EC", "HGSC", "LGSC", "MC"), "label_list_column": "label", "channels": 3,
        "train": Part(table="train.csv", images="train_images/{image_id}.png"),
        "test": Part(table="test.csv", images="test_images/{image_id}.png", labelled=False),
        "sample_submission": "sample_submission.csv", "laterality": False, **TEXT,
    }, ["metric"]),
    "rsna_breast": ({
        "task": "binary", "labels": ("cancer",), "id_column": "image_id", "group_column": "patient_id", "channels": 1,
        "train": Part(table="train.csv", images="train_images/{patient_id}/{image_id}.dcm"),
        "test": Part(table="test.csv", images="test_images/{patient_id}/{image_id}.dcm", labelled=False),
        "sample_submission": None, "laterality": True,
    }, ["has the ids `prediction_id`, not `image_id`", "`view` holds CC"]),
}


def pasted(competition: Competition) -> Competition:
    """What Python makes of the literal."""
    name, _, text = write_literal(competition).partition(" = ")
    assert name.isidentifier() and name == constant(competition)
    return eval(text, {"Competition": Competition, "Part": Part})


def written(folder: Path, **files: str) -> Path:
    """Tables by their stem, and small black images by `images`."""
    for name, text in files.items():
        if name == "images":
            for image in text.split():
                layouts.save(folder / image, np.zeros((4, 4), np.uint8))
        else:
            (folder / f"{name}.csv").write_text(text)
    return folder


def asked(questions: list[str], pattern: str) -> bool:
    return any(re.search(pattern, question, re.IGNORECASE | re.DOTALL) for question in questions)


# ---- well-known competitions


@pytest.mark.parametrize("name", WELL_KNOWN)
def test_a_well_known_competition_is_described_and_can_be_read(name, home, tmp_path, capsys):
    folder = getattr(layouts, f"write_{name}")(tmp_path / name)
    competition, questions = main([str(folder)])
    fields, expected = WELL_KNOWN[name]
    assert {field: getattr(competition, field) for field in fields} == fields
    missing = [pattern for pattern in expected if not asked(questions, pattern)]
    assert not missing, questions
    assert not asked(questions, "cannot be read")
    assert pasted(competition) == competition and competition.name == name
    table, _ = read_train(competition, folder)
    assert len(table) > 0 and np.nansum(label_cells(competition, table) == 1) > 0
    assert all(len(read_part(competition, folder, part)) for part in described_parts(competition))
    assert (read_sample(competition, folder) is None) == (competition.sample_submission is None)
    assert write_literal(competition) in capsys.readouterr().out


@pytest.mark.parametrize("name", ["chexpert_small", "nih14_full", "scans3", "cxr_npt", "pneumonia2"])
def test_description_reads_what_the_ready_made_one_reads(name, home, tmp_path):
    layout = {"chexpert_small": "chexpert", "pneumonia2": "chest_xray"}.get(name, name)
    folder = getattr(layouts, f"write_{layout}")(tmp_path / layout)
    ours = main([str(folder)])[0]
    if name == "chexpert_small":  # the answer to a question that is asked
        frontal = (("Frontal/Lateral", ("Frontal",)),)
        ours = replace(ours, train=replace(ours.train, row_filter=frontal),
                       official_validation=replace(ours.official_validation, row_filter=frontal))
    ready = COMPETITIONS[name]
    for part in described_parts(ready):
        mine, theirs = read_part(ours, folder, part), read_part(ready, folder, part)
        assert mine[["image_id", "path", "group"]].equals(theirs[["image_id", "path", "group"]])
        if getattr(ready, part) and name not in ("cxr_npt", "pneumonia2") and set(ready.labels) <= set(theirs):
            assert mine[list(ready.labels)].equals(theirs[list(ready.labels)])


@pytest.mark.parametrize("name", list(layouts.MEDMNIST))
def test_medmnist_arrays_match_the_ready_made_description(name, home, tmp_path):
    competition, questions = main([str(layouts.write_medmnist(tmp_path / "data", name))])
    ready = COMPETITIONS[name]
    for field in ("task", "labels", "channels", "laterality"):
        assert getattr(competition, field) == getattr(ready, field)
    assert pasted(competition) == competition and asked(questions, "npz file does not identify patients")
    assert len(read_train(competition, tmp_path / "data")[0]) == 100


def test_arrays_of_an_unknown_set_are_described_by_their_numbers(home, tmp_path):
    layouts.write_medmnist(tmp_path, "octmnist")
    (tmp_path / "octmnist.npz").rename(tmp_path / "mine.npz")
    competition, questions = main([str(tmp_path)])
    assert (competition.task, competition.labels, competition.channels) == ("multiclass", ("0", "1", "2", "3"), 1)
    assert asked(questions, "labels are numbers. What do they mean")


def test_suggested_code_widens_a_long_table(tmp_path, home):
    folder = layouts.write_rsna_hemorrhage(tmp_path / "ich")
    competition, questions = main([str(folder)])
    assert competition.labels == layouts.ICH_LABELS and competition.task == "multilabel"
    code = next(question for question in questions if "import pandas" in question).partition("with:\n")[2]
    exec(code, {})
    table, _ = read_train(competition, folder)
    assert len(table) == 24 and len(read_part(competition, folder, "test")) == 6
    raw = pd.read_csv(folder / "stage_2_train.csv").set_index("ID")["Label"]
    for label in layouts.ICH_LABELS:
        assert (table[label].to_numpy() == raw[[f"{name}_{label}" for name in table["image_id"]]].to_numpy()).all()
    assert list(read_sample(competition, folder)) == ["ID", *layouts.ICH_LABELS]
    assert asked(questions, "melt") and asked(questions, "`any` is 1")


# ---- what happens with other columns and cells


LABELS = "image_id,a,b\n" + "".join(f"{k},{k % 2},{k // 2 % 2}\n" for k in range(8))
IMAGES = " ".join(f"train/{k}.png" for k in range(8))


def test_lost_images_are_left_out_and_asked_about(home, tmp_path):
    folder = layouts.write_chexpert(tmp_path, small=False)
    competition, questions = main([str(folder)])
    assert competition.train.exclude_ids == ("CheXpert-v1.0/train/patient40761/study1/view1_frontal.jpg",)
    assert asked(questions, "1 ids of .*train.csv have no image")


def test_too_deep_folder_raises_with_the_folder_above(home, tmp_path):
    layouts.write_chexpert(tmp_path)
    with pytest.raises(ValueError, match=f"too deep; describe the folder above it: {re.escape(str(tmp_path))}$"):
        main([str(tmp_path / "CheXpert-v1.0-small")])


@pytest.mark.parametrize("text", ["uncertain", "2"])
def test_codes_that_cannot_be_read_are_asked_about(home, tmp_path, text):
    sample = "image_id,a,b\n0,0.5,0.5\n"
    written(tmp_path, train=LABELS.replace("3,1,1", f"3,1,{text}"), sample_submission=sample, images=IMAGES)
    _, questions = main([str(tmp_path)])
    assert asked(questions, f"`b` holds '{text}' besides 0 and 1") and asked(questions, "train part cannot be read")


def test_yes_no_column_is_asked_about(home, tmp_path):
    rows = "".join(f"{k},{k % 2},{k // 2 % 2},{'yes' if k % 3 else 'No'},{'left' if k % 3 else 'right'}\n"
                   for k in range(8))
    competition, questions = main([str(written(tmp_path, train="image_id,a,b,c,d\n" + rows, images=IMAGES))])
    assert competition.labels == ("a", "b") and asked(questions, "`c` holds No and yes. Is it a label too?")
    assert not asked(questions, "`d` holds")


def test_sample_decides_between_labels_and_probabilities(home, tmp_path):
    written(tmp_path, train=LABELS, images=f"{IMAGES} test/x.png test/y.png")
    for cells, kind in (("x,0.5,0.5\ny,0.5,0.5\n", "probs"), ("x,1,0\ny,0,0\n", "labels")):
        written(tmp_path, sample_submission="image_id,a,b\n" + cells)
        assert main([str(tmp_path)])[0].submission == kind


def test_patient_column_with_blanks_is_only_asked_about(home, tmp_path):
    rows = "".join(f"{k},{'' if k == 5 else f'p{k // 2}'},{k % 2},{k // 2 % 2}\n" for k in range(8))
    competition, questions = main([str(written(tmp_path, train="image_id,patient,a,b\n" + rows, images=IMAGES))])
    assert competition.group_column is None
    assert asked(questions, "`patient` looks like the group but is blank for 1 of 8")
    assert not asked(questions, "cannot be read")


def test_repeating_column_is_asked_about(home, tmp_path):
    rows = "".join(f"{k},z{k // 2},{k % 2},{k // 2 % 2}\n" for k in range(20))
    images = " ".join(f"train/{k}.png" for k in range(20))
    competition, questions = main([str(written(tmp_path, train="image_id,code,a,b\n" + rows, images=images))])
    assert competition.group_column is None and asked(questions, "`code` repeat as patient ids do: 10 values for 20")


def test_shared_patients_are_dropped_and_asked_about(home, tmp_path):
    rows = "".join(f"{k},p{k // 2},{k % 2},{k // 2 % 2}\n" for k in range(8))
    written(tmp_path, train="image_id,patient,a,b\n" + rows, test="image_id,patient\nx,p0\ny,p9\nz,p8\n",
            images=f"{IMAGES} test/x.png test/y.png test/z.png")
    competition, questions = main([str(tmp_path)])
    assert competition.shared_groups == "drop" and asked(questions, "1 groups are in train and test, for example 'p0'")
    assert len(read_train(competition, tmp_path)[0]) == 6


def test_patients_in_names_are_compared_between_parts(home, tmp_path):
    rows = [(f"patient{k // 2:03d}_{k}.png", "test" if k >= 14 else "train") for k in range(20)]
    written(tmp_path, train="image,split,a,b\n" + "".join(f"{name},{part},{k % 2},{k // 2 % 2}\n"
                                                          for k, (name, part) in enumerate(rows)),
            images=" ".join(f"all/{name}" for name, _ in rows))
    competition, _ = main([str(tmp_path)])
    assert (competition.group_pattern, competition.shared_groups) == (r"(patient\d+)", "error")
    assert len(read_train(competition, tmp_path)[0]) == 14 and len(read_part(competition, tmp_path, "test")) == 6


def test_a_measurement_is_asked_about(home, tmp_path):
    rows = "".join(f"{k},{k // 2 + 1}\n" for k in range(90))
    images = " ".join(f"train/{k}.png" for k in range(90))
    _, questions = main([str(written(tmp_path, train="image_id,label\n" + rows, images=images))])
    assert asked(questions, "Is it a measurement")


def test_rows_without_a_class_are_left_out_and_asked_about(home, tmp_path):
    rows = "".join(f"{k},{('x', 'y', 'z', '')[k % 4]}\n" for k in range(8))
    competition, questions = main([str(written(tmp_path, train="image_id,label\n" + rows, images=IMAGES))])
    assert competition.labels == ("x", "y", "z") and asked(questions, "2 rows have no `label`")
    assert len(read_train(competition, tmp_path)[0]) == 6


def test_rows_of_unequal_length_are_asked_about(home, tmp_path):
    _, questions = main([str(written(tmp_path, train=LABELS + "8,1\n", images=IMAGES))])
    assert asked(questions, "train.csv: 1 rows are longer or shorter") and asked(questions, "train part cannot be read")


def test_a_truncated_image_is_asked_about(home, tmp_path):
    written(tmp_path, train=LABELS, images=IMAGES)
    (tmp_path / "train" / "3.png").write_bytes((tmp_path / "train" / "3.png").read_bytes()[:20])
    assert asked(main([str(tmp_path)])[1],
                 r"1 of the 8 images opened cannot be read: train/3\.png: cut short.*exclude_ids=\('3',\).*"
                 r"audit\.py")


def test_images_with_several_endings_are_found(home, tmp_path):
    images = IMAGES.replace("1.png", "1.jpg").replace("2.png", "2.jpeg")
    competition, _ = main([str(written(tmp_path, train=LABELS, images=images))])
    assert competition.train.images == "train/{image_id}.*" and len(read_train(competition, tmp_path)[0]) == 8


def test_repeated_ids_stay_in_their_parts_folders(home, tmp_path):
    written(tmp_path, train=LABELS, sample_submission="image_id,a,b\n0,0,1\n1,1,0\n",
            images=f"{IMAGES} test/0.png test/1.png")
    competition, questions = main([str(tmp_path)])
    assert competition.train.images == "train/{image_id}.png" and competition.test.images == "test/{image_id}.png"
    assert asked(questions, "2 ids of sample_submission.csv are also training ids")


def test_images_that_no_row_is_about_are_asked_about(home, tmp_path):
    written(tmp_path, train=LABELS, images=f"{IMAGES} train/extra.png")
    assert asked(main([str(tmp_path)])[1], "1 of the 9 images in train are in no row of train.csv")


def test_masks_beside_class_folders_are_left_alone(home, tmp_path):
    images = " ".join(f"{kind}/{what}/{kind}-{k}.png" for kind in ("COVID", "Normal", "Pneumonia") for k in range(4)
                      for what in ("images", "masks"))
    competition, _ = main([str(written(tmp_path, images=images))])
    assert competition.labels == ("COVID", "Normal", "Pneumonia")
    assert competition.train == Part(images="*/images/*.png") and len(read_train(competition, tmp_path)[0]) == 12


def test_a_set_that_was_packed_twice_is_described_once(home, tmp_path):
    images = " ".join(f"{twice}{part}/{kind}/{part}{k}.png" for twice in ("", "chest/") for part in ("train", "test")
                      for kind in ("ILL", "NORMAL") for k in range(4))
    competition, _ = main([str(written(tmp_path, images=images))])
    assert competition.train == Part(images="train/*/*.png") and len(read_train(competition, tmp_path)[0]) == 8


def test_folder_column_is_part_of_the_path(home, tmp_path):
    rows = "".join(f"{k},{'xyz'[k % 3]}\n" for k in range(9))
    images = " ".join(f"pictures/{'xyz'[k % 3]}/{k}.png" for k in range(9))
    competition, _ = main([str(written(tmp_path, train="image_id,label\n" + rows, images=images))])
    assert competition.train.images == "pictures/{label}/{image_id}.png"
    assert len(read_train(competition, tmp_path)[0]) == 9


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_are_described(home, tmp_path, separator):
    competition, _ = main([str(written(tmp_path, train=LABELS.replace(",", separator), images=IMAGES))])
    assert competition.train.separator == separator and len(read_train(competition, tmp_path)[0]) == 8


def test_link_cycles_and_binary_files_are_ignored(home, tmp_path):
    written(tmp_path, train=LABELS, images=IMAGES)
    (tmp_path / "train" / "loop").symlink_to(tmp_path)
    (tmp_path / "odd.csv").write_bytes(b"\xff\xfe\x00,\x81\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    competition, questions = main([str(tmp_path)])
    assert competition.train.images == "train/{image_id}.png"
    assert all(asked(questions, text) for text in (r"odd\.csv cannot be read", r"empty\.csv is empty", r"broken\.npz"))


def test_missing_images_are_asked_about(home, tmp_path):
    rows = "".join(f"{k:05d},{k % 2},{k // 2 % 2}\n" for k in range(3000))
    images = " ".join(f"train/{k:05d}.png" for k in range(2001, 2031))
    competition, questions = main([str(written(tmp_path, train="image_id,a,b\n" + rows, images=images))])
    assert competition.train.images == "train/{image_id}.png" and competition.train.exclude_ids == ()
    assert asked(questions, "2970 ids of train.csv have no image.*Is the download complete")


def test_class_folders_with_a_flat_test_part_are_described(home, tmp_path):
    images = " ".join(f"train/{kind}/{kind[0]}{k}.png" for kind in ("Black-grass", "Charlock", "Sugar beet")
                      for k in range(4))
    for cells, fields in (("file,species\nx.png,Charlock\ny.png,Charlock\n",
                           {"submission": "text", "submission_column": "species"}),
                          ("file,Black-grass,Charlock,Sugar beet\nx.png,0.1,0.1,0.8\ny.png,0.1,0.1,0.8\n", PROBS)):
        layouts.save(tmp_path / "test" / "x.png", np.zeros((4, 4), np.uint8))
        layouts.save(tmp_path / "test" / "y.png", np.zeros((4, 4), np.uint8))
        for image in re.findall(r"train/.*?png", images):
            layouts.save(tmp_path / image, np.zeros((4, 4), np.uint8))
        competition, questions = main([str(written(tmp_path, sample_submission=cells))])
        assert {field: getattr(competition, field) for field in fields} == fields
        assert competition.labels == ("Black-grass", "Charlock", "Sugar beet")
        assert not asked(questions, "cannot be read")
        assert competition.test == Part(table="sample_submission.csv", images="test/{file}", labelled=False)
        assert len(read_sample(competition, tmp_path)) == len(read_part(competition, tmp_path, "test")) == 2
        assert len(read_train(competition, tmp_path)[0]) == 12


def test_another_name_of_the_label_in_the_sample_is_described(home, tmp_path):
    written(tmp_path, train="id,target\n" + "".join(f"{k},{k % 2}\n" for k in range(8)),
            sample_submission="id,probability\nx,0.5\ny,0.5\n", images=f"{IMAGES} test/x.png test/y.png")
    competition, questions = main([str(tmp_path)])
    assert (competition.label_columns, competition.submission) == (("probability",), "probs")
    assert asked(questions, "has a column `probability` where the labels have `target`")
    assert not asked(questions, "cannot be read")
    assert read_train(competition, tmp_path)[0]["target"].tolist() == [0, 1] * 4


def test_a_column_a_class_in_the_sample_is_described(home, tmp_path):
    written(tmp_path, train="id,label\n" + "".join(f"{k},{'xyz'[k % 3]}\n" for k in range(8)),
            sample_submission="id,x,y,z\nu,0.3,0.3,0.4\n", images=f"{IMAGES} test/u.png")
    competition, questions = main([str(tmp_path)])
    assert (competition.labels, competition.submission) == (("x", "y", "z"), "probs")
    assert read_sample(competition, tmp_path).shape == (1, 4) and not asked(questions, "cannot be read")


def test_paths_that_lack_their_first_folders_are_completed(home, tmp_path):
    rows = "".join(f"a/{k}.png,{k % 2},{k // 2 % 2}\n" for k in range(8))
    images = " ".join(f"data/set/a/{k}.png" for k in range(8))
    competition, _ = main([str(written(tmp_path, train="path,a,b\n" + rows, images=images))])
    assert competition.train.images == "data/set/{path}" and len(read_train(competition, tmp_path)[0]) == 8


def test_labels_per_folder_raise_with_what_to_do(home, tmp_path):
    images = " ".join(f"train/{k:05d}/FLAIR/Image-{j}.png" for k in range(4) for j in range(2))
    written(tmp_path, train="BraTS21ID,MGMT_value\n" + "".join(f"{k:05d},{k % 2}\n" for k in range(4)), images=images)
    with pytest.raises(ValueError, match="`BraTS21ID` in train.csv names folders of images"):
        main([str(tmp_path)])


def test_two_rows_are_described(home, tmp_path):
    competition, _ = main([str(written(tmp_path, train="image_id,a,b\n1,0,1\n2,1,1\n", images="1.png 2.png"))])
    assert competition.train == Part(table="train.csv", images="{image_id}.png") and competition.labels == ("a", "b")


@pytest.mark.parametrize("prepare, error, said", [
    (lambda folder: folder.joinpath("nothing"), FileNotFoundError, "there is no folder"),
    (lambda folder: folder, ValueError, "holds no image and no npz file"),
    (lambda folder: written(folder, images="a/1.png a/2.png"), ValueError, "there are no labels in"),
    (lambda folder: written(folder, train="no,a\n77,1\n78,0\n79,1\n", images="1.png 2.png"), ValueError,
     r"there are no labels in.*train\.csv \('no', 'a'\)"),
])
def test_folder_without_labels_raises_with_its_contents(home, tmp_path, prepare, error, said):
    with pytest.raises(error, match=said):
        main([str(prepare(tmp_path))])


# ---- pieces


def test_labels_are_separated_from_other_columns():
    rows = pd.DataFrame({"id": list("abcdef"), "sex": list("mfmfmf"), "Lung Lesion": list("010101"),
                         "Edema": ["0.0", "1.0", "", "-1.0", "1.0", "0.0"], "age": list("345678")})
    assert find_labels(rows, "id").columns == ("Lung Lesion", "Edema")
    assert find_labels(rows[["id", "sex", "age"]], "id") is None


@pytest.mark.parametrize("texts, kind, separator", [
    (["A|B", "A", "B"], "joined", "|"), (["1 2", "2", "1 3"], "joined", " "), (["a,b", "a", "b"], "joined", ","),
    (["Aortic enlargement", "Lung mass", "Aortic enlargement", "Lung mass"], "single", "|"),
])
def test_names_of_several_words_are_no_joined_labels(texts, kind, separator):
    found = find_labels(pd.DataFrame({"id": range(len(texts)), "label": texts}).astype(str), "id")
    assert (found.kind, found.separator) == (kind, separator)


@pytest.mark.parametrize("paths, pattern", [
    ([f"x/patient{k:05d}/study{s}/v.jpg" for k in range(9) for s in (1, 2)], r"(patient\d+)"),
    ([f"a/{k:08d}_{s:03d}.png" for k in range(9) for s in range(3)], r"/([^/]*\d[^/]*?)[_-]\d{1,4}\.\w+$"),
    ([f"images/Train_{k}.jpg" for k in range(30)], None),
    ([f"images/ISIC_{k:07d}.jpg" for k in range(30)], None),
])
def test_group_pattern_needs_shared_patients(paths, pattern):
    assert find_group_pattern(pd.Series(paths)) == pattern


def test_grey_images_in_three_channels_are_grey(tmp_path):
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(0, 256, (40, 40, 1), dtype=np.uint8), 3, axis=2)
    coloured = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for name, image in (("grey.png", grey), ("grey.jpg", grey), ("coloured.png", coloured),
                        ("plain.png", grey[..., 0])):
        assert cv2.imwrite(str(tmp_path / name), image)
    assert not read_headers([tmp_path / name for name in ("grey.png", "grey.jpg", "plain.png")]).coloured
    look = read_headers([tmp_path / "plain.png", tmp_path / "coloured.png"])
    assert look.coloured and look.sizes == ((40, 40), (40, 40)) and look.modes == {"L": 1, "RGB": 1}


def test_very_large_images_are_not_decoded(tmp_path, monkeypatch):
    for ending in ("png", "tif"):
        write_image(tmp_path / f"a.{ending}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12)
    monkeypatch.setattr("describing.image_headers.decode_image", None)
    look = read_headers([tmp_path / "a.png", tmp_path / "a.tif"])
    assert look.modes == {"very large": 2} and list(look.failed) == [tmp_path / "a.tif"] and look.coloured is None


@pytest.mark.parametrize("text, name", [("RANZCR CLiP (2021)", "ranzcr_clip_2021"), ("2020", "set_2020"), ("é", "set")])
def test_a_name_is_one_of_python(text, name):
    assert make_name(text) == name and name.isidentifier()


@pytest.mark.parametrize("texts", [("it's", 'say "x"'), ("a\\b", "tab\there"), ("línea", "new\nline"),
                                   ("x" * 200, "y")])
def test_a_literal_gives_back_any_text(texts):
    competition = Competition(
        name="odd", about=f"{texts[0]} " * 30, task="multilabel", labels=texts, metric="roc_auc",
        train=(Part(table=("a b.csv", "c.csv"), images="{x}/y", row_filter=((texts[0], texts),), exclude_ids=texts * 9),
               Part(table="d.csv", images="{id}")),
        group_pattern=r"\\(\d+)|\"", id_column=texts[1], label_list_column="j", label_map=((texts[0], texts[0]),
                                                                                        (texts[1], texts[1])))
    assert pasted(competition) == competition


def test_literal_uses_a_free_name(home, tmp_path):
    competition, questions = main([str(layouts.write_medmnist(tmp_path / "medmnist", "octmnist"))])
    assert constant(competition) == "MEDMNIST_SET" and pasted(competition) == competition
    assert asked(main([str(tmp_path / "medmnist"), "--name", "demo"])[1], "A competition 'demo' exists already")


def test_the_questions_and_the_literal_are_written_to_a_file(home, tmp_path):
    folder = layouts.write_aptos(tmp_path / "aptos")
    competition, questions = main([str(folder), "--name", "Blind Ness", "--out", str(tmp_path / "found.py")])
    text = (tmp_path / "found.py").read_text()
    assert competition.name == "blind_ness"
    values = {"Competition": Competition, "Part": Part}
    exec(text, values)
    assert values["BLIND_NESS"] == competition and all(f"# {question}" in text for question in questions)


def test_the_folder_must_be_given(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "DATA_DIR is missing" in capsys.readouterr().err


def test_nothing_is_written_without_being_asked_for(home, tmp_path):
    folder = layouts.write_aptos(tmp_path / "aptos")
    before = sorted(tmp_path.rglob("*"))
    main([str(folder)])
    assert sorted(tmp_path.rglob("*")) == before


def test_folder_is_listed_once(home, tmp_path, monkeypatch):
    monkeypatch.setattr("describing.inventory.ROWS_AT_MOST", 5)
    survey = read_inventory(written(tmp_path, train=LABELS, images=IMAGES))
    assert len(survey.tables[0].rows) == 5 and not survey.tables[0].whole
    assert asked(main([str(tmp_path)])[1], "Only the first 5 rows of train.csv")


# ---- images of every kind and name


def write_image(path: Path) -> None:
    """A small image in the kind that its ending says; DICOM without one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (12, 12), dtype=np.uint8)
    if path.suffix.lower() in Image.registered_extensions():
        Image.fromarray(pixels).save(path)
    else:
        layouts.save_dicom(path, pixels)


def labelled(folder: Path, ids: list[str], paths: list[str], header: str = "id,label") -> Path:
    """A folder of images of which every second has label 1."""
    for path in paths:
        write_image(folder / path)
    rows = "".join(f"{name},{k % 2}\n" for k, name in enumerate(ids))
    return written(folder, train=f"{header}\n{rows}")


@pytest.mark.parametrize("ending", sorted(IMAGE_ENDINGS))
def test_every_known_ending_is_described_and_decoded(home, tmp_path, ending):
    folder = labelled(tmp_path, list("abcdefgh"), [f"train/{name}.{ending}" for name in "abcdefgh"])
    competition, questions = main([str(folder)])
    assert competition.train.images == f"train/{{id}}.{ending}" and not asked(questions, "cannot be read")
    assert all(decode_image(path, 1).shape == (12, 12) for path in read_train(competition, folder)[0]["path"])


@pytest.mark.parametrize("name, pattern", [("IM-{:04d}", "train/{id}"), ("1.2.840.113.{}", "train/{id}"),
                                           ("{:08d}", "train/{id}"), ("scan{}.IMA", "train/{id}.IMA")])
def test_dicom_is_recognised_by_its_preamble(home, tmp_path, name, pattern):
    names = [name.format(k) for k in range(30)]
    folder = labelled(tmp_path, [text.removesuffix(".IMA") for text in names], [f"train/{text}" for text in names])
    (folder / "train" / "LICENSE").write_text("none of the images")
    layouts.save_dicom(folder / "train" / "DICOMDIR", np.zeros((4, 4), np.uint8))
    competition, questions = main([str(folder)])
    table = read_train(competition, folder)[0]
    assert competition.train.images == pattern and not asked(questions, "cannot be read|are in no row")
    assert len(table) == 30 and decode_image(table["path"].iloc[7], 1).shape == (12, 12)


def test_dicom_without_ending_is_found_in_subfolders(home, tmp_path):
    rows = [(f"{k // 4}f9a", f"1.2.{k // 2}", f"1.2.840.{k}", int(k > 11)) for k in range(24)]
    for patient, study, image, _ in rows:
        write_image(tmp_path / "train" / patient / study / image)
    for k in range(24, 30):
        write_image(tmp_path / "test" / f"{k}c" / f"1.3.{k}" / f"1.2.840.{k}")
    written(tmp_path, train="PatientID,Study,SOPInstanceUID,label\n" + "".join(
        f"{','.join(map(str, row))}\n" for row in rows), sample_submission="SOPInstanceUID,label\n" + "".join(
        f"1.2.840.{k},0.5\n" for k in range(24, 30)))
    competition, questions = main([str(tmp_path)])
    assert competition.group_column == "PatientID" and not asked(questions, "cannot be read")
    table = read_train(competition, tmp_path)[0]
    assert (len(table), table["group"].nunique(), len(read_part(competition, tmp_path, "test"))) == (24, 6, 6)
    assert decode_image(table["path"].iloc[5], 3).shape == (12, 12, 3)


@pytest.mark.parametrize("patients", [[f"p{k:03d}" for k in range(10)],
                                      [f"{letter}{7 * k}" for k, letter in enumerate("abcdefghij")]])
def test_patient_folders_in_class_folders_are_groups(home, tmp_path, patients):
    for k, patient in enumerate(patients):
        for number in range(3):
            write_image(tmp_path / "train" / ("ILL", "NORMAL")[k % 2] / patient / f"IM-{number:04d}")
    competition, questions = main([str(tmp_path)])
    table = read_train(competition, tmp_path)[0]
    assert competition.labels == ("ILL",) and competition.train.images == "train/*/*/*"
    assert (len(table), table["group"].nunique(), table["ILL"].sum()) == (30, 10, 15)
    assert asked(questions, f"Is '{patients[0]}' in 'train/ILL/{patients[0]}/IM-0000' the patient")


def test_class_folders_with_repeated_names_are_no_patients(home, tmp_path):
    competition, questions = main([str(written(tmp_path, images=" ".join(
        f"{name}/{k}.png" for name in ("nv", "mel", "bcc", "df") for k in range(4))))])
    assert competition.labels == ("bcc", "df", "mel", "nv") and competition.group_pattern is None
    assert asked(questions, "No pattern in the file names identifies the patient")


def test_files_without_an_ending_between_others_are_read(home, tmp_path):
    for k in range(12):
        write_image(tmp_path / "train" / "AB"[k % 2] / f"IM{k}{'.dcm' if k % 3 else ''}")
    for k in range(20, 24):
        (tmp_path / "train" / "A" / f"notes{k}").write_text("no image, though it has no ending either")
    competition, _ = main([str(tmp_path)])
    assert competition.train == Part(images="train/*/*", exclude_ids=tuple(f"train/A/notes{k}" for k in range(20, 24)))
    assert len(read_train(competition, tmp_path)[0]) == 12


def test_class_folders_below_organ_folders_are_asked_about(home, tmp_path):
    names = ("colon/colon_aca", "colon/colon_n", "lung/lung_aca", "lung/lung_n", "lung/lung_scc")
    competition, questions = main([str(written(tmp_path, images=" ".join(
        f"{name}/{name[-3:]}{k}.png" for name in names for k in range(4))))])
    assert competition.labels == tuple(name.partition("/")[2] for name in names)
    assert asked(questions, "The folders colon, lung hold the folders .*are the upper folders the classes")


def test_few_of_many_files_without_ending_are_opened(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("describing.inventory.is_dicom_file",
                        lambda path: bool(opened.append(path)) or path.name.startswith("IM"))
    many = {f"train/{k:05d}": [f"IM-{j}" for j in range(3)] + ["notes"] for k in range(3000)}
    found = _find_unnamed_dicoms(tmp_path, many, notes := [])
    assert len(found) == 9000 and len(opened) <= 40 and notes == []
    opened.clear()
    flat = {"a": [f"IM-{k}" for k in range(5000)], "b": [f"x{k}" for k in range(5000)],
            "c": [f"IM-{k}" if k % 3 else f"x{k}" for k in range(900)]}
    found = _find_unnamed_dicoms(tmp_path, flat, notes)
    assert len(found) == 5900 and len(opened) == 60
    assert len(notes) == 1 and re.search(r"Of 20 files like c/x\d+ \d+ are DICOM.*all 900 are taken for images",
                                         notes[0])


def test_other_files_among_images_are_excluded(home, tmp_path):
    for k in range(12):
        write_image(tmp_path / "train" / "AB"[k % 2] / f"{k}.{('jpg', 'JPG', 'png')[k % 3]}")
    for name in ("A/Thumbs.db", "B/.DS_Store"):
        (tmp_path / "train" / name).write_text("no image")
    competition, _ = main([str(tmp_path)])
    assert competition.train == Part(images="train/*/*.*", exclude_ids=("train/A/Thumbs.db", "train/B/.DS_Store"))
    assert len(read_train(competition, tmp_path)[0]) == 12
    for k in range(25):
        (tmp_path / "train" / "A" / f"{k}.xml").touch()
    competition, questions = main([str(tmp_path)])
    assert competition.train.exclude_ids == () and asked(questions, "27 files that are no images match")


def test_a_test_folder_of_several_endings_is_found_whole(home, tmp_path):
    folder = labelled(tmp_path, list("abcdefgh"), [f"train/{name}.png" for name in "abcdefgh"])
    for k in range(9):
        write_image(folder / "test" / f"{k}.{('jpg', 'JPG', 'png')[k % 3]}")
    assert len(read_part(main([str(folder)])[0], folder, "test")) == 9


@pytest.mark.parametrize("name", ["IM-0003", "IM-0003.dcm"])
def test_dicom_without_pixels_is_asked_about(home, tmp_path, name):
    tail = name.removeprefix("IM-0003")
    ids = [f"IM-{k:04d}" for k in range(12)]
    folder = labelled(tmp_path, ids, [f"train/{text}{tail}" for text in ids])
    files = Path(pydicom.__file__).parent / "data" / "test_files"
    for source in ("rtplan.dcm", "reportsi.dcm"):
        (folder / "train" / name).write_bytes((files / source).read_bytes())
        competition, questions = main([str(folder)])
        assert asked(questions, rf"1 of the 12 images opened .*train/{name}: a DICOM file without pixels.*"
                             r"exclude_ids=\('IM-0003',\)")
    mended = replace(competition, train=replace(competition.train, exclude_ids=("IM-0003",)))
    assert len(read_train(mended, folder)[0]) == 11


def test_truncated_image_is_asked_about_with_its_id(home, tmp_path):
    for k in range(8):
        write_image(tmp_path / "train" / "AB"[k % 2] / f"{k}.jpg")
    path = tmp_path / "train" / "A" / "4.jpg"
    path.write_bytes(path.read_bytes()[:-40])  # the header is whole
    competition, questions = main([str(tmp_path)])
    assert asked(questions, r"1 of the 8 .*train/A/4\.jpg: .*exclude_ids=\('train/A/4\.jpg',\)")
    mended = replace(competition, train=replace(competition.train, exclude_ids=("train/A/4.jpg",)))
    assert len(read_train(mended, tmp_path)[0]) == 7


@pytest.mark.parametrize("images, column, path, found", [
    ("train/{p}/{id}.dcm", "id", "train/a/b.dcm", "b"), ("{id}/{id}.png", "id", "x/x.png", "x"),
    ("{id}/{id}.png", "id", "x/y.png", None), ("a*/{id}.*", "id", "a1/x.y.png", "x.y"), ("{Path}", "id", "a/b", None)])
def test_the_id_is_found_in_a_path(images, column, path, found):
    assert find_id(images, column, path) == found


# ---- ids, tables and meanings that nearly fit


@pytest.mark.parametrize("written_as, called", [("{}.jpg", "{}.png"), ("{}", "{:05d}.png"), ("{}.0", "{}.png"),
                                                ("img{}.png", "Img{}.PNG"), ("1.2.{}.dcm", "1.2.{}")])
def test_ids_that_almost_match_file_names_raise(home, tmp_path, written_as, called):
    ids, names = [written_as.format(k) for k in range(8)], [called.format(k) for k in range(8)]
    with pytest.raises(ValueError, match=f"`id` in train.csv holds '{re.escape(ids[0])}' where the file is called "
                                         f"'{re.escape(names[0])}': write names as the files have them"):
        main([str(labelled(tmp_path, ids, [f"train/{name}" for name in names]))])


@pytest.mark.parametrize("name, called", [("{}.png", "{}.png"), ("{}", "{}")])
def test_mixed_ids_with_and_without_ending_are_asked_about(home, tmp_path, name, called):
    ids = [(name if k % 2 else "{}").format(f"x{k}") for k in range(8)]
    files = [(called if k % 2 else "{}.png").format(f"train/x{k}") for k in range(8)]
    competition, questions = main([str(labelled(tmp_path, ids, files))])
    assert competition.train.images == "train/{id}.*"
    assert asked(questions, f"`id` in train.csv holds the whole file name of some images, '{re.escape(ids[1])}', and")


def test_ids_without_leading_zeros_are_asked_about(home, tmp_path):
    numbers = range(9990, 10030)
    folder = labelled(tmp_path, list(map(str, numbers)), [f"train/{number:05d}.png" for number in numbers])
    assert asked(main([str(folder)])[1], "`id` in train.csv holds '9990', which is no file name, but there is a file "
                                         "'09990.png'")


def test_ids_repeated_in_every_patient_folder_raise(home, tmp_path):
    pairs = [(f"p{k // 3}", f"IM-{k % 3}") for k in range(18)]
    folder = labelled(tmp_path, [",".join(pair) for pair in pairs], [f"train/{p}/{image}" for p, image in pairs],
                      "patient,image,label")
    with pytest.raises(ValueError, match="ids in `image` of train.csv repeat in every folder that `patient` names"):
        main([str(folder)])
    competition, questions = main([str(labelled(tmp_path, ["/".join(pair) for pair in pairs], [], "path,label"))])
    table = read_train(competition, folder)[0]
    assert (competition.train.images, len(table), table["group"].nunique()) == ("train/{path}", 18, 6)
    assert asked(questions, "Is 'p0' in 'train/p0/IM-0' the patient")


@pytest.mark.parametrize("content, said", [
    (b"", "train.csv is empty"), (b"id,label\n", r"train.csv \('id', 'label', no row\)"),
    ("id,label\na,\u00d6dem\n".encode("latin-1"), "train.csv cannot be read as a table: it is not UTF-8"),
    ("id,label\na,1\n".encode("utf-16"), "train.csv cannot be read as a table: it is not UTF-8")])
def test_unreadable_table_is_named_in_the_error(home, tmp_path, content, said):
    folder = labelled(tmp_path, [], [f"train/{name}.png" for name in "abcd"])
    (folder / "train.csv").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        main([str(folder)])


def test_semicolons_and_byte_order_mark_are_read(home, tmp_path):
    folder = labelled(tmp_path, list("abcdefgh"), [f"train/{name}.png" for name in "abcdefgh"])
    text = (folder / "train.csv").read_text().replace(",", ";")
    (folder / "train.csv").write_text(text, encoding="utf-8-sig")
    competition, _ = main([str(folder)])
    assert (competition.id_column, competition.train.separator) == ("id", ";")
    assert len(read_train(competition, folder)[0]) == 8


@pytest.mark.parametrize("text", ['{"0": "mild", "1": "severe", "2": "none"}', '{"mild": 0, "severe": 1, "none": 2}'])
def test_a_file_of_meanings_names_the_classes_either_way_round(home, tmp_path, text):
    rows = "".join(f"{k},{k % 3}\n" for k in range(8))
    (tmp_path / "classes.json").write_text(text)
    competition, _ = main([str(written(tmp_path, train="id,label\n" + rows, images=IMAGES))])
    assert competition.label_map == (("0", "mild"), ("1", "severe"), ("2", "none"))


def test_settings_beside_the_labels_are_no_meaning_of_theirs(home, tmp_path):
    rows = "".join(f"{k},{k % 3}\n" for k in range(8))
    folder = written(tmp_path, train="id,label\n" + rows, images=IMAGES)
    (folder / "info.json").write_text('{"seed": 1, "version": 2, "folds": 0}')
    (folder / "classes.json").write_text('{"0": 1, "1": 0, "2": 2}')
    competition, questions = main([str(folder)])
    assert competition.labels == ("0", "1", "2") and asked(questions, "classes in `label` are numbers")


def test_png_is_preferred_to_dicom_of_the_same_name(home, tmp_path):
    names = [f"x{k}" for k in range(6)]
    folder = labelled(tmp_path, names, [f"train/{name}.png" for name in names])
    (folder / "raw").mkdir()
    for name in names:
        layouts.save_dicom(folder / "raw" / name, np.zeros((8, 8), np.uint8))
    competition, questions = main([str(folder)])
    assert competition.train.images == "train/{id}.png" and asked(questions, r"raw/\{id\}")


def test_hidden_files_in_class_folders_are_excluded(home, tmp_path):
    folder = written(tmp_path, images=" ".join(f"train/{'AB'[k % 2]}/{k}.png" for k in range(8)))
    (folder / "train" / "A" / "._0.png").write_bytes(b"a Mac's notes")
    competition, _ = main([str(folder)])
    assert competition.train.exclude_ids == ("train/A/._0.png",) and len(read_train(competition, folder)[0]) == 8


@pytest.mark.parametrize("text", ["5", "null", '["a", "b"]', '{"a": 0, "b": 0, "c": 1, "d": 2}', '{"a": [0]}', "{"])
def test_other_json_files_mean_nothing(home, tmp_path, text):
    rows = "".join(f"{k},{k % 3}\n" for k in range(8))
    (tmp_path / "classes.json").write_text(text)
    competition, questions = main([str(written(tmp_path, train="id,label\n" + rows, images=IMAGES))])
    assert competition.labels == ("0", "1", "2") and asked(questions, "classes in `label` are numbers")


def test_folder_name_with_pattern_characters_is_reported(home, tmp_path):
    said = r"The 2 images in train \{x\}/ are ignored.*: rename the folder"
    folder = labelled(tmp_path / "one", ["a", "b"], ["train {x}/a.png", "train {x}/b.png"])
    with pytest.raises(ValueError, match=f"holds no image .*{said}$"):
        main([str(folder)])
    competition, questions = main([str(labelled(folder, ["a", "b"], ["train/a.png", "train/b.png"]))])
    assert competition.train.images == "train/{id}.png" and asked(questions, said)
    images = " ".join(f"train[1]/{'AB'[k % 2]}/{k}.png" for k in range(8))
    assert asked(main([str(written(tmp_path / "two", images=images))])[1], r"train\[1\]/\* has \[ in its name")


def test_next_commands_are_audit_and_make_folds(home, tmp_path, capsys):
    folder = labelled(tmp_path / "my set", list("abcd"), [f"train/{name}.png" for name in "abcd"])
    main([str(folder)])
    said = capsys.readouterr().out
    first, second = (f"python src/{script}.py --competition my_set --data-dir '{folder}'"
                     for script in ("audit", "make_folds"))
    assert 0 < said.find(first) < said.find(second)


# ---- real folders


@needs("nih1000", "chest_xray")
def test_the_real_folders_are_described(home):
    competition, questions = main([str(DATA / "nih1000")])
    ready = COMPETITIONS["nih14"]
    for field in ("task", "labels", "metric", "train", "test", "id_column", "label_list_column", "group_column",
                  "shared_groups", "channels"):
        assert getattr(competition, field) == getattr(ready, field)
    assert asked(questions, "`View Position` holds AP")
    competition, questions = main([str(DATA / "chest_xray")])
    assert len(read_train(competition, DATA / "chest_xray")[0]) == 5216 and competition.shared_groups == "distinct"
    assert asked(questions, "leaky_split.csv") and asked(questions, r"bacteria \(2530\) or virus \(1345\)")
