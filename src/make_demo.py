"""Draw the demo competition's chest phantoms:  python src/make_demo.py

Synthetic X-rays in Kaggle's layout with known truth beside them, and the troubles of real sets planted.
"""

from pathlib import Path

from sklearn.metrics import roc_auc_score

from commandline import make_parser, run_script
from common.files import home
from common.settings import override
from data.demo import DemoSettings, is_made, make_demo, read_truth
from data.phantoms import LABELS


def main(argv: list[str] | None = None) -> Path:
    """Draws the demo where it is missing; returns its folder."""
    knobs = ", ".join(f"{name}={value}" for name, value in vars(DemoSettings()).items())
    parser = make_parser(__doc__, competition=False)
    parser.add_argument("--data-dir", type=Path, help="default: data/demo")
    for name in ("size", "images", "seed", "shortcut"):
        parser.add_argument(f"--{name}", help=f"default: {getattr(DemoSettings(), name)}")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=f"any of: {knobs}")
    args = parser.parse_args(argv)
    given = [f"{name}={value}" for name in ("size", "images", "seed", "shortcut")
             if (value := getattr(args, name)) is not None]
    settings, folder = override(DemoSettings(), given + args.set), args.data_dir or home() / "data" / "demo"
    was_made = is_made(folder, settings)
    make_demo(folder, settings)
    drawn = f"drawn: {settings.images} training and {settings.test_images} test images"
    print(f"{folder} " + ("is there already" if was_made else drawn))
    _describe(folder)
    return folder


def _describe(folder: Path) -> None:
    truth = read_truth(folder)
    train, test = truth[truth["part"] == "train"], truth[truth["part"] == "test"]
    for label in LABELS:
        positive = (train[label] == 1).sum() / train[label].isin((0, 1)).sum()
        both = test[label].nunique() == 2
        best = f"{roc_auc_score(test[label], test[f'posterior_{label}']):.3f}" if both else "undefined (one class)"
        print(f"{label:<14} {100 * positive:4.1f} % positive; best reachable AUC on the test images {best}")


if __name__ == "__main__":
    run_script(main)
