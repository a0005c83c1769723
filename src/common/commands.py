"""Commands as messages suggest them: complete and quoted, so that they run as they are printed."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from competition import Competition

# --data-dir by the competition's name, written by commandline.py: most functions with a hint know no data folder
GIVEN_DATA_DIRS: dict[str, Path] = {}


def command_line(script: str, competition: Competition, **flags: object) -> str:
    """A command line of one of our scripts, with --data-dir where this process was given one.

    flags: by name, `data_dir` for --data-dir; a list becomes several words, True a flag without a value, and what is
    None, False or empty is left out.
    Example: command_line("train", DEMO, experiment=["lite0"], fold=[0, 1]) gives
    "python src/train.py --competition demo --experiment lite0 --fold 0 1".
    """
    words = ["python", f"src/{script}.py", "--competition", competition.name]
    for name, value in {"data_dir": GIVEN_DATA_DIRS.get(competition.name), **flags}.items():
        if value is None or value is False or (isinstance(value, (str, list, tuple)) and not value):
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            is_list = isinstance(value, Iterable) and not isinstance(value, str)
            words += map(str, value) if is_list else [str(value)]
    return shlex.join(words)
