"""Which planted errors the checks of a submission find: python tests/benchmarks/gate.py [--worlds N] [--rows N]

Three tables: the planted errors of tests/submitting/test_mutations.py by kind of submission, found by the check of
the form alone and by all checks; valid submissions of drawn competitions, rejected or with a warning; seconds and memory for
a large file.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / name) for name in ("src", "tests", "tests/submitting")]

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from test_mutations import CASES, FAULTS, plant, says  # noqa: E402
from tqdm import trange  # noqa: E402

from results.workspace import Workspace  # noqa: E402
from submitted import COMPETITIONS, RATES, World, make_world  # noqa: E402
from submitting.checks import check_file  # noqa: E402
from submitting.submission import check_submission, read_submission, read_template  # noqa: E402

CONSOLE = Console(width=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=100, help="sound submissions of each kind and size; default: 100")
    parser.add_argument("--rows", type=int, default=200_000, help="of the large file; default: 200,000")
    arguments = parser.parse_args()
    show_faults()
    show_sound(arguments.worlds)
    show_large(arguments.rows)


@contextmanager
def world_of(kind: str, **settings) -> Iterator[World]:
    """A drawn competition in a folder that goes again."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STARTER_HOME"] = folder
        with redirect_stdout(StringIO()):
            world = make_world(kind, Path(folder), **settings)
        yield world


def show_faults() -> None:
    """Planted faults caught, by the form alone and by all pre-upload checks."""
    counts = {kind: Counter() for kind in COMPETITIONS}
    for kind, count in counts.items():
        with world_of(kind) as world:
            text = world.path.read_text()
            for name in [name for name, each in CASES if each == kind]:
                plant(FAULTS[name], world.path)
                count["planted"] += 1
                count["form"] += any(check_form(world))
                errors, warnings = check_file(Workspace(world.competition, world.folder), world.path, world.rival)
                count["all checks"] += says(errors if FAULTS[name].is_error else warnings, FAULTS[name].said)
                count["errors"] += bool(errors)
                world.path.write_text(text)
    table = Table("kind", "planted", "seen by the form alone", "caught by all checks", "of these errors",
                  title=f"{len(FAULTS)} faults")
    for kind, count in counts.items():
        table.add_row(kind, *(str(count[name]) for name in ("planted", "form", "all checks", "errors")))
    total = sum(counts.values(), Counter())
    table.add_row("all", *(str(total[name]) for name in ("planted", "form", "all checks", "errors")), style="bold")
    CONSOLE.print(table)


def check_form(world: World) -> tuple[list[str], list[str]]:
    """What can be said with the sample alone."""
    template = read_template(Workspace(world.competition, world.folder))
    try:
        return check_submission(world.competition, template, read_submission(world.path))
    except ValueError as error:
        return [str(error)], []


def show_sound(worlds: int) -> None:
    """Sound submissions refused and warned of, by kind and number of test images."""
    table = Table("kind", "test images", "sound", "refused", "warned of", "what was said", title="sound submissions")
    for kind in COMPETITIONS:
        for test_images in (2, 20, 300):
            refused, warned, said = 0, 0, Counter()
            for seed in trange(worlds, desc=f"{kind}, {test_images}", leave=False, disable=None):
                with world_of(kind, images=300, test_images=test_images, seed=seed, **drawn(kind, seed)) as world:
                    errors, warnings = check_file(Workspace(world.competition, world.folder), world.path, world.rival)
                refused += bool(errors)
                warned += bool(warnings)
                said.update({" ".join(message.split("'")[2].split()[:4]) if "'" in message else message[:40]
                             for message in errors + warnings})
            table.add_row(kind, str(test_images), str(worlds), str(refused), str(warned),
                          ", ".join(f"{message} ({count})" for message, count in said.most_common(2)))
    CONSOLE.print(table)


def drawn(kind: str, seed: int) -> dict:
    """A competition like others: weak to strong models, black images or none, another prevalence in the test part."""
    rng = np.random.default_rng(seed)
    factor = rng.uniform(0.8, 1.2)
    rates = [*RATES[kind]]
    if len(rates) > 1:
        rates[-1] = rng.choice([0.02, 0.05, rates[-1]])
    return {"skill": rng.uniform(1, 5), "black": rng.choice([0, 0.1, 0.25]), "rates": tuple(rates),
            "test_rates": tuple(min(0.9, factor * rate) for rate in rates)}


def show_large(rows: int) -> None:
    """Seconds and memory of one large multilabel file."""
    with world_of("multilabel", images=rows, test_images=rows) as world:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        messages = check_file(Workspace(world.competition, world.folder), world.path, world.rival)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    CONSOLE.print(f"{rows:,} rows of 3 labels, as many out of fold: {seconds:.1f} s, peak memory {peak / 1024:.0f} MB "
                  f"({before / 1024:.0f} MB before, in drawing it); {messages}")


if __name__ == "__main__":
    main()
