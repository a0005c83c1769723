"""The audit's checks of files and parts: unreadable and unusual images, duplicates, and what parts share.

Each check adds findings, a part of the summary, tables and plots to a Report.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from auditing import plots
from auditing.findings import LOW_CONTRAST, PartData, Report, has_patients
from auditing.leakage import match_split, split_overlaps
from common.console import percent, plural
from common.files import split_ending
from competition import Competition
from data.duplicates import MOST_BITS, conflicts, draw_pairs, exact_sets, near_pairs, pairs_between, pairs_of_sets
from data.image_scan import Scan
from data.tables import label_cells

COMMON = 0.9  # if this share of images has the same size or mode, the others are reported
OVERLAPS = {"same_id": "are also in {other}", "same_pixels": "have the same pixels as an image of {other}",
            "same_group": "belong to a patient in {other}"}


# ---- files


def check_images(report: Report, parts: dict[str, PartData]) -> None:
    """Reports unreadable, constant and unusual images of each part; draws brightness, contrast and sizes."""
    summary, properties = {}, {}
    for name, part in parts.items():
        scan, readable = part.scan, part.scan.readable
        bad, constant = scan.ids[~readable], scan.ids[readable & scan.constant]
        sizes = Counter(f"{w}x{h}" for w, h in zip(scan.width[readable], scan.height[readable], strict=True))
        modes = Counter(scan.mode[readable].tolist())
        report.keep(f"unreadable_{name}", pd.DataFrame({"image_id": bad, "reason": scan.reason[~readable]}))
        report.keep(f"constant_{name}", pd.DataFrame({"image_id": constant}))
        if len(bad):
            texts = [f"{image_id}: {reason}" for image_id, reason in zip(bad, scan.reason[~readable], strict=True)]
            report.add("error", f"{plural(len(bad), f'{part.title} image')} of {len(scan):,} cannot be read.",
                       "Download the files again, or list the ids in `exclude_ids` in competition.py. All of them are "
                       f"in unreadable_{name}.csv.", texts)
        if len(constant):
            share = len(constant) / len(scan)
            report.add("warning" if share > 0.01 else "note",
                       f"{plural(len(constant), f'{part.title} image', 'are')} constant ({percent(share)}): all pixels "
                       f"have one grey value.{_positives_among(report.competition, part)}",
                       "By default, training leaves constant images out and predictions are the training prevalence; "
                       f"see `constant_images` of an experiment. All of them are in constant_{name}.csv.", constant)
        flat = readable & ~scan.constant & (scan.std < LOW_CONTRAST)
        if flat.any():
            report.add("note", f"{plural(flat.sum(), f'{part.title} image', 'have')} almost no contrast: the standard "
                       f"deviation of the grey values is below {LOW_CONTRAST} of 255.",
                       "See suspicious.png." if name == "train" else "Look at these images.", scan.ids[flat])
        _add_unusual(report, part.title, "size", sizes, scan,
                     [f"{w}x{h}" for w, h in zip(scan.width, scan.height, strict=True)])
        _add_unusual(report, part.title, "pixel mode", modes, scan, scan.mode.tolist())
        summary[name] = {
            "images": len(scan), "patients": part.patients, "unreadable": len(bad),
            "constant": len(constant), "low_contrast": int(flat.sum()),
            "sizes": dict(sizes.most_common(20)), "different_sizes": len(sizes), "modes": dict(modes.most_common()),
            "unreadable_images": [{"image_id": image_id, "reason": reason} for image_id, reason in
                                  zip(bad[:100], scan.reason[~readable][:100], strict=True)]}
        if readable.any():
            properties[name] = pd.DataFrame({
                "brightness": scan.mean[readable], "contrast": scan.std[readable],
                "kilobytes": scan.file_bytes[readable] / 1000,
                "height": scan.height[readable], "width": scan.width[readable],
                "aspect": scan.width[readable] / scan.height[readable]})
    report.summary["images"] = summary
    if properties:
        report.plot("images", plots.plot_properties, properties)


def _positives_among(competition: Competition, part: PartData) -> str:
    if competition.labels[0] not in part.table:
        return ""
    positive = (label_cells(competition, part.table)[part.scan.constant] == 1).any(axis=1).sum()
    return f" {positive:,} of them {'has' if positive == 1 else 'have'} a positive label." if positive else ""


def _add_unusual(report: Report, name: str, what: str, counts: Counter, scan: Scan, values: list[str]) -> None:
    """Adds a note on the images whose size or mode is not the usual one."""
    if len(counts) < 2:
        return
    usual, most = counts.most_common(1)[0]
    if most < COMMON * counts.total():
        if what == "pixel mode":
            top = ", ".join(f"{mode} {images:,}" for mode, images in counts.most_common(3))
            more = f" and {len(counts) - 3:,} more" if len(counts) > 3 else ""
            report.add("note", f"The {name} images have several pixel modes: {top}{more}.",
                       "All are converted to the competition's channels.")
        return
    unusual = [f"{image_id} ({value})" for image_id, value, readable in
               zip(scan.ids.tolist(), values, scan.readable, strict=True) if readable and value != usual]
    report.add("note", f"{plural(len(unusual), f'{name} image', 'have')} another {what} than {usual}, which "
               f"{most:,} images have.", "They are converted like all others. Check whether they come from another "
               "source.", unusual)


def check_strays(report: Report, data_dir: Path, parts: dict[str, PartData], left_out: pd.DataFrame) -> None:
    """Reports files in the image folders that are in no table."""
    described = [*report.competition.train_parts, report.competition.test, report.competition.official_validation]
    if not any(part is not None and part.tables for part in described):
        report.summary["stray_files"] = None
        return
    paths = pd.concat([part.table["path"] for part in parts.values()] + [left_out["path"]])
    paths = paths[~paths.str.contains(".npz#", regex=False)]
    named, endings = set(paths), {_ending(path) for path in paths}
    strays = [path.as_posix() for folder in sorted({path.rpartition("/")[0] for path in named})
              for path in Path(folder).iterdir()
              if path.as_posix() not in named and _ending(path.name) in endings and path.is_file()]
    strays = [Path(path).relative_to(data_dir.resolve()).as_posix() for path in sorted(strays)]
    report.summary["stray_files"] = {"count": len(strays), "examples": strays[:20]}
    report.keep("strays", pd.DataFrame({"file": strays}))
    if strays:
        chosen = any(part is not None and (part.row_filter or part.id_list or part.exclude_ids) for part in described)
        report.add("note" if chosen else "warning", f"{plural(len(strays), 'file')} in the image folders "
                   f"{'is' if len(strays) == 1 else 'are'} in no table"
                   + (", or in a row that competition.py leaves out." if chosen else "."),
                   "These files are not used. Check whether a label table is incomplete.", strays)


def _ending(path: str) -> str:
    return split_ending(path.rpartition("/")[2])[1].lower()


# ---- duplicates, and what parts share


def check_duplicates(report: Report, train: PartData) -> tuple[list[list[str]], pd.DataFrame]:
    """Reports identical and nearly identical training images; returns the sets of ids and the table of pairs."""
    exact, near = exact_sets(train.scan), near_pairs(train.scan)
    labels, group = list(report.competition.labels), dict(zip(train.table["image_id"], train.groups, strict=True))
    apart = [ids for ids in exact if len({group[image_id] for image_id in ids}) > 1]
    differ = conflicts(exact, train.table, labels)
    near_differ = conflicts(near[["a", "b"]].values.tolist(), train.table, labels)
    searched = near.attrs["most_bits"]
    near = near.assign(same_patient=[group[a] == group[b] for a, b in zip(near["a"], near["b"], strict=True)])
    other = int((~near["same_patient"].astype(bool)).sum())
    report.keep("exact_duplicates", pairs_of_sets(exact))
    report.keep("near_duplicates", near)
    report.keep("conflicts", pd.concat([differ.assign(kind="exact"), near_differ.assign(kind="near")]))
    report.summary["duplicates"] = {
        "exact_sets": len(exact), "exact_images": sum(map(len, exact)), "exact_sets_of_several_patients": len(apart),
        "near_pairs": len(near), "hash_distance_searched": searched, "near_pairs_of_two_patients": other,
        "exact_sets_with_different_labels": differ["ids"].nunique(),
        "near_pairs_with_different_labels": near_differ["ids"].nunique(),
        "examples": {"exact": exact[:20], "near": near.head(20), "different_labels": differ.head(20)}}
    if exact:
        patients = f", {len(apart):,} of them with several patients." if apart else "."
        report.add("warning", f"{sum(map(len, exact)):,} training images have identical pixels: "
                   f"{plural(len(exact), 'set')}{patients}",
                   "make_folds.py keeps each set in one fold. Folds of your own must do the same.",
                   (" = ".join(ids) for ids in exact))
    if len(near):
        report.add("warning" if other else "note", f"{plural(len(near), 'pair')} of training images "
                   f"{'is' if len(near) == 1 else 'are'} nearly identical"
                   + (f", {other:,} of them with two patients." if other else "."),
                   "See near_duplicates.png. make_folds.py --near-duplicates keeps each pair in one fold.",
                   (f"{a} ~ {b}" for a, b in zip(near["a"], near["b"], strict=True)))
        places = train.table[["image_id", "path"]]
        report.plot("near_duplicates", draw_pairs, near, places, places)
    if searched < MOST_BITS:
        report.add("note", f"Near duplicates were searched up to a hash distance of {searched} of 256 bits only, "
                   f"instead of {MOST_BITS}, because many images look alike.",
                   "Recompressed and resized copies are found, but some shifted copies are missed.")
    if len(differ):
        sets = differ["ids"].nunique()
        report.add("warning", f"{plural(sets, 'set')} of identical images {'has' if sets == 1 else 'have'} different "
                   "labels, so at least one label in each set is wrong.",
                   "See conflicts.csv. Correct these labels or exclude the images.",
                   [f"{ids}: {label} {values}" for ids, label, values in differ.to_numpy()])
    return exact, near


def check_parts(report: Report, parts: dict[str, PartData], left_out: pd.DataFrame) -> None:
    """Reports images and patients that the training part shares with the other parts."""
    train, competition, summary, found = parts["train"], report.competition, {}, []
    others = [name for name in parts if name != "train"]
    if len(left_out):
        report.add("note", f"{plural(len(left_out), 'training image', 'are')} left out, because the "
                   f"{' or '.join(parts[name].title for name in others)} part has images of the same patients "
                   f"({plural(left_out['group'].nunique(), 'patient')}).", "", left_out["group"].unique())
    if not has_patients(competition):
        report.add("note", "The competition does not say which images belong to one patient, so each image counts as "
                   "its own patient.",
                   "If a table column or the file names identify patients, set `group_column` or `group_pattern` in "
                   "competition.py.")
    for name in others:
        part = parts[name]
        pairs = pairs_between(train.scan, part.scan)
        exact, near = pairs[pairs["kind"] == "exact"], pairs[pairs["kind"] == "near"]
        shared = np.intersect1d(train.groups, part.groups)
        summary[name] = {"exact": len(exact), "near_pairs": len(near), "shared_patients": len(shared),
                         "same_names": len(np.intersect1d(train.table["group"], part.table["group"])),
                         "examples": pairs.head(20)}
        found.append(pairs.assign(part=name))
        if len(exact):
            report.add("error", f"{plural(exact['b'].nunique(), f'{part.title} image', 'have')} exactly the same "
                       "pixels as a training image.",
                       "Exclude the training images (`exclude_ids` in competition.py). Otherwise the score on this "
                       "part is too high.", (f"{a} = {b}" for a, b in zip(exact["a"], exact["b"], strict=True)))
        if len(near):
            report.add("warning", f"{plural(near['b'].nunique(), f'{part.title} image', 'are')} nearly identical to a "
                       "training image.", f"See near_{name}.png. The score on this part may be too high.",
                       (f"{a} ~ {b}" for a, b in zip(near["a"], near["b"], strict=True)))
            report.plot(f"near_{name}", draw_pairs, near, train.table, part.table)
        if len(shared):
            report.add("error", f"{plural(len(shared), 'patient', 'have')} images in train and in {part.title}.",
                       "Set `shared_groups` in competition.py: 'drop' leaves their training images out, 'distinct' "
                       "says that each part numbers its patients anew. Until then, training stops with an error.",
                       shared)
    report.summary["parts"] = {"left_out": len(left_out), "shared_with_train": summary}
    if found:
        report.keep("across_parts", pd.concat(found))


def check_truth(report: Report, truth: pd.DataFrame, train: PartData, exact: list[list[str]],
                near: pd.DataFrame) -> None:
    """Recall and precision for the problems that the demo contains by design."""
    truth = truth[truth["image_id"].isin(train.table["image_id"])]
    planted = {"constant": set(truth.loc[truth["black"] == 1, "image_id"])}
    for kind, column in (("exact duplicates", "duplicate_of"), ("near duplicates", "near_duplicate_of")):
        copies = truth[truth[column] != ""]
        planted[kind] = {frozenset(pair) for pair in zip(copies["image_id"], copies[column], strict=True)}
    found = {"constant": set(train.scan.ids[train.scan.readable & train.scan.constant].tolist()),
             "exact duplicates": {frozenset(pair) for pair in pairs_of_sets(exact).to_numpy().tolist()},
             "near duplicates": {frozenset(pair) for pair in near[["a", "b"]].to_numpy().tolist()}}
    report.summary["truth"] = {kind: {
        "planted": len(planted[kind]), "found": len(found[kind]), "right": len(planted[kind] & found[kind]),
        "recall": len(planted[kind] & found[kind]) / len(planted[kind]) if planted[kind] else None,
        "precision": len(planted[kind] & found[kind]) / len(found[kind]) if found[kind] else None} for kind in planted}


def check_split(report: Report, split: pd.DataFrame, parts: dict[str, PartData], left_out: pd.DataFrame) -> None:
    """Reports images, pixels and patients that the parts of a given split share, also of training rows left out here.

    split: image files or ids, and the part of each.
    """
    together = pd.concat([part.table[["image_id", "path"]].assign(group=part.groups, pixel_hash=np.where(
        part.scan.constant, "", part.scan.pixel_hash)) for part in parts.values()], ignore_index=True)
    together = pd.concat([together, left_out[["image_id", "path", "group"]].assign(pixel_hash="")], ignore_index=True)
    together = together.drop_duplicates("image_id", ignore_index=True)
    if not has_patients(report.competition):
        together = together.drop(columns="group")
    matched, names = match_split(split, together)
    overlaps = split_overlaps(matched, names)
    report.summary["split"] = overlaps
    report.keep("split", overlaps)
    seen = set()
    for row in overlaps.sort_values("images", kind="stable").to_dict("records"):  # the smaller part comes first
        if (pair := frozenset((row["part"], row["other"]))) in seen:
            continue
        seen.add(pair)
        shared = [f"{row[key]:,.0f} {text.format(other=row['other'])}" for key, text in OVERLAPS.items()
                  if not pd.isna(row[key]) and row[key]]
        if shared:
            report.add("error", f"The parts {row['part']} and {row['other']} of the split overlap: of "
                       f"{row['images']:,} images in {row['part']}, {', '.join(shared)}.",
                       "Scores on this split are too high. Split with make_folds.py.")
        else:
            report.add("note", f"The parts {row['part']} and {row['other']} of the split share no image, no pixels "
                       "and no patient, as far as is known.")
    if unmatched := matched.attrs["unmatched"]:
        report.add("warning", f"{plural(unmatched, 'row')} of {len(split):,} in the split "
                   f"{'has' if unmatched == 1 else 'have'} no image of this competition.",
                   "Only the names in these rows are compared.")
