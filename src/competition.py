"""What the organisers fixed: files, columns, labels, task, metric, and how a submission looks."""

import re
from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints


def check_choices(description: object) -> None:
    """Raises ValueError where a field of a dataclass holds none of the values that its Literal allows."""
    for name, kind in get_type_hints(type(description)).items():
        value = getattr(description, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(kind)))}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the data: a CSV that lists its images, or a folder whose images list themselves."""

    images: str                          # with a table: a path with its columns, "train/{id}.png"; without: a glob
    table: str | None = None             # CSV below the data folder; None: every file that `images` matches is a row
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (column, values): rows kept; text as it stands in the CSV
    labelled: bool = True                # False: label columns, if any, are placeholders (a sample submission)


@dataclass(frozen=True, kw_only=True)
class Competition:
    """What the organisers fixed. All paths are below the data folder, which is given on the command line.

    Images of one group (a patient) never stand in two folds. Label cells in a CSV are 1, 0, -1 (uncertain) or empty
    (not stated). Patterns are regular expressions with one group in brackets, searched in an image's path below the
    data folder.
    """

    name: str
    about: str                           # population, origin of the labels, licence, where to get it
    task: Literal["binary", "multiclass", "multilabel"]
    labels: tuple[str, ...]              # column order of every (N, K) array; binary: the one label that can be present
    metric: str                          # a key of METRICS
    train: Part
    test: Part | None = None
    channels: Literal[1, 3] = 1          # 1 grey, 3 colour
    id_column: str = "image_id"
    label_columns: tuple[str, ...] = ()  # names in the CSV, where they are not `labels` themselves
    joined_column: str | None = None     # one column that holds all labels of an image, "Effusion|Mass"; empty: none
    joined_by: str = "|"
    ignored_labels: tuple[str, ...] = ()  # names that may stand there and are not predicted; any other is an error
    label_pattern: str | None = None     # finds the text that tells the label, r"/(NORMAL|PNEUMONIA)/"
    pattern_labels: tuple[tuple[str, str], ...] = ()  # (text found, label it means; "" for none of the labels)
    group_column: str | None = None      # patient, study or slide
    group_pattern: str | None = None     # the same out of the path; neither: every image is its own group
    shared_groups: Literal["error", "drop", "distinct"] = "error"  # a group both in train and test is: refused; left
    #                                      out of train, and said so; or another patient, since each part counts anew
    sample_submission: str | None = None  # CSV whose ids, order, columns and types a submission must have
    submission: Literal["probs", "labels"] = "probs"  # numbers between 0 and 1, or hard labels
    solution: str | None = None          # CSV with the test labels and `Usage` (Public, Private): only reported
    laterality: bool = True              # left and right differ, so flips change what an image means
    experiments: tuple[str, ...] = ("lite0_128", "cnn_b")  # what run.sh trains, the slowest first

    def __post_init__(self):
        check_choices(self)
        if self.task == "binary" and len(self.labels) != 1:
            raise ValueError(f"competition {self.name!r}: a binary task has one label, not {len(self.labels)}")
        if self.task == "multiclass" and len(self.labels) < 2:
            raise ValueError(f"competition {self.name!r}: a multiclass task has two labels or more")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"competition {self.name!r}: a label stands twice in {self.labels}")
        if self.label_columns and len(self.label_columns) != len(self.labels):
            raise ValueError(f"competition {self.name!r}: {len(self.label_columns)} label_columns for "
                             f"{len(self.labels)} labels")
        if self.train.table is None and self.label_pattern is None:
            raise ValueError(f"competition {self.name!r}: a training part without a table needs label_pattern")
        if self.train.table is None and self.group_column:
            raise ValueError(f"competition {self.name!r}: without a table there is no group_column; give group_pattern")
        if self.test and self.test.labelled and self.test.table is None and self.label_pattern is None:
            raise ValueError(f"competition {self.name!r}: a test part without a table and label_pattern needs "
                             f"labelled=False")
        if not self.labels:
            raise ValueError(f"competition {self.name!r} has no labels")
        for pattern in filter(None, (self.label_pattern, self.group_pattern)):
            if re.compile(pattern).groups != 1:
                raise ValueError(f"competition {self.name!r}: the pattern {pattern!r} needs exactly one group in "
                                 f"brackets")
        strangers = {label for _, label in self.pattern_labels} - {*self.labels, ""}
        if strangers:
            raise ValueError(f"competition {self.name!r}: pattern_labels names {sorted(strangers)}, not among the "
                             f"labels")


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
    "NIH ChestX-ray14, a sample of 1,000 frontal X-rays of 264 patients at 64x64. Labels mined from reports (Wang et "
    "al. 2017, https://doi.org/10.1109/CVPR.2017.369), said to be right in about nine of ten cases. NIH Clinical "
    "Center, free use with acknowledgement. The `split` column shares patients between its parts, so those of `test` "
    "are left out of train here."
)
NIH_LABELS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
              "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax")


def _nih(name: str, labels: tuple[str, ...]) -> Competition:
    listed = {"table": "sample_labels.csv", "images": "images/{Image Index}"}
    return Competition(
        name=name,
        about=NIH_ABOUT,
        task="multilabel",
        labels=labels,
        metric="roc_auc",
        train=Part(**listed, where=(("split", ("train", "valid")),)),
        test=Part(**listed, where=(("split", ("test",)),)),
        id_column="Image Index",
        joined_column="Finding Labels",
        ignored_labels=("No Finding", *(label for label in NIH_LABELS if label not in labels)),
        group_column="Patient ID",
        shared_groups="drop",
    )


PNEUMONIA_ABOUT = (
    "Chest X-ray images (pneumonia): children of one to five years, Guangzhou. Kermany et al. 2018, "
    "https://doi.org/10.17632/rscbjbr9sj, CC BY 4.0. The test part is another population than the training part: "
    "62.5 % of it have pneumonia against 74.3 %, and person numbers start anew."
)


def _pneumonia(name: str, task: str, labels: tuple[str, ...], metric: str, label_pattern: str,
               pattern_labels: tuple[tuple[str, str], ...], experiments: tuple[str, ...]) -> Competition:
    return Competition(
        name=name,
        about=PNEUMONIA_ABOUT,
        task=task,
        labels=labels,
        metric=metric,
        train=Part(images="train/*/*.jpeg"),
        test=Part(images="test/*/*.jpeg"),
        label_pattern=label_pattern,
        pattern_labels=pattern_labels,
        group_pattern=r"(person\d+|IM-\d+)",  # IM-0115 and NORMAL2-IM-0115 may be one child: kept together
        shared_groups="distinct",
        experiments=experiments,
    )


COMPETITIONS = {
    "demo": DEMO,
    "nih3": _nih("nih3", ("Effusion", "Infiltration", "Atelectasis")),
    "nih14": _nih("nih14", NIH_LABELS),
    "pneumonia2": _pneumonia("pneumonia2", "binary", ("pneumonia",), "roc_auc", r"/(NORMAL|PNEUMONIA)/",
                             (("NORMAL", ""), ("PNEUMONIA", "pneumonia")), ("lite0_128_strong_short",)),
    "pneumonia3": _pneumonia("pneumonia3", "multiclass", ("normal", "bacteria", "virus"), "accuracy",
                             r"(NORMAL|bacteria|virus)",
                             (("NORMAL", "normal"), ("bacteria", "bacteria"), ("virus", "virus")),
                             ("lite0_128_strong",)),
}
