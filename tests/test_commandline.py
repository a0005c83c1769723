"""How scripts end: a mistake is one line on stderr and exit code 2, a failure 1, and a bug keeps its traceback."""

import argparse
import errno
import importlib
import json
import os
import shlex
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import make_demo
import make_folds
from commandline import is_deliberate, list_fields, list_names, run_name, run_script, trained_names
from common.commands import GIVEN_DATA_DIRS, command_line
from competition import COMPETITIONS
from data.folds import folds_path
from experiment import EXPERIMENTS, Experiment
from scoring.metrics import METRICS, score
from test_architecture import SCRIPTS, SRC
from untrained import write_untrained

DEMO = COMPETITIONS["demo"]
OWN_PARSER = ("describe", "make_demo")  # without --competition and --data-dir
WITH_COMPETITION = [name for script in SCRIPTS if (name := script.removesuffix(".py")) not in OWN_PARSER]
WITH_DATA = [name for name in WITH_COMPETITION if name != "show_networks"]
WITH_FOLDS = [name for name in WITH_DATA if name not in ("audit", "make_folds", "preview", "report")]
NEEDED = {"submit": ["--experiment", "cnn_e"], "make_bundle": ["--user", "me"]}
NAMED = {"explain": ["--experiment", "cnn_b"], "show_neighbours": ["--experiment", "cnn_b"], **NEEDED}
OF_RUNS = ("predict", "decide", "explain", "find_label_errors", "find_shortcuts", "show_neighbours", "make_bundle")
WITH_EXPERIMENT = ("train", "preview", "blend", "report", "submit", *OF_RUNS)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The data folder of a small demo."""
    folder = tmp_path_factory.mktemp("data of the demo")  # blanks, so that commands must be quoted
    make_demo.main(["--data-dir", str(folder), "--images", "40", "--set", "test_images=12"])
    return folder


@pytest.fixture
def mini(home, monkeypatch):
    """The demo under another name: nothing of it is made without being asked for."""
    competition = replace(DEMO, name="mini")
    monkeypatch.setitem(COMPETITIONS, "mini", competition)
    monkeypatch.delitem(GIVEN_DATA_DIRS, "mini", raising=False)  # of a script that ran before in this process
    return competition


@pytest.fixture
def end(monkeypatch, capsys):
    """Runs a script as its last line does; returns the exit code and what it wrote to stderr."""
    def run(script: str, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [f"src/{script}.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_script(importlib.import_module(script).main)
        return ended.value.code, capsys.readouterr().err
    return run


def assert_mistake(ended: tuple[int, str], *parts: str) -> None:
    code, text = ended
    assert code == 2, text
    assert text.startswith("error: ") and text.count("\n") == 1 and text.endswith("\n"), text
    for part in parts:
        assert part in text


# ---- every script


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_ends_through_run_script(script):
    assert (SRC / script).read_text().endswith('\n\nif __name__ == "__main__":\n    run_script(main)\n')


@pytest.mark.parametrize("script", WITH_COMPETITION)
def test_an_unknown_competition_is_one_line_with_the_nearest_name(script, home, end):
    assert_mistake(end(script, "--competition", "chexprt", *NEEDED.get(script, [])), "chexprt", "did you mean chexpert")


@pytest.mark.parametrize("script", WITH_DATA)
def test_a_missing_data_folder_is_one_line_that_names_it(script, home, mini, end):
    assert_mistake(end(script, "--competition", "mini", "--data-dir", home / "none", *NEEDED.get(script, [])),
                   str(home / "none"))


@pytest.mark.parametrize("script", WITH_FOLDS)
def test_a_missing_folds_file_is_one_line_with_the_command(script, mini, data, end):
    ended = end(script, "--competition", "mini", "--data-dir", data, *NAMED.get(script, []))
    assert_mistake(ended, "folds/mini.csv", command_line("make_folds", mini, data_dir=data))


@pytest.mark.parametrize("script", WITH_DATA)
def test_a_wrong_column_is_one_line_that_names_it(script, mini, data, end, monkeypatch):
    monkeypatch.setitem(COMPETITIONS, "mini", replace(mini, id_column="no_such_column"))
    ended = end(script, "--competition", "mini", "--data-dir", data, *NAMED.get(script, []))
    assert_mistake(ended, "no_such_column")


@pytest.mark.parametrize("script", WITH_EXPERIMENT)
def test_an_unknown_experiment_is_one_line(script, mini, data, end):
    make_folds.main(["--competition", "mini", "--data-dir", str(data), "--folds", "2"])
    more = {"make_bundle": NEEDED["make_bundle"], "blend": ["--experiment", "cnn_ee", "cnn_b"]}.get(script, [])
    assert_mistake(end(script, "--competition", "mini", "--data-dir", data, "--experiment", "cnn_ee", *more), "cnn_ee")


@pytest.mark.parametrize("script", OF_RUNS)
def test_without_a_trained_run_the_line_names_the_command(script, mini, data, end):
    make_folds.main(["--competition", "mini", "--data-dir", str(data), "--folds", "2"])
    ended = end(script, "--competition", "mini", "--data-dir", data, *NEEDED.get(script, []))
    assert_mistake(ended, command_line("train", mini, data_dir=data))


# ---- single mistakes


@pytest.mark.parametrize("script", ["train", "predict"])
def test_an_unknown_fold_is_one_line(script, mini, data, end):
    make_folds.main(["--competition", "mini", "--data-dir", str(data), "--folds", "2"])
    ended = end(script, "--competition", "mini", "--data-dir", data, "--experiment", "cnn_b", "--fold", 7)
    assert_mistake(ended, "no fold 7", "0 to 1")


def test_a_truncated_image_is_one_line_that_names_the_file(mini, data, end, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(data, folder)
    image = sorted((folder / "train").rglob("*.png"))[0]
    image.write_bytes(image.read_bytes()[:60])
    assert_mistake(end("make_folds", "--competition", "mini", "--data-dir", folder), image.name)


def test_a_wrong_field_or_value_of_set_is_one_line(home, end):
    assert_mistake(end("train", "--set", "lrr=1"), "lrr", "did you mean 'lr'")
    assert_mistake(end("train", "--set", "lr=fast"), "lr=fast")


def test_a_folder_that_describe_cannot_find_is_one_line(home, end):
    assert_mistake(end("describe", home / "none"), str(home / "none"))


def test_a_wrong_setting_of_the_demo_is_one_line(home, end):
    assert_mistake(end("make_demo", "--set", "imagess=3"), "imagess")


# ---- failures, bugs and interruptions


def ending(main, monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    return ended.value.code, capsys.readouterr().err


def test_success_is_zero(monkeypatch, capsys):
    assert ending(lambda: ["something"], monkeypatch, capsys) == (0, "")


def test_a_full_disk_is_a_failure_of_one_line(monkeypatch, capsys):
    def main():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file.csv")

    code, text = ending(main, monkeypatch, capsys)
    assert code == 1 and text == "error: [Errno 28] No space left on device: 'file.csv'\n"


def test_an_interruption_is_one_line(monkeypatch, capsys):
    def main():
        raise KeyboardInterrupt

    code, text = ending(main, monkeypatch, capsys)
    assert code == 130 and text.count("\n") == 1


@pytest.mark.parametrize("bug", [lambda: int("x"), lambda: json.loads("{"), lambda: np.zeros(3).reshape(2, 2),
                                 lambda: {}["key"], lambda: [][0], lambda: None.name])
def test_a_bug_keeps_its_traceback(bug, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script"])
    with pytest.raises((ValueError, KeyError, IndexError, AttributeError)):
        run_script(bug)


def wrong_metric():
    score("no_such_metric", np.zeros((2, 1)), np.zeros((2, 1)), "binary")


def check_of_ours():
    make_folds.main(["--competition", "no_such"])


@pytest.mark.parametrize("arguments, variable", [(["--traceback"], ""), ([], "1")])
def test_a_flag_or_a_variable_shows_the_traceback(arguments, variable, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    monkeypatch.setenv("STARTER_TRACEBACK", variable)
    with pytest.raises(ValueError, match="no_such"):
        run_script(check_of_ours)


def test_only_our_raise_statements_are_deliberate():
    for call, expected in ((check_of_ours, True), (lambda: int("x"), False), (lambda: json.loads("{"), False)):
        with pytest.raises(ValueError) as raised:
            call()
        assert is_deliberate(raised.value) is expected


# ---- flags, names and commands


def test_run_names_tell_the_changes_and_no_more():
    assert run_name("lite0", []) == "lite0"
    assert run_name("lite0", ["lr=3e-4"]) == "lite0_lr=3e-4"
    assert run_name("lite0", ["lr=3e-4", "epochs=8"]) == run_name("lite0", ["epochs=8", "lr=3e-4"])
    assert run_name("lite0", ["weights=a/b.pt"]) == "lite0_weights=a-b.pt"
    long = [run_name("lite0", [f"stages={'all:1:1,' * 30}all:{last}:1"]) for last in (1, 2)]
    assert len(set(long)) == 2 and max(map(len, long)) <= 80


def test_commands_quote_what_needs_it_and_leave_out_what_is_empty(mini, data):
    text = command_line("train", mini, data_dir=data, experiment=["a", "b"], set=(), fold=[0], quick=True, name=None)
    assert shlex.split(text) == ["python", "src/train.py", "--competition", "mini", "--data-dir", str(data),
                                 "--experiment", "a", "b", "--fold", "0", "--quick"]


def test_list_names_everything():
    text = list_names()
    assert all(name in text for name in (*COMPETITIONS, *EXPERIMENTS, *METRICS))


def test_fields_lists_every_field_with_its_default():
    lines = list_fields().splitlines()
    listed = {line.split()[0]: line for line in lines[1:] if not line.startswith(" ")}
    assert list(listed) == [each.name for each in fields(Experiment)]
    assert listed["lr"].split()[1] == "0.001" and "focal:GAMMA" in list_fields()
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_fits_a_screen(script, home, end, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(script.removesuffix(".py")).main()
    assert len(capsys.readouterr().out.splitlines()) <= 40


def test_suggested_commands_run_as_printed(mini, data, end, capsys):
    """From nothing to a leaderboard by the commands that the scripts print, in another data folder."""
    code, text = end("leaderboard", "--competition", "mini", "--data-dir", data)
    assert code == 2
    done = []
    while "run: " in text and len(done) < 4:
        words = shlex.split(text.split("run: ")[1].strip())
        script = Path(words[1]).stem
        done.append(script)
        code, text = end(script, *words[2:]) if script == "make_folds" else (0, "")
    assert done == ["make_folds"] and folds_path(mini).exists()
    write_untrained_here(mini, data)
    code, text = end("decide", "--competition", "mini", "--data-dir", data, "--experiment", "part")
    words = shlex.split(text.split("run: ")[1].strip())
    assert words[:6] == ["python", "src/train.py", "--competition", "mini", "--data-dir", str(data)]
    assert words[6:] == ["--experiment", "cnn_b", "--set", "seed=3", "--name", "part", "--fold", "1"]


def write_untrained_here(competition, data: Path) -> None:
    """A run with its own --set of which one fold is missing."""
    target = folds_path(competition).parents[1] / "data" / competition.name
    target.parent.mkdir(exist_ok=True)
    target.symlink_to(data)
    write_untrained(competition, "part")
    folder = folds_path(competition).parents[1] / "runs" / competition.name / "part"
    (folder / "fold1" / "result.json").unlink()
    for fold in range(2):
        recipe = json.loads((folder / f"fold{fold}" / "recipe.json").read_text())
        recipe["command"] = command_line("train", competition, data_dir=data, experiment="cnn_b", set=["seed=3"],
                                         name="part")
        (folder / f"fold{fold}" / "recipe.json").write_text(json.dumps(recipe))


def test_trained_runs_beside_the_list_are_named(home, mini):
    args = argparse.Namespace(competition="mini", experiment=None)
    with pytest.raises(FileNotFoundError, match=r"lite0, .*\); run: python src/train.py --competition mini$"):
        trained_names(args)
    folder = home / "runs" / "mini" / "lite0_epochs=1" / "fold0"
    folder.mkdir(parents=True)
    for name in ("recipe.json", "result.json"):
        (folder / name).touch()
    with pytest.raises(FileNotFoundError, match="name another run with --experiment: lite0_epochs=1; or run: python"):
        trained_names(args)
    with pytest.raises(FileNotFoundError, match=r"all 2 folds .*\); run: python"):
        trained_names(args, all_folds=2)
