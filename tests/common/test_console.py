"""Numbers, intervals, counts and ids are written alike everywhere."""

import numpy as np
import pandas as pd
import pytest

from common.console import interval, number, percent, plural, short_id, shorten


@pytest.mark.parametrize("value, text", [(0.91239, "0.9124"), ("0.5", "0.5000"), (1234567.8, "1,234,567.8000"),
                                         (None, "-"), ("", "-"), (np.nan, "-"), (np.inf, "-"), (pd.NA, "-")])
def test_a_number_has_four_decimals_or_is_a_dash(value, text):
    assert number(value) == text


def test_decimals_and_the_sign_can_be_chosen():
    assert number(0.0149, 2, "+") == "+0.01" and number(-0.5, 0, "+") == "-0"
    assert interval(-0.1, 0.25, 2, "+") == "-0.10 to +0.25"


def test_an_interval_without_an_end_is_a_dash():
    assert interval(0.1, np.nan) == interval("", 0.3) == "-"


@pytest.mark.parametrize("share, text", [(0.125, "12.5 %"), ("0.5", "50.0 %"), (None, "-"), (np.nan, "-"), ("", "-")])
def test_a_share_is_written_as_percent(share, text):
    assert percent(share) == text


def test_percent_without_decimals_is_rounded():
    assert percent(0.876, 0) == "88 %"


def test_one_is_singular_and_all_else_plural():
    assert [plural(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert [plural(n, "label", "have") for n in (1, 2)] == ["1 label has", "2 labels have"]


@pytest.mark.parametrize("longest", [7, 8, 22])
def test_a_long_text_loses_its_middle(longest):
    text = "abcdefghijklmnopqrstuvwxyz"
    short = shorten(text, longest)
    start, end = short.split("…")
    assert len(short) == longest and text.startswith(start) and text.endswith(end)
    assert shorten(text[:longest], longest) == text[:longest]


def test_a_short_id_has_no_folders():
    assert short_id("train/NORMAL/IM-0115.jpeg") == "IM-0115.jpeg"
