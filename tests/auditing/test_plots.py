"""The audit's plots are readable: nothing is cut off, no two texts overlap, axes have labels."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from auditing import plots

LABELS = [f"Enlarged Cardiomediastinum, number {k}" for k in range(14)]


@pytest.fixture
def drawn(monkeypatch):
    """The figures after layout; no file is written."""
    figures = []

    def keep(figure: Figure, path: Path) -> Path:
        figure.draw_without_rendering()
        figures.append(figure)
        return path

    monkeypatch.setattr(plots, "save_figure", keep)
    return figures


def counts_of(labels: list[str], images: int, seed: int) -> pd.DataFrame:
    present = np.random.default_rng(seed).integers(0, images, len(labels))
    return pd.DataFrame({"label": labels, "present": present, "absent": images - present,
                         "uncertain": 0, "blank": 0, "prevalence": present / images})


def boxes(texts: list) -> list:
    return [text.get_window_extent() for text in texts if text.get_visible() and text.get_text()]


@pytest.mark.parametrize("labels, series", [(LABELS, 4), (LABELS[:1], 2), (LABELS[:3], 6)])
def test_all_bars_have_names_and_counts(drawn, labels, series):
    by_series = {f"sampler {number}": counts_of(labels, 150_000, number) for number in range(series)}
    plots.plot_counts(by_series, "Labels in an epoch", Path("x.png"), with_absent=True)
    figure = drawn[0]
    left, right = figure.axes
    width, height = figure.get_size_inches() * figure.dpi
    for axes, names in ((left, left.get_yticklabels()), (right, [])):
        texts = boxes(axes.texts) + boxes(names)
        assert len(axes.texts) == len(labels) * series
        assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in texts)
        assert not any(a.overlaps(b) for a, b in itertools.combinations(texts, 2))
    first = by_series["sampler 0"].iloc[0]
    assert f"{first['present']:,} of 150,000" in [text.get_text() for text in left.texts]
    assert f"{100 * first['prevalence']:.1f} %" in [text.get_text() for text in right.texts]
    assert max(text.get_window_extent().x1 for text in left.texts) < right.get_window_extent().x0
    assert [text.get_text() for text in figure.legends[0].texts] == list(by_series)


def test_an_unknown_prevalence_is_written_as_unknown(drawn):
    unknown = pd.DataFrame({"label": ["a"], "present": [0], "absent": [0], "prevalence": [np.nan]})
    plots.plot_counts({"file": unknown}, "Labels", Path("x.png"))
    assert [text.get_text() for text in drawn[0].axes[1].texts] == ["unknown"]


def test_ticks_keep_fractions_of_a_percent():
    assert [plots.PERCENT(value, 0) for value in (0, 0.025, 0.05, 0.075, 0.1 + 0.2, 1)] == [
        "0%", "2.5%", "5%", "7.5%", "30%", "100%"]


def test_the_axis_of_ages_covers_only_the_ages(drawn):
    ages, cells = np.linspace(50, 80, 100), np.ones((100, 2))
    plots.plot_age_by_sex("age", ages, np.resize(["F", "M"], 100), cells, LABELS[:2], Path("x.png"))
    axes = drawn[0].axes[0]
    assert axes.get_xlim()[0] > 40 and [text.get_text() for text in drawn[0].legends[0].texts] == ["F", "M"]


@pytest.mark.parametrize("draw", [
    lambda: plots.plot_counts({part: counts_of(LABELS, 900, 7) for part in ("train", "test")}, "Labels", Path("x.png")),
    lambda: plots.plot_categories("sex", ["F", "M"], np.full((2, 14), 0.5), np.array([5, 9]), LABELS,
                                       Path("x.png")),
    lambda: plots.plot_age_by_sex("age", np.linspace(0, 99, 99), np.resize(["F", "M"], 99), np.ones((99, 14)),
                                       LABELS, Path("x.png"))])
def test_legends_cover_no_bars(drawn, draw):
    draw()
    figure = drawn[0]
    assert figure.axes[0].get_legend() is None
    assert not figure.legends[0].get_window_extent().overlaps(figure.axes[0].get_window_extent())


def test_long_combinations_are_written_on_two_lines(drawn):
    names = [" + ".join(["Lung Opacity", "Edema", middle, "Pleural Effusion", "Support Devices", "Fracture"])
             for middle in ("Pneumonia", "Atelectasis")] + [" + ".join(LABELS[:9]), " + ".join(LABELS[:10])]
    plots.plot_combinations(pd.DataFrame({"combination": names, "images": 3, "share": 0.25}), 4, Path("x.png"))
    ticks = drawn[0].axes[0].get_yticklabels()
    texts = [text.get_text() for text in ticks]
    assert [text.replace("\n", " ") for text in texts[:2]] == names[:2]
    assert all(text.count("\n") == 1 for text in texts)
    assert texts[2].startswith("Enlarged") and texts[2].endswith(names[2][-50:]) and "\n…" in texts[2]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes(ticks), 2))


def test_equal_values_fill_one_narrow_bin():
    edges = plots._bins(np.ones(50))
    filled = np.flatnonzero(np.histogram(np.ones(50), edges)[0])
    assert len(filled) == 1 and edges[filled[0] + 1] - edges[filled[0]] < 0.06
    assert edges[filled[0]] < 1 < edges[filled[0] + 1]


def test_a_correlation_rounded_to_zero_has_no_sign(drawn):
    phi = np.array([[1, -0.001, 0.95], [-0.001, 1, np.nan], [0.95, np.nan, 1]])
    plots.plot_correlation(phi, ["a", "b", "c"], Path("x.png"))
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["", ".00", ".95", ".00", "", "–", ".95", "–", ""]
