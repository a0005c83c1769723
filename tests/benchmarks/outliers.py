"""How often the alarm for foreign test images is false, and what it notices: python tests/benchmarks/outliers.py

Draws a demo (or takes --data-dir), deals its training images anew into a training and a test part, whole patients, and
asks for outliers: false alarms. Then the same with some test images replaced: inverted, upside down, noise, and those
of --foreign, another folder of image files. Needs EfficientNet-Lite0's weights.
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

PLANTED = (1, 5, 50)  # images among the test part
REPLACED = 50         # kept of each kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--competition", default="demo", choices=COMPETITIONS)
    parser.add_argument("--data-dir", type=Path, help="its files; default: a demo drawn for this")
    parser.add_argument("--foreign", type=Path, help="a folder of images of another kind")
    parser.add_argument("--deals", type=int, default=20, help="default: 20")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STARTER_HOME"] = folder  # so that no store of yours is taken for an old one
        if arguments.data_dir is None:
            make_demo(Path(folder) / "data" / "demo", DemoSettings())
        measure(COMPETITIONS[arguments.competition], arguments.data_dir or Path(folder) / "data" / "demo",
                arguments.foreign, arguments.deals)


def measure(competition: Competition, data_dir: Path, foreign: Path | None, deals: int) -> None:
    """Prints alarms by what was planted, out of all deals."""
    table = read_part(competition, data_dir, "train")
    store = anomaly_store(competition, "train", table)
    shown = np.flatnonzero(~store.constant)
    features, groups = np.asarray(anomaly_features(store))[shown], table["group"].to_numpy(str)[shown]
    planted = {name: foreign_features(name, images)
               for name, images in make_foreign(store.read(shown[:REPLACED]), foreign).items()}
    names, alarms, seconds = np.unique(groups), {}, []
    for deal in tqdm(range(deals), disable=None):
        rng = np.random.default_rng(deal)
        is_test = np.isin(groups, rng.permutation(names)[:len(names) // 3])
        train, test = np.flatnonzero(~is_test)[:4000], np.flatnonzero(is_test)
        cases = {("none", 0): features[test]} | {
            (name, count): np.concatenate([rng.permutation(other)[:count], features[test[count:]]])
            for name, other in planted.items() for count in PLANTED}
        for case, judged in cases.items():
            started = time.process_time()
            alarms.setdefault(case, []).append(find_outliers(features[train], groups[train], judged).is_alarm)
            seconds.append(time.process_time() - started)
    board = Table("planted", *map(str, PLANTED), title=f"{competition.name}: alarms of {deals} deals, "
                  f"about {len(test)} test images; without anything planted {sum(alarms['none', 0])}")
    for name in planted:
        board.add_row(name, *(str(sum(alarms[name, count])) for count in PLANTED))
    Console(width=120).print(board)
    print(f"{np.median(seconds):.2f} s of one core to judge, features at hand")


def make_foreign(images: np.ndarray, folder: Path | None) -> dict[str, np.ndarray]:
    """uint8 images of the same shape by what is wrong with them."""
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
    """(n, D) features of images that stand in no store."""
    return np.asarray(frozen_features("planted", images, f"{name}-{sha256(images.tobytes())}"))


if __name__ == "__main__":
    main()
