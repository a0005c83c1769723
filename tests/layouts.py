"""Well-known competitions in small: their very files, columns and ids, a few dozen images with a learnable signal.

Each `write_*(folder, ...)` fills a folder as the organisers hand it out and returns it. Where a label is 1 the image
has a brighter square at the label's place; images of one patient share a tone.
"""

import csv
import json
from pathlib import Path

import cv2
import numpy as np

CHEXPERT_LABELS = ("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
                   "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other",
                   "Fracture", "Support Devices")
NIH_LABELS = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
              "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia")
RANZCR_LABELS = ("ETT - Abnormal", "ETT - Borderline", "ETT - Normal", "NGT - Abnormal", "NGT - Borderline",
                 "NGT - Incompletely Imaged", "NGT - Normal", "CVC - Abnormal", "CVC - Borderline", "CVC - Normal",
                 "Swan Ganz Catheter Present")
ISIC_2019_LABELS = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
ICH_LABELS = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")
CASSAVA = {"0": "Cassava Bacterial Blight (CBB)", "1": "Cassava Brown Streak Disease (CBSD)",
           "2": "Cassava Green Mottle (CGM)", "3": "Cassava Mosaic Disease (CMD)", "4": "Healthy"}
VIN_CLASSES = ("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD",
               "Infiltration", "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening",
               "Pneumothorax", "Pulmonary fibrosis")
MEDMNIST = {"pathmnist": (3, 9), "chestmnist": (1, 14), "dermamnist": (3, 7), "octmnist": (1, 4),
            "pneumoniamnist": (1, 2), "retinamnist": (3, 5), "breastmnist": (1, 2), "bloodmnist": (3, 8),
            "tissuemnist": (1, 8), "organamnist": (1, 11), "organcmnist": (1, 11), "organsmnist": (1, 11)}


# ---- pictures and tables


def draw(rng: np.random.Generator, labels: np.ndarray, size: int = 48, colour: bool = False,
         tone: int = 0) -> np.ndarray:
    """uint8 (size, size) or (size, size, 3): noise, and a brighter square at place k where labels[k] is 1."""
    image = rng.normal(90 + tone, 20, (size, size, 3) if colour else (size, size))
    side = int(np.ceil(np.sqrt(max(len(labels), 1))))
    cell = size // side
    for k in np.flatnonzero(np.asarray(labels) == 1):
        top, left = k // side * cell, k % side * cell
        image[top:top + cell, left:left + cell] += (60, 45, 30) if colour else 50
    return np.clip(image, 0, 255).astype(np.uint8)


def tone_of(patient: int) -> int:
    """The tone that a patient's images share, -20 to 20."""
    return patient * 17 % 41 - 20


def save(path: Path, image: np.ndarray) -> None:
    """Writes an image in the kind that its name says, DICOM too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".dcm", ".dicom"):
        save_dicom(path, image)
    else:
        assert cv2.imwrite(str(path), image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1]))


def save_dicom(path: Path, image: np.ndarray) -> None:
    """Writes a grey image (H, W) as an uncompressed DICOM of 8 bits."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    file.Modality, file.PhotometricInterpretation = "CR", "MONOCHROME2"
    file.Rows, file.Columns = image.shape
    file.SamplesPerPixel, file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 1, 8, 8, 7, 0
    file.PixelData = image.tobytes()
    file.save_as(path, enforce_file_format=True)


def write_table(path: Path, header: tuple[str, ...] | None, rows: list[tuple], separator: str = ",") -> None:
    """Writes a text table; without a header where it is None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        writer.writerows(([header] if header else []) + rows)


def draw_labels(rng: np.random.Generator, count: int, number: int, share: float = 0.3) -> np.ndarray:
    """(count, number) of 0 and 1, every label present and absent at least once where count allows."""
    labels = (rng.random((count, number)) < share).astype(int)
    for k in range(number):
        labels[(2 * k) % count, k], labels[(2 * k + 1) % count, k] = 1, 0
    return labels


def draw_classes(rng: np.random.Generator, count: int, number: int) -> np.ndarray:
    """(count,) classes 0 to number - 1, each at least once where count allows."""
    return rng.permutation(np.concatenate([np.arange(number), rng.integers(0, number, count)])[:count])


def one_hot(classes: np.ndarray, number: int) -> np.ndarray:
    """(N, number) of 0 and 1."""
    return np.eye(number, dtype=int)[classes]


def hexes(rng: np.random.Generator, count: int, digits: int = 12) -> list[str]:
    """Different ids of hexadecimal digits, none of digits only."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choice(list("0123456789abcdef"), digits - 1)) + "c"] = None
    return list(found)


# ---- the sets that have a description in competition.py


def write_chexpert(folder: Path, small: bool = True, patients: int = 60, valid: int = 20, seed: int = 0) -> Path:
    """CheXpert: 14 labels of 1.0, 0.0, -1.0 and blanks, two studies of most patients, lateral views, valid.csv.

    `folder` is the one that holds CheXpert-v1.0(-small)/. Without `small` the image that the organisers lost stands in
    train.csv and not on disk.
    """
    rng, name = np.random.default_rng([seed, 1]), "CheXpert-v1.0-small" if small else "CheXpert-v1.0"
    header = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS)
    for part, first, count in (("train", 1, patients), ("valid", 64541, valid)):
        rows = []
        for patient in range(first, first + count):
            sex, age = rng.choice(["Female", "Male"]), rng.integers(18, 91)
            for study in range(1, 2 + (patient % 2 if part == "train" else 0)):
                labels = draw_labels(rng, 2, 14, 0.35)[patient % 2]
                cells = [f"{cell}.0" for cell in labels]
                if part == "train":
                    hedged, blank = rng.random(14) < 0.06, rng.random(14) < 0.3
                    cells = ["" if blank[k] and not labels[k] else "-1.0" if hedged[k] else cells[k] for k in range(14)]
                views = ["view1_frontal"] + ["view2_lateral"] * (patient % 3 == 0)
                for view in views:
                    below = f"{name}/{part}/patient{patient:05d}/study{study}/{view}.jpg"
                    save(folder / below, draw(rng, labels, 64, tone=tone_of(patient)))
                    frontal = view.endswith("frontal")
                    rows.append((below, sex, age, "Frontal" if frontal else "Lateral",
                                 rng.choice(["AP", "PA"]) if frontal else "", *cells))
        if part == "train" and not small:
            rows.append((f"{name}/train/patient40761/study1/view1_frontal.jpg", "Female", 50, "Frontal", "AP",
                         *["1.0"] * 14))
        write_table(folder / name / f"{part}.csv", header, rows)
    return folder


def write_nih14_full(folder: Path, patients: int = 48, seed: int = 0) -> Path:
    """NIH ChestX-ray14 as a whole: Data_Entry_2017.csv with its unquoted commas, twelve folders, two lists, boxes."""
    rng = np.random.default_rng([seed, 2])
    header = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender",
              "View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]", "")
    rows, lists = [], {"train_val": [], "test": []}
    for patient in range(1, patients + 1):
        images = 1 + patient % 4
        labels = draw_labels(rng, 28, 14, 0.15)[:images] if patient % 3 else np.zeros((images, 14), int)
        labels[:, patient % 14] = patient % 3 > 0
        for number in range(images):
            name = f"{patient:08d}_{number:03d}.png"
            found = "|".join(NIH_LABELS[k] for k in np.flatnonzero(labels[number])) or "No Finding"
            rows.append((name, found, number, patient, 20 + patient, "MF"[patient % 2], ("PA", "AP")[number % 2],
                         2682, 2749, 0.143, 0.143, ""))
            save(folder / f"images_{len(rows) % 12 + 1:03d}" / "images" / name,
                 draw(rng, labels[number], 64, tone=tone_of(patient)))
            lists["test" if patient % 5 == 0 else "train_val"].append(name)
    text = [",".join(header)] + [",".join(map(str, row)) for row in rows]
    (folder / "Data_Entry_2017.csv").write_text("\n".join(text) + "\n", encoding="utf-8")
    for part, names in lists.items():
        (folder / f"{part}_list.txt").write_text("\n".join(names), encoding="utf-8")
    (folder / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n" + f"{rows[0][0]},Atelectasis,225.08,547.01,86.77,79.18,,,\n",
        encoding="utf-8")
    return folder


def write_cxr_npt(folder: Path, training: int = 60, validation: int = 15, test: int = 18, seed: int = 0) -> Path:
    """dataset/{training,validation,test}/{n,p,t}/*.png: one class each, nobody says who is who."""
    rng = np.random.default_rng([seed, 3])
    number = 0
    for part, count in (("training", training), ("validation", validation), ("test", test)):
        for row in range(count):
            number += 1
            save(folder / "dataset" / part / "npt"[row % 3] / f"{number:05d}.png",
                 draw(rng, one_hot(np.array([row % 3]), 3)[0], 64))
    return folder


def write_scans3(folder: Path, train: int = 120, val: int = 30, test: int = 50, seed: int = 0) -> Path:
    """Three nested binary labels, ids that are file names from 10000.png, 40000.png and 70000.png, a quarter black.

    The PNGs have three identical channels. Black images have labels of both kinds.
    """
    rng = np.random.default_rng([seed, 4])
    header = ("id", "label1", "label2", "label3")
    for part, first, count in (("train", 10000, train), ("val", 40000, val), ("test", 70000, test)):
        rows = []
        for row in range(count):
            level = int(rng.integers(0, 4))
            labels = tuple(int(level > k) for k in range(3))
            image = draw(rng, np.array(labels), 64, tone=int(rng.integers(-15, 16)))
            if row % 4 == 3:
                image[:] = 0
            name = f"{first + row}.png"
            save(folder / f"{part}_images" / name, np.repeat(image[..., None], 3, axis=2))
            rows.append((name, *((0, 0, 0) if part == "test" else labels)))
        write_table(folder / ("sample_submission.csv" if part == "test" else f"{part}_labels.csv"), header, rows)
    return folder


def write_chest_xray(folder: Path, train: int = 64, val: int = 8, test: int = 24, seed: int = 0) -> Path:
    """Kaggle's pneumonia set: {train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg, person numbers in the names.

    Several images a person; numbers start anew in the test part. train, val, test: images in all.
    """
    rng = np.random.default_rng([seed, 5])
    for part, count in (("train", train), ("val", val), ("test", test)):
        offset = 1000 if part == "val" else 1  # the val part's persons are others than the training part's
        for row in range(count // 2):
            normal = f"IM-{115 + row // 2 + (offset if part == 'val' else 0):04d}-{row % 2 + 1:04d}.jpeg"
            normal = normal if row % 4 else f"NORMAL2-{normal}"
            kind = ("bacteria", "virus")[row // 2 % 2]
            ill = f"person{row // 2 + offset}_{kind}_{row + 1}.jpeg"
            # the place of the square says normal, bacteria or virus
            save(folder / part / "NORMAL" / normal, draw(rng, np.array([1, 0, 0]), 64, tone=tone_of(row // 2)))
            save(folder / part / "PNEUMONIA" / ill,
                 draw(rng, np.array([0, kind == "bacteria", kind == "virus"]), 64, tone=tone_of(row // 2)))
    return folder


def write_medmnist(folder: Path, name: str, train: int = 80, val: int = 20, test: int = 30, size: int = 28,
                   seed: int = 0) -> Path:
    """A MedMNIST npz: {train,val,test}_images (N, size, size[, 3]) uint8, _labels (N, 1) or (N, 14) uint8."""
    channels, classes = MEDMNIST[name]
    rng, arrays = np.random.default_rng([seed, 6]), {}
    for part, count in (("train", train), ("val", val), ("test", test)):
        if name == "chestmnist":
            labels = cells = draw_labels(rng, count, classes, 0.2)
        else:
            labels = draw_classes(rng, count, classes)[:, None]
            cells = one_hot(labels[:, 0], classes)
        arrays[f"{part}_images"] = np.stack([draw(rng, row, size, colour=channels == 3) for row in cells])
        arrays[f"{part}_labels"] = labels.astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / (f"{name}.npz" if size == 28 else f"{name}_{size}.npz"), **arrays)
    return folder


# ---- others


def write_ranzcr(folder: Path, seed: int = 0, count: int = 44) -> Path:
    """RANZCR CLiP: 11 label columns, PatientID, ids with dots in them, a table of annotations beside."""
    rng = np.random.default_rng([seed, 10])
    labels, uids = draw_labels(rng, count, 11, 0.2), _uids(rng, count + 12)
    rows, marks = [], []
    for row, uid in enumerate(uids[:count]):
        rows.append((uid, *labels[row], f"{row // 2:04x}c{row // 2:04d}"))
        marks += [(uid, RANZCR_LABELS[k], "[[1487, 1279], [1477, 1168]]") for k in np.flatnonzero(labels[row])]
        save(folder / "train" / f"{uid}.jpg", draw(rng, labels[row], tone=tone_of(row // 2)))
    for uid in uids[count:]:
        save(folder / "test" / f"{uid}.jpg", draw(rng, np.zeros(11)))
    write_table(folder / "train.csv", ("StudyInstanceUID", *RANZCR_LABELS, "PatientID"), rows)
    write_table(folder / "train_annotations.csv", ("StudyInstanceUID", "label", "data"), marks)
    write_table(folder / "sample_submission.csv", ("StudyInstanceUID", *RANZCR_LABELS),
                [(uid, *[0] * 11) for uid in uids[count:]])
    return folder


def _uids(rng: np.random.Generator, count: int) -> list[str]:
    return [f"1.2.826.0.1.3680043.8.498.{rng.integers(10**17, 10**18 - 1)}{row:05d}" for row in range(count)]


def write_siim_isic(folder: Path, seed: int = 0, patients: int = 20) -> Path:
    """SIIM-ISIC melanoma 2020: one target, patient_id, the diagnosis that gives it away, DICOM beside JPEG."""
    rng = np.random.default_rng([seed, 11])
    facts = ("image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge")
    site = ("torso", "lower extremity", "head/neck", "")
    rows, test = [], []
    for number in range(patients * 3):
        patient = f"IP_{7279968 + number // 3 + (1000 if number % 5 == 4 else 0)}"
        name, ill = f"ISIC_{2637011 + 7 * number:07d}", int(number % 6 == 0)
        fact = (name, patient, ("male", "female")[number // 3 % 2], f"{5 * (number // 3 % 12 + 6)}.0", site[number % 4])
        part = "test" if number % 5 == 4 else "train"
        if part == "test":
            test.append(fact)
        else:
            rows.append((*fact, "melanoma" if ill else ("nevus", "unknown")[number % 2],
                         ("benign", "malignant")[ill], ill))
        image = draw(rng, np.array([ill]), colour=True)
        save(folder / "jpeg" / part / f"{name}.jpg", image)
        save(folder / part / f"{name}.dcm", image[..., 0])
    write_table(folder / "train.csv", (*facts, "diagnosis", "benign_malignant", "target"), rows)
    write_table(folder / "test.csv", facts, test)
    write_table(folder / "sample_submission.csv", ("image_name", "target"), [(row[0], 0) for row in test])
    return folder


def write_aptos(folder: Path, seed: int = 0, count: int = 40) -> Path:
    """APTOS 2019: grades 0 to 4 in one column, ids without an ending, train_images/ and test_images/."""
    rng = np.random.default_rng([seed, 12])
    ids, grades = hexes(rng, count + 10), draw_classes(rng, count + 10, 5)
    for row, name in enumerate(ids):
        part = "train" if row < count else "test"
        save(folder / f"{part}_images" / f"{name}.png", draw(rng, one_hot(grades[row:row + 1], 5)[0], colour=True))
    write_table(folder / "train.csv", ("id_code", "diagnosis"), list(zip(ids, grades, strict=True))[:count])
    write_table(folder / "test.csv", ("id_code",), [(name,) for name in ids[count:]])
    write_table(folder / "sample_submission.csv", ("id_code", "diagnosis"), [(name, 0) for name in ids[count:]])
    return folder


def write_retinopathy(folder: Path, seed: int = 0, patients: int = 20) -> Path:
    """Diabetic Retinopathy 2015: 10_left and 10_right are two eyes of patient 10, and no column says so."""
    rng = np.random.default_rng([seed, 13])
    rows, test = [], []
    grades = draw_classes(rng, patients, 5)
    for number in range(patients + 6):
        part = "train" if number < patients else "test"
        for side in ("left", "right"):
            grade = grades[number % patients]
            name = f"{10 + 3 * number}_{side}"
            (rows if part == "train" else test).append((name, grade if part == "train" else 0))
            save(folder / part / f"{name}.jpeg", draw(rng, one_hot(np.array([grade]), 5)[0], colour=True))
    write_table(folder / "trainLabels.csv", ("image", "level"), rows)
    write_table(folder / "sampleSubmission.csv", ("image", "level"), test)
    return folder


def write_vinbigdata(folder: Path, seed: int = 0, count: int = 30) -> Path:
    """VinBigData: a row a finding and reader, boxes, 'No finding' as class 14, PredictionString to submit."""
    rng, rows = np.random.default_rng([seed, 14]), []
    ids, labels = hexes(rng, count + 8, 32), draw_labels(rng, count, 14, 0.1)
    for row, name in enumerate(ids):
        save(folder / ("train" if row < count else "test") / f"{name}.dicom",
             draw(rng, labels[row] if row < count else np.zeros(14)))
    for row in range(count):
        for reader in ("R9", "R10", "R8"):
            found = np.flatnonzero(labels[row])
            rows += [(ids[row], VIN_CLASSES[k], k, reader, 691.0 + k, 1375.0, 1653.0 + k, 1831.0) for k in found]
            if not len(found):
                rows.append((ids[row], "No finding", 14, reader, "", "", "", ""))
    write_table(folder / "train.csv",
                ("image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"), rows)
    write_table(folder / "sample_submission.csv", ("image_id", "PredictionString"),
                [(name, "14 1 0 0 1 1") for name in ids[count:]])
    return folder


def write_rsna_pneumonia(folder: Path, seed: int = 0, count: int = 30) -> Path:
    """RSNA pneumonia 2018: a row a box, Target beside, three classes in a second table, one image a patient."""
    rng, rows, classes = np.random.default_rng([seed, 15]), [], []
    ids = [f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:]}" for name in hexes(rng, count + 8, 32)]
    for row, name in enumerate(ids):
        part, ill = ("train" if row < count else "test"), row % 3 == 0
        save(folder / f"stage_2_{part}_images" / f"{name}.dcm", draw(rng, np.array([ill])))
        if part == "train":
            kind = "Lung Opacity" if ill else ("Normal", "No Lung Opacity / Not Normal")[row % 2]
            for box in range(2 if row % 6 == 0 else 1):
                rows.append((name, *((264.0 + box, 152.0, 213.0, 379.0) if ill else ("",) * 4), int(ill)))
                classes.append((name, kind))
    write_table(folder / "stage_2_train_labels.csv", ("patientId", "x", "y", "width", "height", "Target"), rows)
    write_table(folder / "stage_2_detailed_class_info.csv", ("patientId", "class"), classes)
    write_table(folder / "stage_2_sample_submission.csv", ("patientId", "PredictionString"),
                [(name, "0.5 0 0 100 100") for name in ids[count:]])
    return folder


def write_rsna_hemorrhage(folder: Path, seed: int = 0, count: int = 24) -> Path:
    """RSNA intracranial hemorrhage 2019: six rows an image, ID_xxx_epidural and so on."""
    rng = np.random.default_rng([seed, 16])
    ids, rows, sample = [f"ID_{name}" for name in hexes(rng, count + 6, 9)], [], []
    labels = draw_labels(rng, count, 6)
    labels[:, 5] = labels[:, :5].any(axis=1)
    for row, name in enumerate(ids):
        part = "train" if row < count else "test"
        save(folder / f"stage_2_{part}" / f"{name}.dcm", draw(rng, labels[row] if row < count else np.zeros(6)))
        if part == "train":
            rows += [(f"{name}_{label}", labels[row, k]) for k, label in enumerate(ICH_LABELS)]
        else:
            sample += [(f"{name}_{label}", 0.5) for label in ICH_LABELS]
    write_table(folder / "stage_2_train.csv", ("ID", "Label"), rows)
    write_table(folder / "stage_2_sample_submission.csv", ("ID", "Label"), sample)
    return folder


def write_ham10000(folder: Path, seed: int = 0, lesions: int = 28) -> Path:
    """HAM10000 as on Kaggle: dx in words, several images a lesion, two folders, tables of pixels beside."""
    rng, rows, kinds = np.random.default_rng([seed, 17]), [], ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    for lesion in range(lesions):
        for _ in range(1 + lesion % 2):
            name, kind = f"ISIC_{24306 + len(rows):07d}", lesion % 7
            rows.append((f"HAM_{lesion * 37:07d}", name, kinds[kind], ("histo", "follow_up")[lesion % 2],
                         "" if lesion == 5 else f"{5 * (lesion % 15)}.0", ("male", "female", "unknown")[lesion % 3],
                         ("back", "scalp", "face")[lesion % 3]))
            save(folder / f"HAM10000_images_part_{1 + lesion // (lesions // 2)}" / f"{name}.jpg",
                 draw(rng, one_hot(np.array([kind]), 7)[0], colour=True))
    write_table(folder / "HAM10000_metadata.csv",
                ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"), rows)
    write_table(folder / "hmnist_8_8_L.csv", (*(f"pixel{k:04d}" for k in range(64)), "label"),
                [(*rng.integers(0, 256, 64), kinds.index(row[2])) for row in rows])
    return folder


def write_isic_2019(folder: Path, seed: int = 0, count: int = 36) -> Path:
    """ISIC 2019: one-hot 1.0 and 0.0 (no image of UNK), metadata about the same ids with blank lesions, a test part."""
    rng = np.random.default_rng([seed, 18])
    classes = draw_classes(rng, count + 10, 8)
    names, facts, truth = [f"ISIC_{12 * row:07d}" for row in range(count + 10)], [], []
    for row, name in enumerate(names):
        part = "Training" if row < count else "Test"
        save(folder / f"ISIC_2019_{part}_Input" / f"{name}.jpg",
             draw(rng, one_hot(classes[row:row + 1], 9)[0], colour=True))
        lesion = "" if row % 9 == 4 else f"BCN_{row // 2:07d}"
        facts.append((name, f"{5 * (row % 15)}.0", ("anterior torso", "")[row % 2], lesion,
                      ("female", "male")[row % 2]))
        truth.append((name, *(f"{cell}.0" for cell in one_hot(classes[row:row + 1], 9)[0])))
    head = ("image", "age_approx", "anatom_site_general")
    write_table(folder / "ISIC_2019_Training_GroundTruth.csv", ("image", *ISIC_2019_LABELS), truth[:count])
    write_table(folder / "ISIC_2019_Training_Metadata.csv", (*head, "lesion_id", "sex"), facts[:count])
    write_table(folder / "ISIC_2019_Test_Metadata.csv", (*head, "sex"),
                [(*fact[:3], fact[4]) for fact in facts[count:]])
    return folder


def write_plant_2020(folder: Path, seed: int = 0, count: int = 32) -> Path:
    """Plant Pathology 2020: four one-hot columns, one folder for both parts, probabilities to submit."""
    rng, labels = np.random.default_rng([seed, 19]), ("healthy", "multiple_diseases", "rust", "scab")
    classes = draw_classes(rng, count + 10, 4)
    for row in range(count + 10):
        name = f"Train_{row}" if row < count else f"Test_{row - count}"
        save(folder / "images" / f"{name}.jpg", draw(rng, one_hot(classes[row:row + 1], 4)[0], colour=True))
    test = [f"Test_{row}" for row in range(10)]
    write_table(folder / "train.csv", ("image_id", *labels),
                [(f"Train_{row}", *one_hot(classes[row:row + 1], 4)[0]) for row in range(count)])
    write_table(folder / "test.csv", ("image_id",), [(name,) for name in test])
    write_table(folder / "sample_submission.csv", ("image_id", *labels), [(name, *[0.25] * 4) for name in test])
    return folder


def write_plant_2021(folder: Path, seed: int = 0, count: int = 36) -> Path:
    """Plant Pathology 2021: labels joined by blanks, ids with their ending, words to submit."""
    rng = np.random.default_rng([seed, 20])
    kinds = ("healthy", "scab", "frog_eye_leaf_spot", "complex", "rust", "powdery_mildew")
    texts = ("healthy", "scab", "scab frog_eye_leaf_spot", "scab frog_eye_leaf_spot complex", "rust", "rust complex",
             "powdery_mildew", "complex", "frog_eye_leaf_spot")
    names = [f"{name}.jpg" for name in hexes(rng, count + 3, 16)]
    for row, name in enumerate(names):
        found = np.isin(kinds, texts[row % 9].split())
        save(folder / ("train_images" if row < count else "test_images") / name, draw(rng, found, colour=True))
    write_table(folder / "train.csv", ("image", "labels"), [(names[row], texts[row % 9]) for row in range(count)])
    write_table(folder / "sample_submission.csv", ("image", "labels"), [(name, "healthy") for name in names[count:]])
    return folder


def write_protein_atlas(folder: Path, seed: int = 0, count: int = 40) -> Path:
    """Human Protein Atlas 2018: integers joined by blanks, four grey files an image, another column to submit."""
    rng, rows = np.random.default_rng([seed, 21]), []
    ids = [f"{name[:8]}-bbb{name[8]}-11e8-b2{name[9:11]}-ac1f6b{name[11:17]}" for name in hexes(rng, count + 8, 20)]
    labels = draw_labels(rng, count, 28, 0.05)
    labels[labels.sum(axis=1) == 0, 0] = 1
    for row, name in enumerate(ids):
        part = "train" if row < count else "test"
        for colour in ("red", "green", "blue", "yellow"):
            save(folder / part / f"{name}_{colour}.png", draw(rng, labels[row % count], 32))
        if part == "train":
            rows.append((name, " ".join(map(str, np.flatnonzero(labels[row])[::-1]))))
    write_table(folder / "train.csv", ("Id", "Target"), rows)
    write_table(folder / "sample_submission.csv", ("Id", "Predicted"), [(name, 0) for name in ids[count:]])
    return folder


def write_histopathologic(folder: Path, seed: int = 0, count: int = 36) -> Path:
    """Histopathologic cancer detection: id and label, TIFF patches in colour."""
    rng = np.random.default_rng([seed, 22])
    ids = hexes(rng, count + 10, 40)
    for row, name in enumerate(ids):
        save(folder / ("train" if row < count else "test") / f"{name}.tif",
             draw(rng, np.array([row % 3 == 0]), colour=True))
    write_table(folder / "train_labels.csv", ("id", "label"), [(ids[row], int(row % 3 == 0)) for row in range(count)])
    write_table(folder / "sample_submission.csv", ("id", "label"), [(name, 0) for name in ids[count:]])
    return folder


def write_cassava(folder: Path, seed: int = 0, count: int = 35) -> Path:
    """Cassava leaf disease: ids with their ending, integers, a JSON that says what they mean, one test image."""
    rng = np.random.default_rng([seed, 23])
    classes = draw_classes(rng, count, 5)
    names = [f"{1000015157 + 183 * row}.jpg" for row in range(count)]
    for row, name in enumerate(names):
        save(folder / "train_images" / name, draw(rng, one_hot(classes[row:row + 1], 5)[0], colour=True))
    save(folder / "test_images" / "2216849948.jpg", draw(rng, np.zeros(5), colour=True))
    (folder / "train_tfrecords").mkdir()
    (folder / "train_tfrecords" / "ld_train00-1338.tfrec").write_bytes(bytes(10))
    write_table(folder / "train.csv", ("image_id", "label"), list(zip(names, classes, strict=True)))
    write_table(folder / "sample_submission.csv", ("image_id", "label"), [("2216849948.jpg", 4)])
    (folder / "label_num_to_disease_map.json").write_text(json.dumps(CASSAVA), encoding="utf-8")
    return folder


def write_covidx(folder: Path, seed: int = 0, patients: int = 24) -> Path:
    """COVIDx: train.txt and test.txt without a header, "patient file class source", several images a patient."""
    rng = np.random.default_rng([seed, 24])
    for part, first, count in (("train", 1, patients), ("test", 1001, 8)):
        rows = []
        for patient in range(first, first + count):
            ill = patient % 2
            for number in range(1 + patient % 3 // 2):
                name = f"MIDRC-RICORD-1C-{patient:06d}-{number}.png" if ill else f"{patient:08d}-0{number}-ab.png"
                rows.append((patient, name, ("negative", "positive")[ill], ("rsna", "ricord")[ill]))
                save(folder / part / name, draw(rng, np.array([ill]), tone=tone_of(patient)))
        write_table(folder / f"{part}.txt", None, rows, separator=" ")
    return folder


def write_ubc_ocean(folder: Path, seed: int = 0, count: int = 30) -> Path:
    """UBC ovarian cancer 2023: five subtypes in words, slides and thumbnails of the same ids, a word to submit."""
    rng, kinds = np.random.default_rng([seed, 25]), ("CC", "EC", "HGSC", "LGSC", "MC")
    classes = draw_classes(rng, count, 5)
    ids = [int(number) for number in rng.choice(60000, count, replace=False) + 4]
    for row, name in enumerate(ids):
        image = draw(rng, one_hot(classes[row:row + 1], 5)[0], colour=True)
        save(folder / "train_images" / f"{name}.png", image)
        if row % 6:  # tissue micro-arrays have no thumbnail
            save(folder / "train_thumbnails" / f"{name}_thumbnail.png", image[::2, ::2])
    for kind in ("images/41.png", "thumbnails/41_thumbnail.png"):
        save(folder / f"test_{kind}", draw(rng, np.zeros(5), colour=True))
    write_table(folder / "train.csv", ("image_id", "label", "image_width", "image_height", "is_tma"),
                [(ids[row], kinds[classes[row]], 23785 + row, 20008 - row, str(row % 6 == 0)) for row in range(count)])
    write_table(folder / "test.csv", ("image_id", "image_width", "image_height"), [(41, 28469, 16987)])
    write_table(folder / "sample_submission.csv", ("image_id", "label"), [(41, "HGSC")])
    return folder


def write_rsna_breast(folder: Path, seed: int = 0, patients: int = 12) -> Path:
    """RSNA breast cancer 2022: train_images/{patient_id}/{image_id}.dcm, four views, predictions a breast."""
    rng, rows, test = np.random.default_rng([seed, 26]), [], []
    for patient in range(patients + 2):
        for number, (side, view) in enumerate((("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO"))):
            image_id, ill = 462822612 + 5 * patient + number * 1009, int(patient % 4 == 0 and side == "L")
            part = "train" if patient < patients else "test"
            fact = (2, 10006 + patient, image_id, side, view, f"{40 + patient}.0")
            save(folder / f"{part}_images" / str(10006 + patient) / f"{image_id}.dcm",
                 draw(rng, np.array([ill]), tone=tone_of(patient)))
            if part == "train":
                rows.append((*fact, ill, ill, 0, ("", "1.0")[patient % 2], 0, "C", 29, "False"))
            else:
                test.append((*fact, 0, 29, f"{10006 + patient}_{side}"))
    head = ("site_id", "patient_id", "image_id", "laterality", "view", "age")
    write_table(folder / "train.csv", (*head, "cancer", "biopsy", "invasive", "BIRADS", "implant", "density",
                                       "machine_id", "difficult_negative_case"), rows)
    write_table(folder / "test.csv", (*head, "implant", "machine_id", "prediction_id"), test)
    write_table(folder / "sample_submission.csv", ("prediction_id", "cancer"),
                [(name, 0.021) for name in dict.fromkeys(row[-1] for row in test)])
    return folder
