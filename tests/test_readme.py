"""The README and run.sh speak of files, flags and names that exist."""

import importlib
import re
import shlex
import subprocess
import sys

import pytest

from competition import COMPETITIONS
from experiment import EXPERIMENTS
from real_data import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"python (?:src|tests/benchmarks)/\w+\.py[^\n`#|]*",
                                 README + (ROOT / "run.sh").read_text())))


def arguments(command: str) -> tuple[str, list[str]]:
    words = [word for word in shlex.split(command) if not word.startswith("$")]
    return words[1], words[2:]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_a_script_and_flags_that_exist(command):
    script, words = arguments(command)
    assert (ROOT / script).exists()
    text = (ROOT / script).read_text() + (ROOT / "src" / "commandline.py").read_text()
    for flag in (word for word in words if word.startswith("--")):
        assert flag == "--help" or f'"{flag}"' in text, f"{script} has no {flag}"


def test_every_experiment_and_competition_the_readme_commands_name_exists():
    for flag, known in (("--experiment", {*EXPERIMENTS, "all", "NAME"}),
                        ("--competition", {*COMPETITIONS, "NAME", "mine"})):
        for names in re.findall(flag + r"((?: [a-z_0-9A-Z]+)+)", README):
            assert set(names.split()) <= known, f"{flag}{names}"


def test_the_tree_in_the_readme_is_the_tree():
    listed = set(re.findall(r"^  (\w+\.py) ", README, re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "src").glob("*.py")}


@pytest.mark.parametrize("script", sorted((ROOT / "tests" / "benchmarks").glob("*.py")), ids=lambda script: script.stem)
def test_a_benchmark_starts(script):
    """What it imports is there; that it runs to its end is for whoever measures."""
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_run_sh_is_sound_bash():
    subprocess.run(["bash", "-n", str(ROOT / "run.sh")], check=True)


def test_every_script_has_a_main_that_takes_arguments():
    for script in re.findall(r"src/(\w+)\.py", (ROOT / "run.sh").read_text()):
        assert callable(importlib.import_module(script).main)


def test_requirements_name_a_reason_on_every_line():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert not line or line.startswith("#") or "#" in line, line
