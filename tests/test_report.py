"""The report: one self-contained page with all results, notes on damaged files, and a check in a browser."""

import importlib.util
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

import decide
import leaderboard
import report
from common.files import sha256, write_json
from competition import COMPETITIONS, Competition, Part
from data.demo import DemoSettings, make_demo
from data.folds import Folds, make_folds
from data.pixel_store import PixelSettings, open_store
from data.tables import read_train
from reporting.context import ReportContext, compact, pick_runs
from reporting.html import (
    MOST_BYTES,
    Markup,
    ReportFigure,
    Section,
    SummaryTile,
    check_picture,
    matrix,
    panels,
    render,
    table,
)
from reporting.svg import Chart, interval_bar, nice_ticks
from results.runs import Oof, read_run, write_blend
from results.workspace import Workspace
from scoring.confidence_intervals import bootstrap_counts
from scoring.curves import GRID, f1_at, precision_recall_curves, roc_curves
from scoring.metrics import f1_by_label
from submitting.ledger import Entry, append_entry
from untrained import write_untrained
from workspaces import filled_workspace

DEMO = COMPETITIONS["demo"]
HOSTILE = "<script>alert(1)</script>\"'&"


# ---- a home with everything in it


def draw_few(monkeypatch) -> None:
    monkeypatch.setattr("scoring.curves.REPLICATES", 40)
    monkeypatch.setattr("scoring.curves.BANDS", 40)


def noise(path: Path, side: int = 40, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def rows_to(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A small demo with two runs of chance, their mean, a leaderboard and decisions."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STARTER_HOME", str(folder))
        settings = DemoSettings(images=60, test_images=10, size=32)
        train, _ = read_train(DEMO, make_demo(folder / "data" / "demo", settings, workers=1))
        make_folds(DEMO, train, open_store("demo-train", train, PixelSettings(32, 1)), n_folds=2, seed=0)
        oofs = []
        for seed, name in enumerate(("one", "two")):
            oof, images, folds = write_untrained(DEMO, name, seed)
            oofs.append(oof)
            for run in oof.runs:
                rows_to(run.folder / "log.csv", [{"epoch": epoch, "stage": "all", "loss": 1 / epoch, "val_score": "",
                                                  "seconds": epoch} for epoch in (1, 2, 3)])
        mean = Oof("blend_mean", np.mean([oof.probs for oof in oofs], axis=0),
                   tuple(run for oof in oofs for run in oof.runs), (), ("one", "two"), "mean")
        write_blend(DEMO, mean, images["image_id"], folds.hash)
        leaderboard.main([])
        decide.main(["--experiment", "one"])
    return folder


@pytest.fixture
def small(home, made, monkeypatch) -> Path:
    draw_few(monkeypatch)
    shutil.copytree(made, home, dirs_exist_ok=True)
    return home


@pytest.fixture
def full(small) -> Path:
    """The same with what the other scripts leave."""
    runs = small / "runs" / "demo"
    folds = read_run(runs / "one" / "fold0").recipe["folds_sha256"]
    weights = {f"one/fold{fold}": read_run(runs / "one" / f"fold{fold}").result["weights_sha256"] for fold in (0, 1)}
    for name in ("label_prevalence", "column_age"):
        noise(runs / "audit" / f"{name}.png")
    write_json(runs / "audit" / "audit.json", {
        "findings": [{"severity": "note", "what": "a small thing", "todo": "", "examples": []},
                     {"severity": "error", "what": HOSTILE, "todo": "mend it", "examples": [HOSTILE]}],
        "inputs": {"parts": {"train": {"images": 60}}}, "plots": ["label_prevalence.png", "column_age.png"]})
    for name in ("gradcam.png", "neighbours.png", "label_errors.png", "look_img_1.png"):
        noise(runs / "one" / name)
    rows_to(runs / "one" / "pointing.csv", [{"label": "all", "images": 9, "empty": 0, "low": 0.1, "high": 0.3,
                                             "inside": 0.2, "chance": 0.05, "best_guess": 0.3}])
    write_json(runs / "one" / "gradcam.json", {"made_from": {"weights": weights},
                                               "files": ["gradcam.png", "pointing.csv"]})
    rows_to(runs / "one" / "measures.csv", [{"method": "occlusion", "images": 5, "empty": 0} | {
        f"{key}{end}": 0.5 for key in ("inside", "share_inside", "deletion", "insertion", "randomised")
        for end in ("", "_low", "_high")}])
    rows_to(runs / "one" / "label_errors.csv", [{"image_id": HOSTILE, "group": "p", "label": "effusion", "given": 1,
                                                 "suggested": 0, "prob_of_given": 0.01, "quality": 0.01}])
    detection = {"part": "train", "method": "density", "images": 50, "anomalies": 20} | {
        f"{key}{end}": 0.5 for key in ("roc_auc", "average_precision", "sensitivity", "specificity")
        for end in ("", "_low", "_high")}
    write_json(runs / "anomaly" / "detection.json", {"normal": "normal: none", "folds": folds, "rows": [detection]})
    for name in ("scores_train", "reconstructions"):
        noise(runs / "anomaly" / f"{name}.png")
    rows_to(runs / "one" / "shortcuts.csv", [{"label": "effusion", "signal": "alone", "where": where, "value": 0.6,
                                              "low": 0.56, "high": 0.7, "images": 60, "threshold": 0.55, "alarm": alarm}
                                             for where, alarm in (("border", True), ("upper left", False))])
    noise(runs / "one" / "shortcuts.png")
    noise(runs / "forecast.png")
    board = pd.read_csv(runs / "leaderboard.csv").set_index("run")
    rows_to(runs / "forecast.csv", [{"run": "one", "cv": board.loc["one", "cv"], "is_best": 0.5} | {
        f"{part}_{end}": 0.5 for part in ("public", "private", "gap") for end in ("low", "high")}])
    submission = small / "submissions" / "demo-one.csv"
    submission.parent.mkdir(exist_ok=True)
    submission.write_text("image_id,effusion\n")
    write_json(submission.with_suffix(".json"), {
        "submission": submission.name, "sha256": sha256(submission.read_bytes()), "warnings": [HOSTILE],
        "inputs": {"kind": "probs", "members": [], "weights": weights, "folds": folds}, "oof": {"roc_auc": 0.5}})
    return small


class Page(HTMLParser):
    """The text and tags of a page; raises if tags are not closed in order."""

    EMPTY = {"meta", "link", "img", "wbr", "br", "line", "circle", "polyline", "polygon"}

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert self.open == ["html"][:len(self.open)], f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def parts(self) -> set[str]:
        return {attributes["id"] for tag, attributes in self.tags if tag == "section"}


def read_page(*arguments: str) -> tuple[Page, str]:
    text = report.main(list(arguments)).read_text(encoding="utf-8")
    return Page(text), text


ALWAYS = {"folds", "leaderboard", "learning", "curves", "confusion", "calibration", "thresholds", "ensembles",
          "missing"}
MADE = {"audit", "explanations", "map", "label-errors", "anomalies", "forecast", "submissions", "shortcuts"}


# ---- the page


def test_a_section_without_results_is_listed_with_its_command(small):
    page, _ = read_page()
    assert page.parts() == ALWAYS
    for command in ("audit.py", "explain.py", "show_neighbours.py", "find_anomalies.py",
                    "leaderboard.py --competition demo --for"):
        assert f"python src/{command}" in page.text


def test_all_results_are_on_the_page(full):
    page, text = read_page()
    assert page.parts() >= (ALWAYS - {"missing"}) | MADE
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 10 and all(image["src"].startswith("data:image/") and image["alt"] for image in images)
    assert "img_1: maps of every method" in page.text
    linked = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a" and attributes["href"][0] == "#"}
    assert linked <= page.parts() and linked >= MADE
    assert "one: 1 of 2 signals raises an alarm" in page.text


def test_the_page_loads_nothing_from_outside(full):
    page, text = read_page()
    for _, attributes in page.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert re.match(r"data:|#|$", attributes.get(name) or ""), attributes
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket", text)
    assert "default-src 'none'" in text


def test_text_from_files_is_escaped(full):
    page, text = read_page()
    assert "<script>alert" not in text and "alert(1)" in page.text
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_the_same_inputs_give_the_same_bytes(full):
    assert read_page()[1] == read_page()[1]


def test_template_syntax_in_a_label_stays_text():
    page = render("{{ title }}", Markup("<p>{{ script }}</p>"), [SummaryTile("a", "{% if x %}")], ["{# no #}"], [])
    assert Page(page).text.count("{") == 8 and page.count("{{ title }}") == 2


def test_the_summary_has_score_and_interval_of_the_best_run(small):
    page, _ = read_page()
    board = pd.read_csv(small / "runs" / "demo" / "leaderboard.csv")
    best = board[board["rank"] == 1].iloc[0]
    assert f"best run {best['run'].replace('_', '_ ')}" in page.text or f"best run {best['run']}" in page.text
    assert f"{best['cv']:.4f}" in page.text and f"{best['low']:.4f} to {best['high']:.4f}" in page.text


def test_named_runs_are_shown(small):
    page, text = read_page("--experiment", "two")
    assert "python src/report.py --competition demo --experiment two" in page.text
    assert '<i class="c0"></i>two' in text and '<i class="c1"></i>one' not in text
    with pytest.raises(ValueError, match="no run 'three'.*there are .*one"):
        report.main(["--experiment", "three"])


def test_the_best_runs_are_found_without_a_leaderboard(small):
    by_board, _ = read_page()
    (small / "runs" / "demo" / "leaderboard.csv").unlink()
    without, _ = read_page()
    best = re.search(r"best run (\S+)", by_board.text)[1]
    assert f"best run {best}" in without.text and "There is no leaderboard.csv yet" in without.text


def test_the_page_without_runs_has_folds_and_commands(small):
    shutil.rmtree(small / "runs" / "demo")
    page, _ = read_page()
    assert page.parts() == {"folds", "leaderboard", "missing"} and "No run has all its folds yet" in page.text


def test_the_audit_is_shown_without_folds(full):
    (full / "folds" / "demo.csv").write_text("image_id,fold\n")
    page, _ = read_page()
    assert page.parts() == {"audit"} and "Nothing about runs can be shown" in page.text


def test_a_wrong_data_folder_raises_and_keeps_the_previous_report(full, tmp_path):
    path = report.main([])
    before = path.read_bytes()
    with pytest.raises((ValueError, FileNotFoundError)):
        report.main(["--data-dir", str(tmp_path / "nowhere")])
    assert path.read_bytes() == before


def test_notes_are_printed_too(full, capsys):
    (full / "runs" / "demo" / "forecast.png").write_bytes(b"no picture")
    report.main([])
    printed = capsys.readouterr().out
    assert "note: " in printed and "forecast.png is not an image" in printed and "report.html" in printed


def test_the_submissions_section_shows_the_ledger_and_its_plot(full):
    entry = Entry(id="1", date="2020-01-02 03:04:05", state="scored", run="one", metric="roc_auc", cv=0.5, low=0.4,
                  high=0.6, public=0.51, private=0.52, message=HOSTILE, sha256="0" * 64)
    append_entry(DEMO, entry)
    noise(full / "runs" / "demo" / "cv_lb.png")
    page, text = read_page()
    assert "2020-01-02 03:04:05" in page.text and "0.5200" in page.text and 'alt="cv_lb.png"' in text
    assert "<script>alert" not in text


def test_a_changed_picture_is_read_anew(full):
    first = read_page()[1]
    noise(full / "runs" / "demo" / "forecast.png", seed=9)
    assert read_page()[1] != first


# ---- damaged and outdated files


INPUTS = [  # each list is damaged at once; a file and the section that must name it
    [("audit/audit.json", "audit"), ("one/gradcam.json", "explanations"),
     ("one/measures.csv", "explanations"), ("one/neighbours.png", "map"), ("one/label_errors.csv", "label-errors"),
     ("anomaly/detection.json", "anomalies"), ("forecast.csv", "forecast"),
     ("one/fold0/log.csv", "learning"), ("one/shortcuts.csv", "shortcuts"),
     ("../../submissions/demo-one.json", "submissions")],
    [("audit/label_prevalence.png", "audit"), ("one/gradcam.png", "explanations"), ("one/pointing.csv", "explanations"),
     ("one/look_img_1.png", "explanations"), ("one/label_errors.png", "label-errors"), ("forecast.png", "forecast"),
     ("anomaly/reconstructions.png", "anomalies"), ("leaderboard.csv", "leaderboard"),
     ("blend_mean/blend.json", "ensembles")]]


@pytest.mark.parametrize("files", INPUTS, ids=["first", "second"])
@pytest.mark.parametrize("damage", ["cut off", "of another shape"])
def test_a_damaged_file_becomes_a_note_in_its_section(full, files, damage):
    for file, _ in files:
        path = full / "runs" / "demo" / file
        raw = path.read_bytes()
        other = {".json": b'{"a": 1}', ".csv": b"a,b\n1,2\n", ".png": b"no picture"}[path.suffix]
        path.write_bytes(raw[:len(raw) // 2 - 2] if damage == "cut off" else other)
    page, text = read_page("--experiment", "one", "two")
    for file, part in files:
        section = text[text.index(f'id="{part}"'):]
        notes = re.findall(r'<p class="note">(.*?)</p>', section[:section.index("</section>")])
        assert any(Path(file).name in note for note in notes), f"{part} does not name {file}: {notes}"
        assert f'href="#{part}"' in text
    assert page.parts() >= ALWAYS - {"missing"}


@pytest.mark.parametrize("damage", ['{"a": 1}', '{"use": {"deci'])
@pytest.mark.parametrize("file", ["two/decisions.json", "two/fold0/result.json"])
def test_a_damaged_run_does_not_hide_the_others(small, file, damage):
    (small / "runs" / "demo" / file).write_text(damage)
    page, text = read_page("--experiment", "one", "two")
    notes = " ".join(re.findall(r'<p class="note">(.*?)</p>', text))
    assert Path(file).name in notes or "two is not shown" in notes
    assert ("best of those named" in page.text or "as named" in page.text) and page.parts() >= ALWAYS - {"missing"}


def test_every_missing_picture_is_named(full):
    files = ["audit/column_age.png", "one/gradcam.png", "anomaly/scores_train.png", "forecast.png",
             "one/label_errors.png"]
    for file in files:
        (full / "runs" / "demo" / file).unlink()
    notes = " ".join(re.findall(r'<p class="note">(.*?)</p>', read_page()[1]))
    assert all(Path(file).name in notes for file in files)


def test_a_run_on_other_folds_does_not_hide_the_others(small):
    path = small / "runs" / "demo" / "two" / "fold1" / "recipe.json"
    write_json(path, json.loads(path.read_text()) | {"folds_sha256": "0" * 64})
    page, _ = read_page("--experiment", "one", "two")
    assert "two is not shown" in page.text and "another folds file" in page.text and "run one as named" in page.text


def test_an_outdated_leaderboard_is_noted(small):
    path = small / "runs" / "demo" / "leaderboard.csv"
    board = pd.read_csv(path)
    board.loc[board["run"] == "two", "cv"] = 0.9
    board[board["run"] != "blend_mean"].to_csv(path, index=False)
    page, _ = read_page()
    assert "leaderboard.csv lacks blend_mean" in page.text
    assert "leaderboard.csv has 0.9000 for two, whose predictions now score" in page.text


def test_results_of_other_weights_are_noted(full):
    path = full / "runs" / "demo" / "one" / "fold0" / "result.json"
    write_json(path, json.loads(path.read_text()) | {"weights_sha256": "1" * 64})
    shutil.rmtree(full / "runs" / "demo" / "blend_mean")
    page, _ = read_page()
    assert "decisions.json is from other predictions" in page.text
    assert "Grad-CAM sheets are from other models" in page.text and "made from other weights" in page.text


def test_a_changed_submission_is_noted(full):
    (full / "submissions" / "demo-one.csv").write_text("image_id,effusion\nx,1\n")
    assert "changed since it was made" in read_page()[0].text


# ---- many labels, many runs, large pictures


def large_context(labels: int = 14, images: int = 1000, runs: int = 200) -> ReportContext:
    names = tuple(f"label {k}" for k in range(labels - 1)) + (HOSTILE,)
    competition = Competition(name="large", about=HOSTILE, task="multilabel", labels=names, metric="roc_auc",
                              train=Part(table="t.csv", images="{image_id}.png"))
    rng = np.random.default_rng(0)
    cells = (rng.random((images, labels)) < 0.1).astype(float)
    table = pd.DataFrame(cells, columns=list(names)).assign(
        image_id=[f"i{row}" for row in range(images)], group=[f"g{row // 2}" for row in range(images)],
        fold=np.arange(images) // 2 % 5, constant=False)
    oofs = {f"run{number}": Oof(f"run{number}", np.clip(0.3 * cells + 0.7 * rng.random(cells.shape), 0, 1), (), ())
            for number in range(3)}
    board = pd.DataFrame([{"rank": str(number + 1), "run": f"run{number}", "status": "whole", "cv": "0.7", "low": "0.6",
                           "high": "0.8", "fold_mean": "0.7", "fold_sd": "0.01", "seconds": "60", "parameters": "4e6",
                           "brier": "0.1", "f1_crossfit": "0.4", "not_learned": "0"} for number in range(runs)])
    folds = Folds(Path("large.csv"), "f" * 64, 5, {"made_by": {"rule": "grouped", "seed": 0}})
    return ReportContext(filled_workspace(competition, table, folds=folds), "--competition large", board, oofs)


def test_a_large_report_stays_below_the_size_limit(home, monkeypatch):
    draw_few(monkeypatch)
    shown = large_context()
    parts = [part for _, part, _ in report.make_sections(shown) if part is not None]
    about = report.describe(shown.competition, "command")
    text = render("large", about, report.summarise(shown), [], parts)
    assert len(text.encode()) < 2_000_000 and "<script>alert" not in text
    page = Page(text)
    assert page.parts() >= {"folds", "leaderboard", "curves", "confusion", "calibration", "thresholds"}
    assert not any("could not be created" in note for part in parts for note in part.notes)
    assert [tag for tag, _ in page.tags].count("svg") == 200 + 14 + 4 * 14


@pytest.mark.parametrize("side", [40, 700])
def test_large_pictures_shrink_or_are_left_out(tmp_path, monkeypatch, side):
    paths = [noise(tmp_path / f"{number}.png", side, number) for number in range(2)]
    part = Section("p", "P", blocks=[ReportFigure(check_picture(path), "read it so", ("make it",)) for path in paths])
    whole = render("t", Markup(""), [], [], [part])
    limit = len(whole) - 100_000 if side == 700 else 20_000
    assert len(whole) < MOST_BYTES and whole.count("<img") == 2
    monkeypatch.setattr("reporting.html.MOST_BYTES", limit)
    less = render("t", Markup(""), [], [], [part])
    if side == 700:
        assert len(less.encode()) <= limit and less.count("<img") == 2 and 'width="600"' in less
    else:
        assert all(f"left out, the page would be too large: {path}" in less for path in paths)


def test_a_multiclass_competition_has_one_matrix_for_each_run(home):
    shown = large_context(labels=4, images=400, runs=3)
    competition = Competition(name="classes", about="", task="multiclass", labels=("a", "b", "c", "d"),
                              metric="accuracy", train=Part(table="t.csv", images="{image_id}.png"))
    truth = np.random.default_rng(1).integers(0, 4, len(shown.table))
    table = shown.table.drop(columns=list(shown.competition.labels)).assign(
        **{label: (truth == k).astype(float) for k, label in enumerate("abcd")})
    oofs = {name: Oof(name, oof.probs / oof.probs.sum(axis=1, keepdims=True), (), ())
            for name, oof in shown.oofs.items()}
    workspace = filled_workspace(competition, table, folds=shown.folds)
    parts = report.make_sections(ReportContext(workspace, "", shown.board, oofs))
    parts = [part for _, part, _ in parts if part]
    confusion = next(part for part in parts if part.name == "confusion")
    assert confusion.blocks[0].content.count("<table") == 3 and not confusion.notes
    assert not any(note for part in parts for note in part.notes if "could not be created" in note)


@pytest.mark.parametrize("cells", [np.zeros((6, 1)), np.full((6, 1), np.nan)])
def test_labels_with_one_class_have_no_curve_in_the_report(home, cells):
    shown = large_context(labels=2, images=6, runs=1)
    table = shown.table.assign(**{shown.competition.labels[0]: cells[:, 0],
                                  shown.competition.labels[1]: [0, 1, 0, 1, 1, 0.0]})
    workspace = filled_workspace(shown.competition, table, folds=shown.folds)
    parts = [part for _, part, _ in report.make_sections(ReportContext(workspace, "", shown.board, shown.oofs)) if part]
    assert not any("could not be created" in note for part in parts for note in part.notes)
    assert "one class only: no curve" in next(part for part in parts if part.name == "curves").blocks[2].content


# ---- pieces


def test_tables_escape_cells_and_align_numbers_right():
    text = table(["run", "CV", "interval"], [["<b>", "0.8123", "0.79 to 0.83"], ["x", "-", "-"]])
    assert "&lt;b&gt;" in text and text.count('<td class="n">') == 4 and text.count("<td>") == 2
    assert matrix("", ["<", "b"], [[1, 3], [0, 2]]).count("75%") == 1 and "&lt;" in matrix("", ["<"], [[1]])
    assert "&lt;i&gt;" in (text := panels([("<i>", "<u>", Markup("<svg></svg>"))])) and "<svg></svg>" in text


def test_large_counts_are_in_thousands_or_millions():
    assert [compact(3_374_275), compact("102263"), compact(12), compact("")] == ["3.37 M", "102 k", "12", "-"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.0, 0.731), (1, 20), (-0.02, 0.03), (0, 5000)])
def test_ticks_are_few_round_and_within_the_axis(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 6 and low <= min(ticks) and max(ticks) <= high + 1e-9
    assert len({round(float(step), 9) for step in np.diff(ticks)}) == 1


def test_lines_break_at_nan_and_are_clipped_to_the_axes():
    chart = Chart((0, 1), (0, 1), 100, 100)
    chart.line(np.arange(6) / 5, np.array([0, 0.5, np.nan, 0.5, 2, -1]), "c0")
    chart.dots(np.array([0.5, np.nan]), np.array([0.5, 0.5]), "c0")
    drawn = chart.svg(HOSTILE, "x", "y", [0, 1], [0, 1])
    assert drawn.count("<polyline") == 2 and drawn.count("<circle") == 1 and "<script>" not in drawn
    heights = [float(pair.split(",")[1]) for line in re.findall(r'points="([^"]*)"', drawn) for pair in line.split()]
    assert min(heights) >= 8 and max(heights) <= 108
    assert "nan" not in interval_bar(float("nan"), float("nan"), float("nan"), (0, 1), [(float("nan"), "c1")])


def test_a_long_line_is_reduced_and_keeps_its_ends():
    chart = Chart((0, 1), (0, 1), 1000, 1000)
    chart.line(np.linspace(0, 1, 5000), np.linspace(0, 1, 5000) ** 2, "c0")
    points = re.search(r'points="([^"]*)"', chart.shapes[0])[1].split()
    assert len(points) <= 152 and points[0] == "34.0,1008.0" and points[-1] == "1034.0,8.0"


# ---- curves


def some_scores(count: int = 120, seed: int = 0, ties: bool = False):
    rng = np.random.default_rng(seed)
    targets = (rng.random((count, 2)) < (0.4, 0.2)).astype(float)
    targets[:5, 1] = np.nan
    probs = np.clip(0.3 * np.nan_to_num(targets) + 0.6 * rng.random(targets.shape), 0, 1)
    return targets, np.round(probs, 1) if ties else probs, np.array([f"p{row // 3}" for row in range(count)])


@pytest.mark.parametrize("ties", [False, True])
def test_curves_and_areas_equal_scikit_learn(ties, monkeypatch):
    draw_few(monkeypatch)
    targets, probs, groups = some_scores(ties=ties)
    for k, (roc, pr) in enumerate(zip(roc_curves(targets, probs, groups),
                                      precision_recall_curves(targets, probs, groups), strict=True)):
        known = ~np.isnan(targets[:, k])
        truth, scores = targets[known, k], probs[known, k]
        x, y, _ = roc_curve(truth, scores)
        np.testing.assert_allclose(np.interp(GRID[1:-1], roc.x, roc.y), np.interp(GRID[1:-1], x, y), atol=1e-12)
        assert roc.area == pytest.approx(roc_auc_score(truth, scores)) and roc.area_low < roc.area < roc.area_high
        assert pr.area == pytest.approx(average_precision_score(truth, scores))
        steps = np.trapezoid(pr.y, pr.x) if hasattr(np, "trapezoid") else np.trapz(pr.y, pr.x)
        assert steps == pytest.approx(pr.area), "the area under the steps is the average precision"


@pytest.mark.parametrize("ties", [False, True])
def test_bands_equal_bootstrap_quantiles_of_scikit_learn_curves(ties, monkeypatch):
    draw_few(monkeypatch)
    targets, probs, groups = some_scores(ties=ties)
    targets, probs = targets[:, :1], probs[:, :1]
    rocs, prs = [], []
    for weights in bootstrap_counts(groups, 40):
        x, y, _ = roc_curve(targets[:, 0], probs[:, 0], sample_weight=weights, drop_intermediate=False)
        rocs.append(np.interp(GRID, x, y))
        precision, recall, _ = precision_recall_curve(targets[:, 0], probs[:, 0], sample_weight=weights)
        order = np.argsort(recall[:-1], kind="stable")
        precision, recall = precision[:-1][order], recall[:-1][order]
        prs.append([max(precision[recall == recall[recall >= g - 1e-12].min()]) for g in GRID])
    roc, pr = roc_curves(targets, probs, groups)[0], precision_recall_curves(targets, probs, groups)[0]
    for curve, each in ((roc, rocs), (pr, prs)):
        low, high = np.quantile(each, [0.025, 0.975], axis=0)
        np.testing.assert_allclose(curve.low[1:], low[1:], atol=1e-9)
        np.testing.assert_allclose(curve.high[1:], high[1:], atol=1e-9)


def test_bands_of_many_images_contain_the_curve(monkeypatch):
    draw_few(monkeypatch)
    targets, probs, groups = some_scores(20_000, seed=3)
    curve = roc_curves(targets, probs, groups)[0]
    middle = np.interp(GRID, curve.x, curve.y)
    assert (curve.low <= middle + 2e-3).all() and (middle <= curve.high + 2e-3).all()
    assert np.nanmax(curve.high - curve.low) < 0.05


def test_f1_by_threshold_equals_scikit_learn():
    targets, probs, _ = some_scores(ties=True)
    cuts = np.array([0, 0.1, 0.25, 0.5, 0.9, 1.0])
    for k in range(2):
        expected = [f1_by_label(targets[:, [k]], (probs[:, [k]] >= cut).astype(np.int8))[0] for cut in cuts]
        np.testing.assert_allclose(f1_at(cuts, targets[:, k], probs[:, k]), expected)
    assert np.isnan(f1_at(cuts, np.zeros(3), np.ones(3))).all()


def test_a_label_of_one_class_has_no_curve():
    targets, probs, groups = some_scores()
    targets[:, 0] = 0
    for make in (roc_curves, precision_recall_curves):
        first, second = make(targets, probs, groups)
        assert np.isnan(first.area) and np.isnan(first.low).all() and not np.isnan(second.area)


def test_the_best_runs_include_a_single_run(small):
    _, images, _ = write_untrained(DEMO, "three", 7)
    for name in ("x_mean", "y_mean", "z_mean"):
        shutil.copytree(small / "runs" / "demo" / "blend_mean", small / "runs" / "demo" / name)
        frame = pd.read_csv(small / "runs" / "demo" / name / "oof.csv", dtype={"image_id": str}).set_index("image_id")
        for label in DEMO.labels:
            frame[label] = (images.set_index("image_id")[label].reindex(frame.index) == 1) * 0.5 + 0.25
        frame.reset_index().to_csv(small / "runs" / "demo" / name / "oof.csv", index=False)
        record = json.loads((small / "runs" / "demo" / name / "blend.json").read_text())
        write_json(small / "runs" / "demo" / name / "blend.json", record | {
            "oof_sha256": sha256((small / "runs" / "demo" / name / "oof.csv").read_bytes())})
    oofs, failed = pick_runs(Workspace(DEMO, small / "data" / "demo"), None, None)
    assert len(oofs) == 3 and not failed
    assert [bool(oof.members) for oof in oofs.values()] == [True, True, False]


# ---- a browser's opinion


def chromium(playwright):
    """A headless browser; skips if none is installed. CHROMIUM names another executable."""
    from playwright.sync_api import Error

    try:
        return playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox"])
    except Error as error:
        pytest.skip(f"no browser: {str(error).splitlines()[0]}")


@pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page_without_errors_or_requests(full, scheme, tmp_path):
    from playwright.sync_api import sync_playwright

    path = report.main([])
    with sync_playwright() as playwright:
        browser = chromium(playwright)
        for width in (400, 1400):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            messages, requests = [], []
            page.on("console", lambda message, messages=messages: messages.append(message.text))
            page.on("pageerror", lambda error, messages=messages: messages.append(str(error)))
            page.on("request", lambda request, requests=requests: requests.append(request.url))
            page.goto(path.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
            assert messages == []
            assert {address for address in requests if not address.startswith("data:")} == {path.as_uri()}
            sizes = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
            assert len(sizes) == 10 and all(sizes)
            assert page.evaluate("document.documentElement.scrollWidth") == width, "the page is wider than the screen"
            page.locator(".card").first.click()
            assert page.locator(".card.near").count() == 1
            back = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (back == "rgb(255, 255, 255)") == (scheme == "light")
            page.emulate_media(media="print", color_scheme=scheme)
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert len(page.pdf()) > 10_000
        browser.close()
