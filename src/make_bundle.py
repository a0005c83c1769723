"""Make the folder that a code competition on Kaggle takes:  python src/make_bundle.py --experiment cnn_e --user ME

Writes submissions/<competition>-<experiment>-bundle/: a kernel that `kaggle kernels push` takes, and in dataset/ the
code, the trained models and the folds that it predicts with. --simulate runs it as Kaggle will: without network, in an
empty folder, on the known test set and on a hidden one ten times as large, with new ids, a corrupt and a constant
image; and estimates the time.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from commandline import add_experiment, load_workspace, make_parser, run_script, trained_names
from common.commands import command_line
from common.files import home, replace_atomically, write_json, write_text
from competition import Competition
from data.folds import folds_path
from data.tables import submitted_part
from results.adopted_rules import read_adopted
from results.runs import Oof, decisions_path, run_folder, train_command
from results.workspace import Workspace
from submitting.kernel_simulation import simulate
from training.prediction import check_weights

# What a prediction imports and Kaggle's image is not known to hold; a wheel is installed there only where the module is
# missing. By Kaggle/docker-python's kaggle_requirements.txt (commit 01d659bb) the image adds pydicom, ImageHash,
# scikit-learn and matplotlib to Google Colab's; that Colab's own has torch, OpenCV, pandas, rich and timm was not
# verified, and timm is small. solt and albumentations augment training images and are not needed here.
WHEELS = {"iterstrat": "iterative-stratification", "gdcm": "python-gdcm", "timm": "timm"}  # module: package
FOLD_FILES = ("recipe.json", "result.json", "oof.csv", "weights.safetensors")  # of a fold
LONGEST_SLUG = 50  # characters that Kaggle allows; it wants at least six
SRC = Path(__file__).resolve().parent
LEFTOVER_SECONDS = 3600  # an unfinished bundle without a write for so long is of a process that was killed

ENTRY = '''"""Predicts the test images and writes submission.csv. Made by make_bundle.py; attach its dataset."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

INPUT = Path(os.environ.get("BUNDLE_INPUT", "/kaggle/input"))
OUTPUT = Path(os.environ.get("BUNDLE_OUTPUT", "/kaggle/working"))
HOME = Path(os.environ.get("BUNDLE_HOME", "/tmp/bundle_home"))  # has more space than OUTPUT, and is not kept


def find(pattern: str) -> Path:
    """The folder, four levels below INPUT at most, from which the pattern finds a file."""
    for depth in range(1, 5):
        for path in INPUT.glob("*/" * depth + pattern):
            return path.parents[pattern.count("/")]
    raise FileNotFoundError(f"{INPUT} holds no {pattern}: attach the dataset and the competition's data")


def main() -> None:
    root = find("bundle.json")
    bundle = json.loads((root / "bundle.json").read_text())
    for name in ("src", "runs", "folds", "wheels"):  # Kaggle shows folders as they are or as zip files
        if (root / name).is_dir():
            shutil.copytree(root / name, HOME / name, dirs_exist_ok=True)
        elif (root / f"{name}.zip").exists():
            zipfile.ZipFile(root / f"{name}.zip").extractall(HOME / name)
    wheels = sorted((HOME / "wheels").glob("*.whl"))
    missing = [package for module, package in bundle["wheels"].items() if find_spec(module) is None
               and any(wheel.name.lower().startswith(package.replace("-", "_") + "-") for wheel in wheels)]
    if missing:
        subprocess.run([sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--find-links",
                        str(HOME / "wheels"), *missing], check=True)
    os.environ.update(STARTER_HOME=str(HOME), HF_HUB_OFFLINE="1", NO_ALBUMENTATIONS_UPDATE="1")
    sys.path.insert(0, str(HOME / "src"))
    data_dir = find(bundle["marker"])
    flags = ["--competition", bundle["competition"], "--data-dir", str(data_dir)]
    runs = bundle["members"] or [bundle["experiment"]]

    import predict

    predict.main([*flags, "--experiment", *runs, "--unreadable", "black"])
    if bundle["members"]:
        blend_members(bundle, data_dir)
    shutil.copyfile(HOME / "submissions" / f"{bundle['competition']}-{bundle['experiment']}.csv",
                    OUTPUT / "submission.csv")


def blend_members(bundle: dict, data_dir: Path) -> None:
    from blend import predict_blends
    from competition import COMPETITIONS
    from data.tables import submitted_part
    from results.workspace import Workspace

    workspace = Workspace(COMPETITIONS[bundle["competition"]], data_dir)
    blended, *members = map(workspace.oof, (bundle["experiment"], *bundle["members"]))
    part = submitted_part(workspace.competition)
    predict_blends(workspace, members, [blended], part, workspace.part(part)["image_id"])


if __name__ == "__main__":
    main()
'''


def main(argv: list[str] | None = None) -> list[Path]:
    """Writes the bundle of every named run or blend, and simulates it with --simulate; returns their folders."""
    parser = make_parser(__doc__)
    add_experiment(parser)
    parser.add_argument("--user", metavar="NAME", help="your name on Kaggle, as in kaggle.com/NAME")
    parser.add_argument("--wheels", metavar="PYTHON",
                        help="also download packages that Kaggle may lack, for its Python: 3.11")
    parser.add_argument("--simulate", action="store_true", help="run the bundle as Kaggle will")
    parser.add_argument("--time-limit", type=float, default=9.0, metavar="HOURS",
                        help="hours that the kernel may take; default: 9")
    args = parser.parse_args(argv)
    check_flags(args)
    workspace = load_workspace(args)
    competition = workspace.competition
    if submitted_part(competition) is None:
        raise ValueError(f"competition {competition.name!r} has no test or official validation part that is submitted")
    bundles = []
    for name in trained_names(args, all_folds=workspace.folds.count):
        oof = check_complete(workspace, workspace.oof(name))
        bundle = write_bundle(competition, oof, args.user, args.wheels)
        if args.simulate:
            simulate(workspace, bundle, args.time_limit)
        print_upload_commands(competition, bundle)
        bundles.append(bundle)
    return bundles


def check_flags(args: argparse.Namespace) -> None:
    """Raises ValueError for a flag whose value is not possible."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", args.user or ""):
        raise ValueError(f"--user {args.user or 'is missing'}: give your name on Kaggle as in kaggle.com/NAME, "
                         "letters, digits and hyphens")
    if args.wheels and not re.fullmatch(r"3\.\d+", args.wheels):
        raise ValueError(f"--wheels {args.wheels!r}: name the Python that Kaggle has, 3.11 or the like")
    if not args.time_limit > 0:
        raise ValueError(f"--time-limit {args.time_limit:g} must be more than 0")


def check_complete(workspace: Workspace, oof: Oof) -> Oof:
    """Returns the run or blend. Raises with a command if a model is missing or changed, or a kernel cannot run it."""
    competition = workspace.competition
    if not oof.is_whole:
        raise FileNotFoundError(f"run {oof.name!r} lacks the folds {list(oof.folds_missing)}; run: "
                                f"{train_command(competition, oof.name, oof.folds_missing)}")
    runs = list(dict.fromkeys(run.folder.parent.name for run in oof.runs))
    if nested := [name for name in oof.members if (run_folder(competition, name) / "blend.json").exists()]:
        raise ValueError(f"{oof.name!r} has the blend {nested[0]!r} as a member, and a kernel blends runs only; run: "
                         f"{command_line('blend', competition, experiment=runs)}")
    read_adopted(workspace, oof)  # raises if the adopted rule is out of date
    for run in oof.runs:
        check_weights(run)
    return oof


def write_bundle(competition: Competition, oof: Oof, user: str, python: str | None = None) -> Path:
    """Writes the bundle, all or nothing, over an earlier one; returns its folder.

    python: the version that wheels are downloaded for; None: no wheels.  Raises OSError if the disk is full.
    """
    folder = home() / "submissions" / f"{competition.name}-{oof.name}-bundle"
    _remove_leftovers(folder)
    files = list_files(competition, oof)
    needed, free = sum(path.stat().st_size for path in files), shutil.disk_usage(_existing(folder)).free
    if needed > free:
        raise OSError(f"{folder} needs {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free; make room")
    try:
        with replace_atomically(folder) as temporary:
            dataset = temporary / "dataset"
            for path in files:
                target = dataset / path.relative_to(SRC.parent if SRC in path.parents else home())
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            if python:
                download_wheels(dataset / "wheels", python)
            write_json(dataset / "bundle.json", describe(competition, oof))
            write_metadata(temporary, competition, oof.name, user)
            write_text(temporary / "predict_kernel.py", ENTRY)
    except OSError as error:
        raise OSError(error.errno, f"the bundle could not be written ({error.strerror or error}); make room and run "
                      "the command again. An earlier bundle is unchanged", str(folder)) from error
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"wrote {folder}: {len(oof.runs)} models, {size / 1e6:.1f} MB")
    return folder


def list_files(competition: Competition, oof: Oof) -> list[Path]:
    """All files that predicting needs: code, folds, FOLD_FILES of every fold, the blend, adopted decision rules."""
    files = sorted(SRC.rglob("*.py"))
    files += [folds_path(competition), folds_path(competition).with_suffix(".json")]
    files += [run.folder / name for run in oof.runs for name in FOLD_FILES]
    if oof.members:
        files += [run_folder(competition, oof.name) / name for name in ("blend.json", "oof.csv")]
    if (adopted := decisions_path(competition, oof.name)).exists():
        files.append(adopted)
    return files


def describe(competition: Competition, oof: Oof) -> dict:
    """The content of bundle.json: the run, and the file by which the kernel finds the competition's data."""
    part = getattr(competition, submitted_part(competition))
    marker = part.tables[0] if part.tables else competition.sample_submission or part.images
    return {"competition": competition.name, "experiment": oof.name, "members": list(oof.members),
            "marker": marker, "wheels": WHEELS, "python": sys.version.split()[0], "weights": oof.made_of}


def write_metadata(folder: Path, competition: Competition, name: str, user: str) -> None:
    """kernel-metadata.json and dataset/dataset-metadata.json, for Kaggle's client."""
    kernel, dataset = (make_slug(competition.name, name, word) for word in ("predict", "models"))
    write_json(folder / "dataset" / "dataset-metadata.json", {
        "title": dataset.replace("-", " "), "id": f"{user}/{dataset}", "licenses": [{"name": "other"}]})
    write_json(folder / "kernel-metadata.json", {
        "id": f"{user}/{kernel}", "title": kernel.replace("-", " "), "code_file": "predict_kernel.py",
        "language": "python", "kernel_type": "script", "is_private": True, "enable_gpu": True,
        "enable_internet": False, "dataset_sources": [f"{user}/{dataset}"],
        "competition_sources": [competition.kaggle] if competition.kaggle else []})


def make_slug(*words: str) -> str:
    """A name for Kaggle's addresses: ("demo", "cnn_e", "models") -> demo-cnn-e-models; a long one keeps the last word.
    """
    *first, last = (re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-") for word in words)
    return "-".join(first)[:LONGEST_SLUG - len(last) - 1].strip("-") + "-" + last


def download_wheels(folder: Path, python: str) -> None:
    """Wheels of WHEELS for Linux and that Python. Raises RuntimeError with pip's output if it fails."""
    folder.mkdir(parents=True)
    done = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
                           "--python-version", python, "--platform", "manylinux2014_x86_64", "--platform",
                           "manylinux_2_28_x86_64", "--dest", str(folder), *WHEELS.values()],
                          capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise RuntimeError(f"pip could not download {', '.join(WHEELS.values())} for Python {python}:\n"
                           f"{done.stderr.strip()[-1000:]}")


def print_upload_commands(competition: Competition, bundle: Path) -> None:
    """Prints the commands that upload and submit the bundle."""
    if not competition.kaggle:
        print(f"it cannot be uploaded yet: competition {competition.name!r} has no name on Kaggle; set kaggle='NAME' "
              "in competition.py and run this again")
        return
    kernel = json.loads((bundle / "kernel-metadata.json").read_text())["id"]
    print(f"upload it:   kaggle datasets create -p {bundle / 'dataset'} --dir-mode zip\n"
          f"             kaggle kernels push -p {bundle}\n"
          f"             kaggle competitions submit {competition.kaggle} -k {kernel} -v 1 -f submission.csv -m TEXT")


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.is_dir())


def _remove_leftovers(folder: Path) -> None:
    for part in folder.parent.glob(f".{folder.name}.*.part"):
        if time.time() - part.stat().st_mtime > LEFTOVER_SECONDS:
            shutil.rmtree(part, ignore_errors=True)


if __name__ == "__main__":
    run_script(main)
