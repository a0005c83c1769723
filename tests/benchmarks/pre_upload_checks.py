"""Which planted errors the pre-upload checks find:
python tests/benchmarks/pre_upload_checks.py [--samples N] [--rows N]

Three tables: the planted errors of tests/submitting/test_mutations.py by kind of submission, found by the check of
the form alone and by all checks; valid submissions of generated competitions, rejected or with a warning; seconds and
memory for a large file.
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
from test_mutations import CASES, FAULTS, has_message, plant  # noqa: E402
from tqdm import trange  # noqa: E402

from results.workspace import Workspace  # noqa: E402
from submitted import COMPETITIONS, RATES, Sample, make_sample  # noqa: E402
from submitting.checks import check_file  # noqa: E402
from submitting.submission import check_submission, read_submission, read_template  # noqa: E402

CONSOLE = Console(width=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100,
                        help="valid submissions of each kind and size; default: 100")
    parser.add_argument("--rows", type=int, default=200_000, help="of the large file; default: 200,000")
    arguments = parser.parse_args()
    show_faults()
    show_valid(arguments.samples)
    show_large(arguments.rows)


@contextmanager
def temporary_sample(kind: str, **settings) -> Iterator[Sample]:
    """A generated competition in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STARTER_HOME"] = folder
        with redirect_stdout(StringIO()):
            sample = make_sample(kind, Path(folder), **settings)
        yield sample


def show_faults() -> None:
    """Prints how many planted errors the check of the form alone and all checks find."""
    counts = {kind: Counter() for kind in COMPETITIONS}
    for kind, count in counts.items():
        with temporary_sample(kind) as sample:
            text = sample.path.read_text()
            for name in [name for name, each in CASES if each == kind]:
                plant(FAULTS[name], sample.path)
                count["planted"] += 1
                count["form"] += any(check_form(sample))
                errors, warnings = check_file(Workspace(sample.competition, sample.folder), sample.path, sample.rival)
                count["all checks"] += has_message(errors if FAULTS[name].is_error else warnings, FAULTS[name].message)
                count["errors"] += bool(errors)
                sample.path.write_text(text)
    table = Table("kind", "planted", "found by the form alone", "found by all checks", "rejected",
                  title=f"{len(FAULTS)} kinds of error")
    for kind, count in counts.items():
        table.add_row(kind, *(str(count[name]) for name in ("planted", "form", "all checks", "errors")))
    total = sum(counts.values(), Counter())
    table.add_row("all", *(str(total[name]) for name in ("planted", "form", "all checks", "errors")), style="bold")
    CONSOLE.print(table)


def check_form(sample: Sample) -> tuple[list[str], list[str]]:
    """Errors and warnings from the sample submission alone."""
    template = read_template(Workspace(sample.competition, sample.folder))
    try:
        return check_submission(sample.competition, template, read_submission(sample.path))
    except ValueError as error:
        return [str(error)], []


def show_valid(samples: int) -> None:
    """Prints how many valid submissions are rejected or get a warning, by kind and number of test images."""
    table = Table("kind", "test images", "valid", "rejected", "warned", "messages", title="valid submissions")
    for kind in COMPETITIONS:
        for test_images in (2, 20, 300):
            rejected, warned, found = 0, 0, Counter()
            for seed in trange(samples, desc=f"{kind}, {test_images}", leave=False, disable=None):
                settings = {"images": 300, "test_images": test_images, "seed": seed, **draw_settings(kind, seed)}
                with temporary_sample(kind, **settings) as sample:
                    workspace = Workspace(sample.competition, sample.folder)
                    errors, warnings = check_file(workspace, sample.path, sample.rival)
                rejected += bool(errors)
                warned += bool(warnings)
                found.update({" ".join(message.split("'")[2].split()[:4]) if "'" in message else message[:40]
                             for message in errors + warnings})
            table.add_row(kind, str(test_images), str(samples), str(rejected), str(warned),
                          ", ".join(f"{message} ({count})" for message, count in found.most_common(2)))
    CONSOLE.print(table)


def draw_settings(kind: str, seed: int) -> dict:
    """Settings of a sample: weak to strong models, constant images or none, another prevalence in the test part."""
    rng = np.random.default_rng(seed)
    factor = rng.uniform(0.8, 1.2)
    rates = [*RATES[kind]]
    if len(rates) > 1:
        rates[-1] = rng.choice([0.02, 0.05, rates[-1]])
    return {"skill": rng.uniform(1, 5), "constant": rng.choice([0, 0.1, 0.25]), "rates": tuple(rates),
            "test_rates": tuple(min(0.9, factor * rate) for rate in rates)}


def show_large(rows: int) -> None:
    """Seconds and memory of one large multilabel file."""
    with temporary_sample("multilabel", images=rows, test_images=rows) as sample:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        messages = check_file(Workspace(sample.competition, sample.folder), sample.path, sample.rival)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    CONSOLE.print(f"{rows:,} rows of 3 labels, as many out of fold: {seconds:.1f} s, peak memory {peak / 1024:.0f} MB "
                  f"({before / 1024:.0f} MB before, to generate it); {messages}")


if __name__ == "__main__":
    main()
