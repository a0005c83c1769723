"""What is wrong with files and parts: unreadable, odd and unnamed images, duplicates, and what parts share.

Each check adds findings for the reader, an account for audit.json, tables and plots to a Report.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from auditing import plots
from auditing.leakage import match_split, split_overlaps
from common.console import plural
from common.files import split_ending, write_csv
from competition import Competition
from data.duplicates import MOST_BITS, conflicts, draw_pairs, exact_sets, near_pairs, pairs_between, pairs_of_sets
from data.image_scan import Scan
from data.tables import label_cells

EXAMPLES = 5  # ids named with a finding; all of them stand in the tables beside
OVERLAPS = {"same_id": "are there too", "same_pixels": "have equal pixels there",
            "same_group": "are of a patient who is there"}
COMMON = 0.9  # a size or mode that so many images have makes the others odd


@dataclass(frozen=True)
class Finding:
    """One thing that somebody should know, and what to do about it."""

    severity: Literal["error", "warning", "note"]
    what: str
    todo: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class PartData:
    """One part: its table, other columns (both by image_id, in one order), and what was seen of its images."""

    name: str
    table: pd.DataFrame
    columns: pd.DataFrame
    scan: Scan
    groups: np.ndarray  # (N,) str, named so that equal names mean one patient in all parts

    @property
    def patients(self) -> int | None:
        """How many there are; None where nobody says which images are of one patient."""
        known = (self.table["group"] != self.table["image_id"]).any()
        return len(np.unique(self.groups)) if known else None


@dataclass
class Report:
    """What has been found so far: `account` becomes audit.json."""

    competition: Competition
    folder: Path  # where plots and tables are being written
    findings: list[Finding] = field(default_factory=list)
    account: dict[str, Any] = field(default_factory=dict)
    plots: list[str] = field(default_factory=list)

    def add(self, severity: str, what: str, todo: str = "", examples: Iterable = ()) -> None:
        """One more finding, with a few of the examples."""
        self.findings.append(Finding(severity, what, todo, tuple(map(str, list(examples)[:EXAMPLES]))))

    def plot(self, name: str, draw: Callable, *arguments: Any) -> None:
        """Draws `name`.png with a function of auditplots, whose last positional argument is the path."""
        draw(*arguments, self.folder / f"{name}.png")
        self.plots.append(f"{name}.png")

    def keep(self, name: str, frame: pd.DataFrame) -> None:
        """Writes a table beside audit.json, where it has rows."""
        if len(frame):
            write_csv(self.folder / f"{name}.csv", frame, float_format="%.6g")


# ---- files


def check_images(report: Report, parts: dict[str, PartData]) -> None:
    """Unreadable, one-coloured and odd images."""
    account, properties = {}, {}
    for name, part in parts.items():
        scan, seen = part.scan, part.scan.readable
        bad, constant = scan.ids[~seen], scan.ids[seen & scan.constant]
        sizes = Counter(zip(scan.width[seen].tolist(), scan.height[seen].tolist(), strict=True))
        modes = Counter(scan.mode[seen].tolist())
        report.keep(f"unreadable_{name}", pd.DataFrame({"image_id": bad, "reason": scan.reason[~seen]}))
        report.keep(f"one_colour_{name}", pd.DataFrame({"image_id": constant}))
        if len(bad):
            texts = [f"{image_id}: {reason}" for image_id, reason in zip(bad, scan.reason[~seen], strict=True)]
            report.add("error", f"{plural(len(bad), f'{name} image')} of {len(scan):,} cannot be read",
                       f"fetch them again, or name them in `exclude_ids` in competition.py; all: unreadable_{name}.csv",
                       texts)
        if len(constant):
            share = len(constant) / len(scan)
            report.add("warning" if share > 0.01 else "note",
                       f"{plural(len(constant), f'{name} image')} ({share:.1%}) of one colour throughout"
                       + _labels_of_black(report.competition, part),
                       "training leaves them out unless an experiment's `constant_images` says otherwise, and they get the prior",
                       constant)
        flat = seen & ~scan.constant & (scan.std < 2)
        if flat.any():
            report.add("note", f"{plural(flat.sum(), f'{name} image')} with hardly any contrast (deviation below "
                       "2 of 255)", "look at them in suspicious.png", scan.ids[flat])
        _add_odd(report, name, "size", sizes, [f"{w}x{h}" for w, h in sizes], seen, scan,
                 list(zip(scan.width.tolist(), scan.height.tolist(), strict=True)))
        _add_odd(report, name, "mode", modes, list(modes), seen, scan, scan.mode.tolist())
        account[name] = {
            "images": len(scan), "patients": part.patients, "unreadable": len(bad),
            "one_colour": len(constant), "low_contrast": int(flat.sum()),
            "sizes": {f"{w}x{h}": count for (w, h), count in sizes.most_common(20)}, "different_sizes": len(sizes),
            "modes": dict(modes.most_common()),
            "unreadable_images": [{"image_id": image_id, "reason": reason} for image_id, reason in
                                  zip(bad[:100], scan.reason[~seen][:100], strict=True)]}
        if seen.any():
            properties[name] = pd.DataFrame({
                "brightness": scan.mean[seen], "contrast": scan.std[seen], "kilobytes": scan.file_bytes[seen] / 1000,
                "height": scan.height[seen], "width": scan.width[seen],
                "aspect": scan.width[seen] / scan.height[seen]})
    report.account["images"] = account
    if properties:
        report.plot("images", plots.plot_properties, properties)


def _labels_of_black(competition: Competition, part: PartData) -> str:
    if competition.labels[0] not in part.table:
        return ""
    positive = (label_cells(competition, part.table)[part.scan.constant] == 1).any(axis=1)
    return f", {positive.sum():,} of them with a label present" if positive.any() else ""


def _add_odd(report: Report, name: str, what: str, counts: Counter, names: list[str], seen: np.ndarray, scan: Scan,
             values: list) -> None:
    """A note about what only a few images have, where nearly all others have the same."""
    if len(counts) < 2:
        return
    common, most = counts.most_common(1)[0]
    if most < COMMON * counts.total():
        if what == "mode":
            report.add("note", f"the {name} images are of several modes: {_most_common(counts)}",
                       "they are read alike, in the competition's channels")
        return
    odd = [f"{image_id} ({value if what == 'mode' else 'x'.join(map(str, value))})"
           for image_id, value, is_seen in zip(scan.ids.tolist(), values, seen, strict=True)
           if is_seen and value != common]
    usual = common if what == "mode" else "x".join(map(str, common))
    report.add("note", f"{plural(len(odd), f'{name} image')} of {counts.total():,} with another {what} than {usual}",
               "they are read and resized like all others; look whether they come from elsewhere", odd)


def _most_common(counts: dict[str, int], most: int = 3) -> str:
    top = Counter(counts).most_common(most)
    more = f" and {len(counts) - most:,} more" if len(counts) > most else ""
    return ", ".join(f"{name} {count:,}" for name, count in top) + more


def check_strays(report: Report, data_dir: Path, parts: dict[str, PartData], left_out: pd.DataFrame) -> None:
    """Files in the folders of a table's images that no row names."""
    described = [*report.competition.train_parts, report.competition.test, report.competition.official_validation]
    if not any(part is not None and part.tables for part in described):
        report.account["stray_files"] = None
        return
    paths = pd.concat([part.table["path"] for part in parts.values()] + [left_out["path"]])
    paths = paths[~paths.str.contains(".npz#", regex=False)]
    named, endings = set(paths), {_ending(path) for path in paths}
    strays = [path.as_posix() for folder in sorted({path.rpartition("/")[0] for path in named})
              for path in Path(folder).iterdir()
              if path.as_posix() not in named and _ending(path.name) in endings and path.is_file()]
    strays = [Path(path).relative_to(data_dir.resolve()).as_posix() for path in sorted(strays)]
    report.account["stray_files"] = {"count": len(strays), "examples": strays[:20]}
    report.keep("strays", pd.DataFrame({"file": strays}))
    if strays:
        chosen = any(part is not None and (part.row_filter or part.id_list or part.exclude_ids) for part in described)
        report.add("note" if chosen else "warning", f"{plural(len(strays), 'file')} in the image folders that "
                   "no row names" + (" (rows that the description leaves out count here)" if chosen else ""),
                   "find out whether a table is incomplete; nothing uses them", strays)


def _ending(path: str) -> str:
    return split_ending(path.rpartition("/")[2])[1].lower()


# ---- duplicates, and what parts share


def check_duplicates(report: Report, train: PartData) -> tuple[list[list[str]], pd.DataFrame]:
    """Exact sets and near pairs within the training part."""
    exact, near = exact_sets(train.scan), near_pairs(train.scan)
    group = dict(zip(train.table["image_id"], train.groups, strict=True))
    apart = [ids for ids in exact if len({group[image_id] for image_id in ids}) > 1]
    pairs = pairs_of_sets(exact)
    differ = conflicts(exact, train.table, list(report.competition.labels))
    near_differ = conflicts(near[["a", "b"]].values.tolist(), train.table, list(report.competition.labels))
    searched = near.attrs["most_bits"]
    near = near.assign(same_patient=[group[a] == group[b] for a, b in zip(near["a"], near["b"], strict=True)])
    report.keep("exact_duplicates", pairs)
    report.keep("near_duplicates", near)
    report.keep("conflicts", pd.concat([differ.assign(kind="exact"), near_differ.assign(kind="near")]))
    report.account["duplicates"] = {
        "exact_sets": len(exact), "exact_images": sum(map(len, exact)), "exact_sets_of_several_patients": len(apart),
        "near_pairs": len(near), "hash_distance_searched": searched,
        "near_pairs_of_two_patients": int((~near["same_patient"].astype(bool)).sum()),
        "exact_sets_with_different_labels": differ["ids"].nunique(),
        "near_pairs_with_different_labels": near_differ["ids"].nunique(),
        "examples": {"exact": exact[:20], "near": near.head(20), "different_labels": differ.head(20)}}
    if exact:
        report.add("warning", f"{sum(map(len, exact)):,} training images in {plural(len(exact), 'set')} with "
                   "equal pixels" + (f", {len(apart):,} under several patients' names" if apart else ""),
                   "make_folds.py keeps them in one fold; folds of your own must too", (" = ".join(s) for s in exact))
    if len(near):
        other = int((~near["same_patient"].astype(bool)).sum())
        report.add("warning" if other else "note", f"{plural(len(near), 'pair')} of training images with "
                   f"nearly the same picture, {other:,} under two patients' names",
                   "look at near_duplicates.png; make_folds.py --near-duplicates keeps such pairs in one fold",
                   (f"{a} ~ {b}" for a, b in zip(near["a"], near["b"], strict=True)))
        places = train.table[["image_id", "path"]]
        report.plot("near_duplicates", draw_pairs, near, places, places)
    if searched < MOST_BITS:
        report.add("note", f"so many pictures look alike that near duplicates were looked for up to a hash distance of "
                   f"{searched} of 256 bits only, instead of {MOST_BITS}",
                   "recompressed and resized copies are found all the same; of shifted ones some are missed")
    if len(differ):
        report.add("warning", f"{plural(differ['ids'].nunique(), 'set')} of equal images with different labels: one "
                   "of them must be wrong",
                   "see conflicts.csv; labels that contradict each other bound what can be reached",
                   [f"{ids}: {label} {values}" for ids, label, values in differ.to_numpy()])
    return exact, near


def check_parts(report: Report, parts: dict[str, PartData], left_out: pd.DataFrame) -> None:
    """Pictures and patients that the training part shares with the parts kept apart."""
    train, competition, account, found = parts["train"], report.competition, {}, []
    if len(left_out):
        patients = plural(left_out["group"].nunique(), "patient")
        report.add("note", f"{plural(len(left_out), 'training image')} left out, of {patients} with images in the "
                   "test or expert part too", "", left_out["group"].unique())
    if not (competition.group_column or competition.group_pattern):
        report.add("note", "nobody says which images are of one patient: each counts as a patient of its own",
                   "if file names or a table tell, give group_column or group_pattern in competition.py")
    for name, part in list(parts.items())[1:]:
        pairs = pairs_between(train.scan, part.scan)
        exact, near = pairs[pairs["kind"] == "exact"], pairs[pairs["kind"] == "near"]
        shared = np.intersect1d(train.groups, part.groups)
        account[name] = {"exact": len(exact), "near_pairs": len(near), "shared_patients": len(shared),
                         "same_names": len(np.intersect1d(train.table["group"], part.table["group"])),
                         "examples": pairs.head(20)}
        found.append(pairs.assign(part=name))
        if len(exact):
            report.add("error", f"{plural(exact['b'].nunique(), f'{name} image')} in the training part too, to the pixel",
                       "take them out of training (`exclude_ids` in competition.py), or the score there is too good",
                       (f"{a} = {b}" for a, b in zip(exact["a"], exact["b"], strict=True)))
        if len(near):
            report.add("warning", f"{plural(near['b'].nunique(), f'{name} image')} with nearly the same picture as "
                       "a training image", f"look at near_{name}.png; the score there may be too good",
                       (f"{a} ~ {b}" for a, b in zip(near["a"], near["b"], strict=True)))
            report.plot(f"near_{name}", draw_pairs, near, train.table, part.table)
        if len(shared):
            report.add("error", f"{plural(len(shared), 'patient')} with images in train and in {name}",
                       "say in competition.py what that means: shared_groups='drop', or 'distinct' where each part "
                       "counts anew; until then nothing is trained", shared)
    report.account["parts"] = {"left_out": len(left_out), "shared_with_train": account}
    if found:
        report.keep("across_parts", pd.concat(found))


def check_truth(report: Report, truth: pd.DataFrame, train: PartData, exact: list[list[str]],
                near: pd.DataFrame) -> None:
    """Recall and precision of what was planted in the demo."""
    truth = truth[truth["image_id"].isin(train.table["image_id"])]
    planted = {"one colour": set(truth.loc[truth["black"] == 1, "image_id"])}
    for kind, column in (("exact duplicates", "duplicate_of"), ("near duplicates", "near_duplicate_of")):
        copies = truth[truth[column] != ""]
        planted[kind] = {frozenset(pair) for pair in zip(copies["image_id"], copies[column], strict=True)}
    found = {"one colour": set(train.scan.ids[train.scan.readable & train.scan.constant].tolist()),
             "exact duplicates": {frozenset(pair) for pair in pairs_of_sets(exact).to_numpy().tolist()},
             "near duplicates": {frozenset(pair) for pair in near[["a", "b"]].to_numpy().tolist()}}
    report.account["truth"] = {kind: {
        "planted": len(planted[kind]), "found": len(found[kind]), "right": len(planted[kind] & found[kind]),
        "recall": len(planted[kind] & found[kind]) / len(planted[kind]) if planted[kind] else None,
        "precision": len(planted[kind] & found[kind]) / len(found[kind]) if found[kind] else None} for kind in planted}


def check_split(report: Report, split: pd.DataFrame, parts: dict[str, PartData], left_out: pd.DataFrame) -> None:
    """Images, pixels and patients that the parts of somebody's split share; also of training rows left out here."""
    together = pd.concat([part.table[["image_id", "path"]].assign(group=part.groups, pixel_hash=np.where(
        part.scan.constant, "", part.scan.pixel_hash)) for part in parts.values()], ignore_index=True)
    together = pd.concat([together, left_out[["image_id", "path", "group"]].assign(pixel_hash="")], ignore_index=True)
    together = together.drop_duplicates("image_id", ignore_index=True)
    if not (report.competition.group_column or report.competition.group_pattern):
        together = together.drop(columns="group")
    matched, names = match_split(split, together)
    overlaps = split_overlaps(matched, names)
    report.account["split"] = overlaps
    report.keep("split", overlaps)
    seen = set()
    for row in overlaps.sort_values("images", kind="stable").to_dict("records"):  # of the smaller part's images
        if (pair := frozenset((row["part"], row["other"]))) in seen:
            continue
        seen.add(pair)
        shared = {what: int(row[key]) for key, what in OVERLAPS.items() if not pd.isna(row[key]) and row[key]}
        if shared:
            told = ", ".join(f"{count:,} {what}" for what, count in shared.items())
            report.add("error", f"the split shares images between {row['part']} and {row['other']}: of "
                       f"{row['images']:,} images of {row['part']} {told}",
                       "scores from this split are too good; split with make_folds.py")
        else:
            report.add("note", f"the split's {row['part']} and {row['other']} share nothing, as far as is known")
    if unmatched := matched.attrs["unmatched"]:
        report.add("warning", f"{plural(unmatched, 'row')} of {len(split):,} in the split without an image of this "
                   "competition",
                   "only their names are compared")
