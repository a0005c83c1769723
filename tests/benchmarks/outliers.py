"""False alarms and detected cases of the warning on foreign test images:  python tests/benchmarks/outliers.py

Splits the training images of a demo (or of --data-dir) at random into a training and a test part of whole patients and
searches the test part for outliers; every alarm is false. Then some test images are replaced by inverted ones, by
upside-down ones, by noise and by those of --foreign, a folder of other images. Needs EfficientNet-Lite0's weights.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "src")]

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from tqdm import tqdm  # noqa: E402

from auditing.ood import SIZE, anomaly_features, anomaly_store, find_outliers  # noqa: E402
from common.files import sha256  # noqa: E402
from competition import COMPETITIONS, Competition  # noqa: E402
from data.decoding import decode_image, fit_image  # noqa: E402
from data.demo import DemoSettings, make_demo  # noqa: E402
from data.tables import read_part  # noqa: E402
from models.frozen_features import frozen_features  # noqa: E402

PLANTED = (1, 5, 50)  # replaced images of the test part
REPLACED = 50         # images of each kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--competition", default="demo", choices=COMPETITIONS)
    parser.add_argument("--data-dir", type=Path, help="its files; default: a new demo")
    parser.add_argument("--foreign", type=Path, help="a folder of images of another kind")
    parser.add_argument("--splits", type=int, default=20, help="default: 20")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STARTER_HOME"] = folder  # leaves the existing stores alone
        if arguments.data_dir is None:
            make_demo(Path(folder) / "data" / "demo", DemoSettings())
        measure(COMPETITIONS[arguments.competition], arguments.data_dir or Path(folder) / "data" / "demo",
                arguments.foreign, arguments.splits)


def measure(competition: Competition, data_dir: Path, foreign: Path | None, splits: int) -> None:
    """Prints the number of splits with an alarm for each kind and number of replaced images."""
    table = read_part(competition, data_dir, "train")
    store = anomaly_store(competition, "train", table)
    shown = np.flatnonzero(~store.constant)
    features, groups = np.asarray(anomaly_features(store))[shown], table["group"].to_numpy(str)[shown]
    planted = {name: foreign_features(name, images)
               for name, images in make_foreign(store.read(shown[:REPLACED]), foreign).items()}
    names, alarms, seconds = np.unique(groups), {}, []
    for split in tqdm(range(splits), disable=None):
        rng = np.random.default_rng(split)
        is_test = np.isin(groups, rng.permutation(names)[:len(names) // 3])
        train, test = np.flatnonzero(~is_test)[:4000], np.flatnonzero(is_test)
        cases = {("none", 0): features[test]} | {
            (name, count): np.concatenate([rng.permutation(other)[:count], features[test[count:]]])
            for name, other in planted.items() for count in PLANTED}
        for case, images in cases.items():
            started = time.process_time()
            alarms.setdefault(case, []).append(find_outliers(features[train], groups[train], images).is_alarm)
            seconds.append(time.process_time() - started)
    board = Table("replaced by", *map(str, PLANTED), title=f"{competition.name}: alarms in {splits} splits, "
                  f"about {len(test)} test images; without replaced images {sum(alarms['none', 0])}")
    for name in planted:
        board.add_row(name, *(str(sum(alarms[name, count])) for count in PLANTED))
    Console(width=120).print(board)
    print(f"{np.median(seconds):.2f} CPU s to search one test part, without computing features")


def make_foreign(images: np.ndarray, folder: Path | None) -> dict[str, np.ndarray]:
    """uint8 images of the same shape by kind of change."""
    made = {"inverted": 255 - images, "upside down": np.ascontiguousarray(images[:, ::-1]),
            "noise": np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)}
    if folder:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
        read = (fit_image(decode_image(path, images.shape[3] if images.ndim == 4 else 1), SIZE, "squash")
                for path in paths)
        made["foreign"] = np.stack([image for image, _ in zip((one for one in read if one.std() > 0),
                                                              range(REPLACED), strict=False)])
    return made


def foreign_features(name: str, images: np.ndarray) -> np.ndarray:
    """(n, D) features of images that are in no store."""
    return np.asarray(frozen_features("planted", images, f"{name}-{sha256(images.tobytes())}"))


if __name__ == "__main__":
    main()
