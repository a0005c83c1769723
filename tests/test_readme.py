"""Every README names commands, files, settings and names that exist, and the code in it runs."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

import competition
from common.settings import override
from competition import COMPETITIONS, Competition, Part
from data.demo import DemoSettings, make_demo
from data.tables import read_part, read_train
from experiment import EXPERIMENTS, Experiment
from real_data import ROOT
from scoring.metrics import METRICS
from test_architecture import FOLDERS, SCRIPTS
from training.recipe_checks import check_values

SRC = ROOT / "src"
PATHS = [ROOT / "README.md", *sorted(SRC.glob("**/README.md")), *sorted(ROOT.glob("tests/**/README.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PATHS}
README = TEXTS["README.md"]
SOURCES = "\n".join(path.read_text(encoding="utf-8") for folder in ("src", "tests/benchmarks", "tests/mutation")
                    for path in sorted((ROOT / folder).rglob("*.py")))  # tests name what must not exist, too
WORDS = {*re.findall(r"\w+", SOURCES), *(path.stem for path in SRC.rglob("*.py"))}
COMMAND = re.compile(r"(?:python|torchrun --nproc_per_node=\d+) (?:src|tests/\w+)/\w+\.py[^\n`#|>]*")
# what a reader puts in, and what stands for it here
STANDS_FOR = {"DIR": ".", "FILE": "submission.csv", "ID": "img_000001", "NAME": "lite0", "ME": "me", "RUN": "lite0",
              "MANIFEST": "submission.json", "N": "3", "COMPETITION": "demo", "LABEL": "effusion", "POLICY": "half"}


def texts() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", TEXTS)


def spans(text: str) -> list[str]:
    """What stands between backquotes on a line, blocks of code left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def build_literal() -> Competition:
    """The competition that the README describes, as it would be pasted into competition.py."""
    names = dict(vars(competition))
    exec(next(block for block in blocks(README) if "Competition(" in block), names)
    return names["MINE"]


COMMANDS = sorted({command.strip() for text in TEXTS.values() for command in COMMAND.findall(text)})
BENCHMARKS = sorted((ROOT / "tests" / "benchmarks").glob("*.py"))
WRONG = (["src/train.py", "--folds", "0"], ["src/train.py", "--fold", "first"], ["src/explain.py", "--method", "magic"],
         ["src/audit.py", "--none-such"], ["src/none.py"])
# (README, module, code that adds a thing to it)
BLOCKS = [(name, *found) for name, text in TEXTS.items() for found in
          re.findall(r"`src/(\w+(?:/\w+)?)\.py`[^\n]*:\n\n```python\n(.*?)```", text, flags=re.DOTALL)]

# Runs every script up to the end of its parser, and hands over what the parser read; runs the blocks of code in their
# modules. All in one process, since importing torch takes seconds. No script catches Parsed, as it is no Exception.
RUN = """
import argparse, contextlib, importlib, io, json, os, runpy, sys
from dataclasses import replace

class Parsed(BaseException):
    pass

parse = argparse.ArgumentParser.parse_args
def parse_only(self, args=None, namespace=None):
    raise Parsed(parse(self, args, namespace))
argparse.ArgumentParser.parse_args = parse_only

import competition
competition.COMPETITIONS["mine"] = replace(competition.COMPETITIONS["demo"], name="mine")
answers, path, given = [], list(sys.path), json.load(sys.stdin)
for words in given["commands"]:
    sys.argv, sys.path[:] = words, [os.path.dirname(words[0]), *path]
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(words[0], run_name="__main__")
        answers.append({"error": "it has no parser"})
    except Parsed as parsed:
        answers.append({key: value for key, value in vars(parsed.args[0]).items()
                        if isinstance(value, (str, int, float, list, bool))})
    except SystemExit as end:
        answers.append({"error": stderr.getvalue().partition("error: ")[2][:300]} if end.code else {})
    except Exception as error:
        answers.append({"error": repr(error)})
errors = []
for name, module, code in given["blocks"]:
    try:
        exec(code, vars(importlib.import_module(module.replace("/", "."))))
    except Exception as error:
        errors.append([name, f"{module}: {error!r}"])
print(json.dumps([answers, errors]))
"""


def run_all(commands: list[list[str]], blocks: list[tuple[str, str, str]] = ()) -> tuple[list[dict], list[list[str]]]:
    """What each script's own parser reads out of the words, or "error"; (README, error) of the blocks that fail."""
    done = subprocess.run([sys.executable, "-c", RUN], input=json.dumps({"commands": commands, "blocks": blocks}),
                          capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(SRC), "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def words_of(command: str) -> list[str]:
    words = shlex.split(command)
    start = next(i for i, word in enumerate(words) if word.endswith(".py"))
    return [re.sub(r"\b[A-Z]+\b", lambda name: STANDS_FOR.get(name[0], name[0]), word) if word.isupper() else word
            for word in words[start:]]


@pytest.fixture(scope="module")
def ran() -> tuple[list[dict], list[list[str]]]:
    return run_all([*map(words_of, COMMANDS), *WRONG, *([str(path), "--help"] for path in BENCHMARKS)], BLOCKS)


@pytest.fixture(scope="module")
def parsed(ran) -> list[dict]:
    return ran[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_accepted_by_its_script(command, parsed):
    read = parsed[COMMANDS.index(command)]
    assert "error" not in read, read["error"]
    assert read.get("competition") in {None, "mine", *COMPETITIONS}
    names = [name for name in [*(read.get("experiment") or []), *(read.get("compare") or [])]
             if name in words_of(command)]  # and not the defaults
    assert {*names} <= {*EXPERIMENTS}
    if "make_demo" in command:
        override(DemoSettings(), read.get("set") or [])
    elif read.get("set"):
        check_values(override(EXPERIMENTS[names[0] if names else "lite0"], read["set"]))


def test_a_wrong_command_is_an_error_here(parsed):
    assert all("error" in answer for answer in parsed[len(COMMANDS):len(COMMANDS) + len(WRONG)])


@texts()
def test_settings_that_are_named_are_accepted(name):
    known = {field.name for kind in (Experiment, Competition, Part, DemoSettings) for field in fields(kind)}
    recipes = {field.name for field in fields(Experiment)}
    for span in spans(TEXTS[name]):
        words = span.split()
        if not all(re.fullmatch(r"[a-z_]+=\S+", word) for word in words):
            continue
        assert {word.partition("=")[0] for word in words} <= known, span
        if words[0].partition("=")[0] in recipes:
            base = EXPERIMENTS["logistic_lite0" if "head_fit=" in span else "lite0"]
            check_values(override(replace(base, epochs=15), words))


def exists(path: str, folder: Path) -> bool:
    return any(any(base.glob(path)) if path else True for base in (folder, ROOT, SRC, ROOT / "tests"))


@texts()
def test_files_that_are_named_exist(name):
    folder = (ROOT / name).parent
    text = re.sub(r"```.*?```", "", TEXTS[name], flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    assert all((folder / link).exists() for link in links), links
    for span in spans(text):
        for path in re.findall(r"(?<![\w/])[\w/]+\.(?:py|sh|txt|md|html\.jinja)\b", span):
            if "/" in path or path.endswith(".py"):
                assert exists(path, folder), f"{name} names {path}"


@texts()
def test_names_in_code_spans_occur_in_the_code(name):
    for span in spans(TEXTS[name]):
        if re.fullmatch(r"[A-Za-z]\w*(?:\.\w+)*(?:\(\))?", span) and not span.isupper() and "." not in span:
            word = span.removesuffix("()")
            word = word.removeprefix("blend_")
            assert word in {*WORDS, *EXPERIMENTS, "mine", "lite0_slow", "src", "tests", "slow"}, f"{name} names {span}"
        for flag in re.findall(r"^--[a-z-]+", span):
            assert f'"{flag}"' in SOURCES, f"{name}: no script has {flag}"


def test_code_that_shows_how_to_add_a_thing_runs(ran):
    assert ran[1] == []
    assert len(BLOCKS) == sum(len(blocks(text)) for text in TEXTS.values()), "name the file before each block"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folders_readme_lists_its_modules(folder):
    table = TEXTS[f"src/{folder}/README.md"].partition("| module |")[2].partition("\n\n")[0]
    listed = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (SRC / folder).glob("*.py") if path.stem != "__init__")


def test_the_readme_has_at_most_two_hundred_lines():
    assert len(README.splitlines()) <= 200


def test_the_readme_lists_the_scripts():
    table = README.partition("## The scripts")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert sorted(listed) == sorted(script.removesuffix(".py") for script in SCRIPTS)


def test_the_readme_lists_the_folders_in_their_order():
    assert tuple(re.findall(r"^\| \[(\w+)\]\(src/\1/README\.md\)", README, flags=re.MULTILINE)) == FOLDERS


def test_the_readmes_competition_reads_the_demos_files(tmp_path):
    mine = build_literal()
    assert mine.metric in METRICS and {*mine.experiments} <= {*EXPERIMENTS}
    make_demo(tmp_path, DemoSettings(images=30, test_images=10, size=32))
    table, left_out = read_train(mine, tmp_path)
    assert (len(table), len(left_out), len(read_part(mine, tmp_path, "test"))) == (30, 0, 10)
    assert table["group"].nunique() < 30


def test_competitions_named_as_ready_exist():
    ready = README.partition("Ready to use: ")[2].partition("\n\n")[0]
    assert {*re.findall(r"`(\w+)`", ready)} <= {*COMPETITIONS}
    assert {name for name in COMPETITIONS if "mnist" not in name} - {"demo"} <= {*re.findall(r"`(\w+)`", ready)}


def test_the_licence_is_mit():
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License") and "WITHOUT WARRANTY OF ANY KIND" in text


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda script: script.stem)
def test_a_benchmark_has_a_line_in_the_readme(script):
    assert f"tests/benchmarks/{script.name}" in TEXTS["tests/benchmarks/README.md"]


def test_every_benchmark_starts(parsed):
    """What it imports is there; that it runs to its end is for whoever measures."""
    answers = zip(BENCHMARKS, parsed[-len(BENCHMARKS):], strict=True)
    assert {script.name: answer for script, answer in answers if "error" in answer} == {}


def test_run_sh_is_sound_bash():
    subprocess.run(["bash", "-n", str(ROOT / "run.sh")], check=True)


def test_run_sh_calls_scripts_with_flags_that_they_have():
    lines = re.findall(r'"\$python" (src/\w+\.py[^\n;]*)', (ROOT / "run.sh").read_text())
    assert len(lines) >= 9
    for line in lines:
        script, *words = line.split()
        source = (ROOT / script).read_text() + (SRC / "commandline.py").read_text()
        assert all(f'"{flag}"' in source for flag in re.findall(r"--[a-z-]+", " ".join(words))), line


def test_requirements_name_a_reason_on_every_line():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert not line or line.startswith("#") or "#" in line, line
