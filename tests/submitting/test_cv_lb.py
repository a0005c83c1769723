"""CV against the leaderboard: slopes computed by hand, planted outliers, and the rate of false ones."""

from dataclasses import replace

import numpy as np
import pytest

from competition import COMPETITIONS
from submitting.cv_lb import compare, plot_agreement, report_agreement, scored_entries
from submitting.ledger import Entry, append_entry

DEMO = COMPETITIONS["demo"]


def around(cv, half_width=0.02):
    cv = np.asarray(cv, float)
    return cv, cv - half_width, cv + half_width


def test_a_score_that_follows_cv_has_slope_one_and_its_shift():
    agreement = compare(*around([0.7, 0.75, 0.8, 0.9]), np.array([0.68, 0.73, 0.78, 0.88]), 1000, 300)
    assert agreement.slope == pytest.approx(1) and agreement.shift == pytest.approx(-0.02)
    assert agreement.rank_correlation == pytest.approx(1)
    assert agreement.residuals == pytest.approx([0, 0, 0, 0], abs=1e-12) and not agreement.outliers.any()


def test_the_slope_is_the_median_of_all_pairs_slopes():
    agreement = compare(*around([0.1, 0.2, 0.4]), np.array([0.1, 0.4, 0.5]), 100, 100)
    assert agreement.slope == pytest.approx(4 / 3)  # of 3, 4/3 and 1/2
    assert compare(*around([0.1, 0.2, 0.4]), np.array([0.3, 0.1, 0.2]), 9, 9).rank_correlation == pytest.approx(-0.5)


def test_the_limit_combines_both_sampling_errors():
    agreement = compare(*around([0.8, 0.8]), np.array([0.8, 0.8]), 900, 100)
    assert agreement.allowed == pytest.approx(0.02 * np.sqrt(1 + 9))
    assert compare(*around([0.8]), np.array([0.8]), 900, float("nan")).allowed == pytest.approx(0.02)


def test_a_planted_outlier_is_found_and_no_other():
    scores = np.array([0.70, 0.75, 0.80, 0.85, 0.75])
    assert compare(*around([0.70, 0.75, 0.80, 0.85, 0.90]), scores, 500, 500).outliers.tolist() == 4 * [False] + [True]


def test_false_outliers_are_about_five_percent():
    rng, found = np.random.default_rng(0), 0
    for _ in range(400):  # ten runs, each scored on samples of its own: the worst case for the limit
        truth, error = rng.uniform(0.7, 0.9, 10), 0.01
        cv, scores = (truth + rng.normal(0, error * factor, 10) for factor in (1, 2))
        found += compare(*around(cv, 1.96 * error), scores, 400, 100).outliers.sum()
    assert 0.02 < found / 4000 < 0.06


@pytest.mark.parametrize("cv", [[0.8], [0.8, 0.9], [0.8, 0.8, 0.8]])
def test_too_few_or_equal_runs_have_no_slope(cv):
    agreement = compare(*around(cv), np.array(cv), 100, 100)
    assert np.isnan(agreement.slope) and np.isnan(agreement.rank_correlation) and agreement.shift == 0


def test_equal_scores_have_no_rank_correlation_and_unknown_intervals_no_outlier():
    agreement = compare(np.array([0.7, 0.8, 0.9]), *np.full((2, 3), np.nan), np.full(3, 0.5), 100, 100)
    assert agreement.slope == 0 and np.isnan(agreement.rank_correlation) and not agreement.outliers.any()
    assert plot_agreement(DEMO, {"public": (entries(3), agreement)}).axes


def entries(count, **more):
    return [Entry(**{"id": str(i), "state": "scored", "run": f"run{i}", "metric": "roc_auc", "cv": 0.7 + i / 100,
                     "low": 0.68, "high": 0.9, "public": 0.7 + i / 90, "sha256": "0" * 64, **more})
            for i in range(count)]


def test_only_the_newest_scored_entry_of_a_run_is_compared(home):
    good, *others = entries(4)
    for entry in (good, replace(others[0], state="pending"), replace(others[1], cv=None),
                  replace(others[2], metric="accuracy"), replace(good, id="later", public=0.6)):
        append_entry(DEMO, entry)
    assert [(entry.run, entry.public) for entry in scored_entries(DEMO)] == [("run0", 0.6)]


def test_one_score_is_enough_and_none_shows_nothing(home, capsys):
    assert report_agreement(DEMO, 100, {}) is None and capsys.readouterr().out == ""
    append_entry(DEMO, entries(1)[0])
    assert report_agreement(DEMO, 100, {}).stat().st_size > 1000
    text = capsys.readouterr().out
    assert "slope and correlation need 3 runs" in text and "the number of its images is not known" in text
