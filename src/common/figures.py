"""Figures written as image files, never half-written."""

from pathlib import Path
from typing import TYPE_CHECKING

from common.files import replace_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110


def save_figure(figure: "Figure", path: Path, dpi: int = DPI, **options: object) -> Path:
    """Writes a figure as an image in the format of the path's ending; returns the path.

    options: further arguments of matplotlib's `savefig`, `metadata` for example.
    """
    with replace_atomically(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=dpi, **options)
    return path
