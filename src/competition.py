"""Competitions: their files, columns, labels, task, metric and submission, as data. Add yours to COMPETITIONS."""

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from scoring.metrics import check_metric


def check_choices(description: object) -> None:
    """Raises ValueError where a field of a dataclass holds none of the values that its Literal allows."""
    for name, kind in get_type_hints(type(description)).items():
        value = getattr(description, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(kind)))}, not {value!r}"
                             f"{did_you_mean([value], get_args(kind))}")


def did_you_mean(names: Collection[object], known: Collection[object]) -> str:
    """"; did you mean 'mass'?" for the first name that resembles a known one, else ""."""
    for name in names:
        if near := difflib.get_close_matches(str(name), [text for text in known if isinstance(text, str)], n=1):
            return f"; did you mean {near[0]!r}?"
    return ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the data: a table that names images, a folder of images without a table, or arrays in an npz file.

    `images` is a path below the data folder: with a table, a path with the table's columns, "train/{id}.png"; without,
    a glob, "train/*/*.png"; with `arrays`, the npz file. A * matches anything but a slash.
    """

    # images of the part, as above
    images: str
    # label file below the data folder; several files with the same ids are joined
    table: str | tuple[str, ...] | None = None
    # names of the columns, where the file has no header
    header: tuple[str, ...] = ()
    # between the cells; " " matches any number of blanks
    separator: str = ","
    # rows kept: ((column, (text, ...)), ...), texts as they are in the CSV
    row_filter: tuple[tuple[str, tuple[str, ...]], ...] = ()
    # text file of ids, one per line: only these rows are kept
    id_list: str | None = None
    # ids of images that are lost or wrong: their rows are left out
    exclude_ids: tuple[str, ...] = ()
    # an image with several rows is an "error", or has every label that "any" of its rows has
    repeated_rows: Literal["error", "any"] = "error"
    # "train": the npz file's train_images (N, H, W[, 3]) and train_labels (N, K)
    arrays: str | None = None
    # False: label columns, if any, are placeholders, as in a sample submission
    labelled: bool = True
    # True: no error where none of its files exists
    optional: bool = False

    @property
    def tables(self) -> tuple[str, ...]:
        """The label files: none, one or several."""
        return (self.table,) if isinstance(self.table, str) else self.table or ()


@dataclass(frozen=True, kw_only=True)
class Competition:
    """What the organisers define. All paths are below the data folder, which is given on the command line.

    Images of one group (a patient) are never in two folds. Label cells in a CSV are 1, 0, -1 (uncertain) or empty
    (unknown). Patterns are regular expressions with one group in brackets, searched in an image's path below the data
    folder.
    """

    # lower-case, used in the names of folders and files
    name: str
    # population, origin of the labels, licence, where to get it
    about: str
    # one label that is present or absent; exactly one of several classes; any number of several labels
    task: Literal["binary", "multiclass", "multilabel"]
    # column order of every (N, K) array; binary: the one label that can be present
    labels: tuple[str, ...]
    # a key of METRICS in scoring/metrics.py
    metric: str
    # several parts are put together
    train: Part | tuple[Part, ...]
    # predicted and submitted
    test: Part | None = None
    # a validation part that is kept apart: predicted and reported only
    official_validation: Part | None = None
    # labels that the metric counts, where it is not all of them
    scored_labels: tuple[str, ...] = ()
    # 1 grey, 3 colour
    channels: Literal[1, 3] = 1
    # column of the label files that identifies images
    id_column: str = "image_id"
    # columns of the labels in the CSV, where they are not `labels` themselves
    label_columns: tuple[str, ...] = ()
    # one column that lists an image's label or labels, "Effusion|Mass"
    label_list_column: str | None = None
    # between the labels in label_list_column
    label_separator: str = "|"
    # finds the label's text in the path, r"/(NORMAL|PNEUMONIA)/"
    label_pattern: str | None = None
    # ((text in label_list_column or path, label), ...); "" for none of the labels
    label_map: tuple[tuple[str, str], ...] = ()
    # texts that occur there and are not predicted; any other unknown text is an error
    ignored_labels: tuple[str, ...] = ()
    # column of the patient, study or slide
    group_column: str | None = None
    # finds the patient in the path; with neither, every image is its own group
    group_pattern: str | None = None
    # a group in train and test is an "error", is left out of train ("drop"), or is two patients ("distinct")
    shared_groups: Literal["error", "drop", "distinct"] = "error"
    # CSV whose ids, order, columns and types a submission must have
    sample_submission: str | None = None
    # probabilities per label; 0 or 1 per label; or one column that lists the labels as label_list_column does
    submission: Literal["probs", "labels", "text"] = "probs"
    # name of that one column, where it is not label_list_column
    submission_column: str | None = None
    # CSV with the test labels and `Usage` (Public, Private), for reporting only
    solution: str | None = None
    # name on Kaggle, as in the address kaggle.com/competitions/NAME
    kaggle: str | None = None
    # True: left and right differ, so flips change what an image means
    laterality: bool = True
    # experiments that run.sh trains, the slowest first
    experiments: tuple[str, ...] = ("lite0_128", "cnn_b")

    @property
    def train_parts(self) -> tuple[Part, ...]:
        """The training part or parts."""
        return (self.train,) if isinstance(self.train, Part) else self.train

    def __post_init__(self):
        try:
            check_choices(self)
            check_metric(self.metric, self.task)
            self._check_labels()
            self._check_label_map()
            self._check_parts()
            self._check_submission()
        except ValueError as error:
            raise ValueError(f"competition {self.name!r}: {error}") from None

    def _check_labels(self) -> None:
        if not self.labels:
            raise ValueError("there are no labels")
        if self.task == "binary" and len(self.labels) != 1:
            raise ValueError(f"a binary task has one label, not {len(self.labels)}")
        if self.task == "multiclass" and len(self.labels) < 2:
            raise ValueError("a multiclass task has two labels or more")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"a label is repeated in {self.labels}")
        if self.label_columns and len(self.label_columns) != len(self.labels):
            raise ValueError(f"{len(self.label_columns)} label_columns for {len(self.labels)} labels")
        if unknown := sorted({*self.scored_labels} - {*self.labels}):
            raise ValueError(f"scored_labels names {unknown}, not in labels{did_you_mean(unknown, self.labels)}")
        if self.scored_labels and self.task == "multiclass":
            raise ValueError("classes exclude one another, so all of them are scored: leave scored_labels out")

    def _check_label_map(self) -> None:
        for pattern in filter(None, (self.label_pattern, self.group_pattern)):
            if re.compile(pattern).groups != 1:
                raise ValueError(f"the pattern {pattern!r} needs exactly one group in brackets")
        meant = {label for _, label in self.label_map}
        if unknown := sorted(meant - {*self.labels, ""}):
            raise ValueError(f"label_map names {unknown}, not among the labels{did_you_mean(unknown, self.labels)}")
        if self.label_map and (missing := [label for label in self.labels if label not in meant]):
            raise ValueError(f"no text of label_map means {missing[0]!r}")

    def _check_parts(self) -> None:
        for part in self.train_parts:
            if not part.tables and not part.arrays and self.label_pattern is None:
                raise ValueError("a training part without a table needs label_pattern")
            if not part.tables and self.group_column:
                raise ValueError("without a table there is no group_column; give group_pattern")
        if self.test and self.test.labelled and not self.test.tables and not self.test.arrays and (
                self.label_pattern is None):
            raise ValueError("a test part without a table and label_pattern needs labelled=False")

    def _check_submission(self) -> None:
        if self.submission == "text" and not (self.submission_column or self.label_list_column):
            raise ValueError("submission='text' needs submission_column or label_list_column")
        if self.kaggle is not None and not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.kaggle):
            raise ValueError(f"kaggle={self.kaggle!r} is not a name as in the address "
                             "kaggle.com/competitions/NAME: small letters, digits and hyphens")


DEMO = Competition(
    name="demo",
    about="Synthetic chest phantoms with known truth, drawn by make_demo.py. Nothing to download, no licence.",
    task="multilabel",
    labels=("effusion", "consolidation", "cardiomegaly"),
    metric="roc_auc",
    train=Part(table="train.csv", images="train/{image_id}.png"),
    test=Part(table="sample_submission.csv", images="test/{image_id}.png", labelled=False),
    group_column="patient_id",
    sample_submission="sample_submission.csv",
    solution="solution.csv",
    experiments=("lite0", "cnn_e", "lstm", "cnn_b", "mlp_a"),
)

NIH_ABOUT = (
    "Frontal chest X-rays of the NIH Clinical Center. Labels mined from reports (Wang et al. 2017, "
    "https://doi.org/10.1109/CVPR.2017.369), reported to be right in about nine of ten cases. Free use with "
    "acknowledgement."
)
NIH_SAMPLE_ABOUT = NIH_ABOUT + (
    " This is a sample of 1,000 images of 264 patients at 64x64. Its `split` column shares patients between the parts, "
    "so those of `test` are left out of train here."
)
NIH_LABELS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
              "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax")


def _nih_sample(name: str, labels: tuple[str, ...]) -> Competition:
    listed = {"table": "sample_labels.csv", "images": "images/{Image Index}"}
    return Competition(
        name=name,
        about=NIH_SAMPLE_ABOUT,
        task="multilabel",
        labels=labels,
        metric="roc_auc",
        train=Part(**listed, row_filter=(("split", ("train", "valid")),)),
        test=Part(**listed, row_filter=(("split", ("test",)),)),
        id_column="Image Index",
        label_list_column="Finding Labels",
        ignored_labels=("No Finding", *(label for label in NIH_LABELS if label not in labels)),
        group_column="Patient ID",
        shared_groups="drop",
    )


NIH_FILES = {"table": "Data_Entry_2017*.csv*", "images": "images*/images/{Image Index}"}
NIH14_FULL = Competition(
    name="nih14_full",
    about=NIH_ABOUT + " The whole set: 112,120 images of 30,805 patients in twelve folders, the organisers' lists.",
    task="multilabel",
    labels=NIH_LABELS,
    metric="roc_auc",
    train=Part(**NIH_FILES, id_list="train_val_list.txt"),
    test=Part(**NIH_FILES, id_list="test_list.txt"),
    id_column="Image Index",
    label_list_column="Finding Labels",
    ignored_labels=("No Finding",),
    group_column="Patient ID",
)

CHEXPERT_LABELS = ("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
                   "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other",
                   "Fracture", "Support Devices")


def _chexpert(name: str, folder: str, lost: tuple[str, ...] = ()) -> Competition:
    frontal = {"images": "{Path}", "row_filter": (("Frontal/Lateral", ("Frontal",)),)}
    return Competition(
        name=name,
        about="CheXpert, Stanford Hospital, 224,316 chest X-rays of 65,240 patients; labels mined from reports, -1 "
              "where the report hedges; 202 frontal X-rays of the official validation part read by three radiologists "
              "(Irvin et al. 2019, https://arxiv.org/abs/1901.07031). Stanford's research use agreement. The data "
              f"folder is the one that holds {folder}/. Frontal views only.",
        task="multilabel",
        labels=CHEXPERT_LABELS,
        scored_labels=("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"),
        metric="roc_auc",
        train=Part(table=f"{folder}/train.csv", **frontal, exclude_ids=lost),
        official_validation=Part(table=f"{folder}/valid.csv", **frontal),
        id_column="Path",
        group_pattern=r"(patient\d+)",
        experiments=("lite0_224", "lite0_128"),
    )


CXR_NPT = Competition(
    name="cxr_npt",
    about="A course's 15,470 chest X-rays, one class each: no findings, pneumonia, tuberculosis; it is not known which "
          "images are of one patient. Images of tuberculosis alone have white or black boxes in them. Not published.",
    task="multiclass",
    labels=("no_findings", "pneumonia", "tuberculosis"),
    metric="f1_macro",
    train=(Part(images="dataset/training/*/*.*"), Part(images="dataset/validation/*/*.*")),
    test=Part(images="dataset/test/*/*.*"),
    label_pattern=r"/([npt])/[^/]*$",
    label_map=(("n", "no_findings"), ("p", "pneumonia"), ("t", "tuberculosis")),
)

SCANS3 = Competition(
    name="scans3",
    about="A Kaggle in-class competition: 12,000, 3,000 and 5,000 grey scans at 64x64, three binary labels that look "
          "nested; about a quarter of the images is black, with labels of both kinds. Patients are not identified. Not "
          "published.",
    task="multilabel",
    labels=("label1", "label2", "label3"),
    metric="f1_micro",
    train=(Part(table="train_labels.csv", images="train_images/{id}"),
           Part(table="val_labels.csv", images="val_images/{id}")),
    test=Part(table="sample_submission.csv", images="test_images/{id}", labelled=False),
    id_column="id",
    sample_submission="sample_submission.csv",
    submission="labels",
    experiments=("lite0", "cnn_e", "cnn_b"),
)

PNEUMONIA_ABOUT = (
    "Chest X-ray images (pneumonia): children of one to five years, Guangzhou. Kermany et al. 2018, "
    "https://doi.org/10.17632/rscbjbr9sj, CC BY 4.0. The test part is another population than the training part: "
    "62.5 % of it have pneumonia against 74.3 %, and person numbers restart. Kaggle's val part of 16 images, where "
    "it is there, is training data."
)


def _pneumonia(name: str, task: str, labels: tuple[str, ...], metric: str, label_pattern: str,
               texts: tuple[tuple[str, str], ...], experiments: tuple[str, ...]) -> Competition:
    return Competition(
        name=name,
        about=PNEUMONIA_ABOUT,
        task=task,
        labels=labels,
        metric=metric,
        train=(Part(images="train/*/*.jpeg"), Part(images="val/*/*.jpeg", optional=True)),
        test=Part(images="test/*/*.jpeg"),
        label_pattern=label_pattern,
        label_map=texts,
        group_pattern=r"(person\d+|IM-\d+)",  # IM-0115 and NORMAL2-IM-0115 may be one child: kept together
        shared_groups="distinct",
        experiments=experiments,
    )


ORGANS = ("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left",
          "lung-right", "pancreas", "spleen")
# task, channels, whether left and right differ, labels in the order of the files' numbers
MEDMNIST = {
    "pathmnist": ("multiclass", 3, False, (
        "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
        "cancer-associated stroma", "colorectal adenocarcinoma epithelium")),
    "chestmnist": ("multilabel", 1, True, (
        "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
        "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia")),
    "dermamnist": ("multiclass", 3, False, (
        "actinic keratoses", "basal cell carcinoma", "benign keratosis", "dermatofibroma", "melanoma",
        "melanocytic nevi", "vascular lesions")),
    "octmnist": ("multiclass", 1, False, (
        "choroidal neovascularization", "diabetic macular edema", "drusen", "normal")),
    "pneumoniamnist": ("binary", 1, True, ("pneumonia",)),
    "retinamnist": ("multiclass", 3, False, ("0", "1", "2", "3", "4")),
    "breastmnist": ("binary", 1, False, ("benign",)),
    "bloodmnist": ("multiclass", 3, False, (
        "basophil", "eosinophil", "erythroblast", "immature granulocytes", "lymphocyte", "monocyte", "neutrophil",
        "platelet")),
    "tissuemnist": ("multiclass", 1, False, (
        "collecting duct", "distal convoluted tubule", "glomerular endothelial cells", "interstitial endothelial cells",
        "leukocytes", "podocytes", "proximal tubule segments", "thick ascending limb")),
    "organamnist": ("multiclass", 1, True, ORGANS),
    "organcmnist": ("multiclass", 1, True, ORGANS),
    "organsmnist": ("multiclass", 1, True, ORGANS),
}


def _medmnist(name: str) -> Competition:
    task, channels, laterality, labels = MEDMNIST[name]
    return Competition(
        name=name,
        about="MedMNIST v2 (Yang et al. 2023, https://doi.org/10.1038/s41597-022-01721-8), one npz file of any size, "
              f"{name}.npz or {name}_224.npz. CC BY 4.0 (DermaMNIST: CC BY-NC). The files do not say which images are "
              "of one patient, so cross-validation cannot keep patients together.",
        task=task,
        labels=labels,
        metric="roc_auc",
        train=(Part(images=f"{name}*.npz", arrays="train"), Part(images=f"{name}*.npz", arrays="val")),
        test=Part(images=f"{name}*.npz", arrays="test"),
        channels=channels,
        laterality=laterality,
        experiments=("lite0", "cnn_b"),
    )


COMPETITIONS = {competition.name: competition for competition in (
    DEMO,
    _nih_sample("nih3", ("Effusion", "Infiltration", "Atelectasis")),
    _nih_sample("nih14", NIH_LABELS),
    NIH14_FULL,
    _chexpert("chexpert", "CheXpert-v1.0", ("CheXpert-v1.0/train/patient40761/study1/view1_frontal.jpg",)),
    _chexpert("chexpert_small", "CheXpert-v1.0-small"),
    CXR_NPT,
    SCANS3,
    _pneumonia("pneumonia2", "binary", ("pneumonia",), "roc_auc", r"/(NORMAL|PNEUMONIA)/",
               (("NORMAL", ""), ("PNEUMONIA", "pneumonia")), ("lite0_128_strong_short",)),
    _pneumonia("pneumonia3", "multiclass", ("normal", "bacteria", "virus"), "accuracy", r"(NORMAL|bacteria|virus)",
               (("NORMAL", "normal"), ("bacteria", "bacteria"), ("virus", "virus")), ("lite0_128_strong",)),
    *map(_medmnist, MEDMNIST),
)}
