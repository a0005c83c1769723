"""A workspace reads every file once, and its tables are those of the functions that read them."""

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import leaderboard
import make_demo
import make_folds
import submit
import train
from competition import COMPETITIONS
from data import tables
from data.folds import attach_folds, read_folds
from data.tables import read_part, read_train
from experiment import Experiment
from results.workspace import Workspace
from submitting.manifest import run_inputs
from submitting.submission import fill_submission, read_template, template_inputs, write_submission
from untrained import write_untrained

DEMO = COMPETITIONS["demo"]


@pytest.fixture(scope="module")
def demo_once(tmp_path_factory) -> Path:
    """A small demo with two folds, two untrained runs, and the submission of one."""
    home = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STARTER_HOME", str(home))
        make_demo.main(["--images", "60", "--set", "test_images=30"])
        make_folds.main(["--folds", "2"])
        write_untrained(DEMO, "other", 1)
        oof, *_ = write_untrained(DEMO, "run")
        workspace = Workspace(DEMO, home / "data" / "demo")
        template = read_template(workspace)
        probs = np.random.default_rng(0).random((30, 3))
        frame, metadata = fill_submission(workspace, template, template.frame["image_id"], probs, oof.probs)
        inputs = template_inputs(DEMO, template) | {"folds": read_folds(DEMO).hash} | run_inputs(DEMO, oof, {})
        write_submission(DEMO, "run", template, frame, inputs, metadata)
    return home


@pytest.fixture
def demo(demo_once, monkeypatch) -> Path:
    """Its home folder."""
    monkeypatch.setenv("STARTER_HOME", str(demo_once))
    return demo_once


@pytest.fixture
def counts(monkeypatch) -> dict[str, Counter]:
    """How often each JSON file is read, each part's table is read, and an Experiment is built."""
    found = {"json": Counter(), "tables": Counter(), "experiments": Counter()}
    open_text, read, build = Path.read_text, tables._read_part, Experiment.__post_init__

    def count_json(path, *arguments, **options):
        if path.suffix == ".json":
            found["json"][path] += 1
        return open_text(path, *arguments, **options)

    def count_table(competition, data_dir, name):
        found["tables"][name] += 1
        return read(competition, data_dir, name)

    def count_experiment(self):
        found["experiments"]["built"] += 1
        build(self)

    monkeypatch.setattr(Path, "read_text", count_json)
    monkeypatch.setattr(tables, "_read_part", count_table)
    monkeypatch.setattr(Experiment, "__post_init__", count_experiment)
    return found


def read_more_than_once(counter: Counter) -> list[str]:
    return [str(path) for path, number in counter.items() if number > 1]


def test_a_dry_run_of_submit_reads_every_file_once(demo, counts):
    submit.main(["--experiment", "run", "--dry-run"])
    assert counts["tables"]["train"] == 1 and set(counts["tables"].values()) == {1}
    assert counts["json"] and not read_more_than_once(counts["json"])
    assert counts["experiments"]["built"] == 2  # one a fold


def test_a_leaderboard_reads_every_file_once(demo, counts):
    leaderboard.main([])
    assert counts["tables"]["train"] == 1 and set(counts["tables"].values()) == {1}
    assert counts["json"] and not read_more_than_once(counts["json"])
    assert counts["experiments"]["built"] == 4  # one a fold of two runs


def test_a_fold_of_training_builds_the_experiment_once(demo, counts):
    train.main(["--experiment", "mlp_a", "--fold", "0", "--set", "epochs=3", "--name", "counted"])
    assert counts["tables"]["train"] == 1
    assert counts["experiments"]["built"] == 1  # by --set


def test_a_pickled_workspace_keeps_what_was_read(demo, counts):
    workspace = Workspace(DEMO, demo / "data" / "demo")
    table, cells = workspace.table, workspace.cells
    copy = pickle.loads(pickle.dumps(workspace))
    pd.testing.assert_frame_equal(copy.table, table)
    np.testing.assert_array_equal(copy.cells, cells)
    assert counts["tables"]["train"] == 1


def test_shared_arrays_are_read_only(demo):
    workspace = Workspace(DEMO, demo / "data" / "demo")
    for array in (workspace.cells, workspace.label_targets, workspace.targets):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 0


def test_predicted_parts_are_test_official_validation_and_holdout(demo, monkeypatch):
    competition = replace(DEMO, name="mine", test=None, official_validation=DEMO.test)
    data = demo / "data" / "demo"
    monkeypatch.setitem(COMPETITIONS, "mine", competition)
    make_folds.main(["--competition", "mine", "--data-dir", str(data), "--folds", "2", "--holdout", "0.2"])
    workspace = Workspace(competition, data)
    assert list(workspace.predicted_parts) == ["official_validation", "holdout"]
    assert list(workspace.reported_parts) == ["holdout"]  # the other part has no labels
    validation = read_part(competition, data, "official_validation")
    pd.testing.assert_frame_equal(workspace.part("official_validation"), validation)
    whole = attach_folds(competition, read_train(competition, data)[0], read_folds(competition))
    expected = whole[whole["fold"] == -1]
    pd.testing.assert_frame_equal(workspace.holdout[expected.columns.drop("fold")],
                                  expected.drop(columns="fold").reset_index(drop=True))
    assert not set(workspace.table["image_id"]) & set(expected["image_id"])
    with pytest.raises(ValueError, match="has no test part"):
        workspace.part("test")
