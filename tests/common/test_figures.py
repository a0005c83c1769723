"""A figure is written as a whole, in the format of its name's ending."""

import pytest
from matplotlib.figure import Figure

from common.figures import save_figure

BEGINS = {"a.png": b"\x89PNG", "a.svg": b"<?xml", "a.pdf": b"%PDF"}


@pytest.mark.parametrize("name", BEGINS)
def test_the_ending_gives_the_format(tmp_path, name):
    path = save_figure(Figure(figsize=(1, 1)), tmp_path / "new" / name)
    assert path.read_bytes().startswith(BEGINS[name])
    assert [each.name for each in path.parent.iterdir()] == [name]


def test_a_failed_write_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"earlier")
    with pytest.raises(TypeError):
        save_figure(Figure(figsize=(1, 1)), path, dpi="many")
    assert path.read_bytes() == b"earlier" and len(list(tmp_path.iterdir())) == 1
