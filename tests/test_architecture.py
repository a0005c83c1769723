"""How the code hangs together: imports point one way, nothing happens on import, everything says what it is."""

import ast
import os
import re
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
MODULES = sorted(path.stem for path in SRC.glob("*.py"))
TREES = {name: ast.parse((SRC / f"{name}.py").read_text(encoding="utf-8")) for name in MODULES}
SCRIPTS = [name for name in MODULES if '__name__ == "__main__"' in (SRC / f"{name}.py").read_text(encoding="utf-8")]

# Each module may import only what stands before it; scripts come last and import no script.
ORDER = """
files hardware distributed
settings competition experiment
labels sampling metrics weighted uncertainty faults thresholds calibration policies priorshift
delong comparing forecasting blending gains columns folding confident phantoms preprocessing augmentation tta mixing
schedule watch losses
layers architectures camlayers references ema saliency attribution sheets localisation nearest
demo arrays dicom decoding pixels scan duplicates tables weights
folds device_input loader model anatomy precision heads features tiles autoencoder oddness oddplots outliers
solvers runs checkpoints runmaps imageview measuring alarms
lessons freezing optimizers engine training prediction manifest embeddings leaks probes labelstats auditplots findings
glance survey clues tabular untabled sniffing decisions submission ledger gate reproduction commandline
kaggle_client agreement rehearsal forecastplot judging mapviews mappage
curves svgcharts reportpage reported reportdata reportruns reportscores reportsights reportsent
""".split()


def imported_by(name: str) -> set[str]:
    """Our own modules that a module imports, inside its functions too."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}.py line {node.lineno}: src is flat, a relative import leads nowhere"
            found.add(node.module.partition(".")[0])
    return found & set(MODULES)


def public_definitions(name: str) -> list[ast.AST]:
    return [node for node in TREES[name].body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")]


@pytest.mark.parametrize("name", [name for name in MODULES if name not in SCRIPTS])
def test_a_module_imports_only_what_stands_before_it(name):
    assert name in ORDER, f"{name}.py has no place in the order of imports; give it one in this test"
    later = imported_by(name) - set(ORDER[:ORDER.index(name)])
    assert not later, f"{name}.py imports {sorted(later)}, which do not stand before it"


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_imports_a_script(name):
    assert not imported_by(name) & set(SCRIPTS)


def test_src_is_flat():
    assert [path.name for path in SRC.iterdir() if path.is_dir() and path.name != "__pycache__"] == []


@pytest.mark.parametrize("name", MODULES)
def test_no_module_hides_a_library(name):
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
    assert f"python src/{name}.py" in ast.get_docstring(TREES[name])


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
                assert isinstance(node.body[-1], ast.Raise), f"{name}.py line {node.lineno} catches {caught}"


@pytest.mark.parametrize("name", MODULES)
def test_no_code_is_of_a_kind_we_do_not_want(name):
    text = (SRC / f"{name}.py").read_text(encoding="utf-8")
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
    done = run_python(["-W", "error", "-c", IMPORT_ALL, *MODULES], tmp_path)
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
    done = run_python(["-c", HELP, str(SRC / f"{name}.py")], tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"python src/{name}.py" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_unknown_flag_is_an_error(name, tmp_path):
    done = run_python([str(SRC / f"{name}.py"), "--no-such-flag"], tmp_path)
    assert done.returncode == 2 and "--no-such-flag" in done.stderr
