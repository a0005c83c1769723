"""How the code hangs together: imports point one way, nothing happens on import, everything says what it is."""

import ast
import os
import re
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from real_data import SRC

# Each folder imports only folders that stand before it; competition.py stands before all of them, experiment.py before
# `data`, and commandline.py behind them.
FOLDERS = ("common", "scoring", "data", "describing", "models", "results", "training", "auditing", "explaining",
           "submitting", "reporting")
PATHS = {path.relative_to(SRC).as_posix(): path for path in sorted(SRC.rglob("*.py"))}
MODULES = list(PATHS)
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in PATHS.items()}
TOP = [name for name in MODULES if "/" not in name]
SCRIPTS = [name for name in TOP if '__name__ == "__main__"' in PATHS[name].read_text(encoding="utf-8")]
READ_FIRST = {"competition.py", "experiment.py", "commandline.py"}


def imported_by(name: str) -> set[str]:
    """The folders and top-level modules of ours that a module imports, inside its functions too."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} line {node.lineno}: import from src by the folder's name"
            found.add(node.module.partition(".")[0])
    return found & {*FOLDERS, *(top.removesuffix(".py") for top in TOP)}


def public_definitions(name: str) -> list[ast.AST]:
    return [node for node in TREES[name].body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")]


def test_folders_lie_one_level_below_the_scripts():
    assert {name.rpartition("/")[0] for name in MODULES} == {"", *FOLDERS}
    assert set(TOP) == {*SCRIPTS, *READ_FIRST}


@pytest.mark.parametrize("name", [name for name in MODULES if "/" in name])
def test_a_folder_imports_only_folders_before_it(name):
    folder = name.partition("/")[0]
    allowed = {*FOLDERS[:FOLDERS.index(folder) + 1], "competition"}
    if FOLDERS.index(folder) >= FOLDERS.index("data"):
        allowed.add("experiment")
    assert imported_by(name) <= allowed, f"{name} imports {sorted(imported_by(name) - allowed)}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_imports_a_script(name):
    assert not {f"{module}.py" for module in imported_by(name)} & set(SCRIPTS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_init_is_one_sentence(folder):
    body = TREES[f"{folder}/__init__.py"].body
    assert len(body) == 1 and isinstance(body[0], ast.Expr)


@pytest.mark.parametrize("name", [*FOLDERS, *(top.removesuffix(".py") for top in TOP)])
def test_no_name_of_ours_hides_a_library(name):
    ours = (SRC, SRC.parent, SRC.parent / "tests")
    others = [entry for entry in sys.path if Path(entry or ".").resolve() not in ours]
    assert name not in sys.stdlib_module_names
    assert PathFinder.find_spec(name, others) is None, f"{name} is the name of an installed package too"


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_public_functions_say_what_they_are(name):
    title = (ast.get_docstring(TREES[name]) or "").partition("\n")[0]
    assert len(title) > 15
    silent = [node.name for node in public_definitions(name) if not ast.get_docstring(node)]
    assert not silent, f"no docstring: {', '.join(silent)}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_names_its_command(name):
    assert f"python src/{name}" in ast.get_docstring(TREES[name])


@pytest.mark.parametrize("name", MODULES)
def test_public_signatures_say_their_types(name):
    for node in public_definitions(name):
        if isinstance(node, ast.FunctionDef):
            bare = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                    if argument.annotation is None]
            assert not bare, f"{node.name}: {', '.join(bare)} without a type"


@pytest.mark.parametrize("name", MODULES)
def test_no_code_swallows_errors(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ExceptHandler):
            caught = "everything" if node.type is None else ast.unparse(node.type)
            if caught in ("everything", "Exception", "BaseException"):  # may clean up or explain, must raise
                assert isinstance(node.body[-1], ast.Raise), f"{name} line {node.lineno} catches {caught}"


@pytest.mark.parametrize("name", MODULES)
def test_no_code_is_of_a_kind_we_do_not_want(name):
    text = PATHS[name].read_text(encoding="utf-8")
    unwanted = re.compile(r"parse_known_args|^\s*global |\bexec\(|\beval\(\w|import \*|filterwarnings|simplefilter|"
                          r"pickle\.(?:load|dump)|# *(?:TODO|FIXME)", re.MULTILINE)
    assert unwanted.findall(text) == []


IMPORT_ALL = """
import importlib, os, sys
import numpy
before = numpy.random.get_state()[1].tolist(), os.getcwd()
for name in sys.argv[1:]:
    importlib.import_module(name)
after = numpy.random.get_state()[1].tolist(), os.getcwd()
assert before == after, "an import drew random numbers or changed the folder"
"""


def run_python(arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(SRC), "STARTER_HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_importing_everything_prints_nothing_and_makes_no_file(tmp_path):
    names = [name.removesuffix(".py").replace("/", ".") for name in MODULES]
    done = run_python(["-W", "error", "-c", IMPORT_ALL, *names], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


HELP = """
import runpy, sys
script, sys.argv = sys.argv[1], [sys.argv[1], "--help"]
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    assert not end.code
heavy = [name for name in ("torch", "timm", "torchvision", "albumentations", "solt", "captum") if name in sys.modules]
assert not heavy, f"--help imports {heavy}"
"""


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_comes_without_importing_torch(name, tmp_path):
    done = run_python(["-c", HELP, str(SRC / name)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"python src/{name}" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_unknown_flag_is_an_error(name, tmp_path):
    done = run_python([str(SRC / name), "--no-such-flag"], tmp_path)
    assert done.returncode == 2 and "--no-such-flag" in done.stderr
