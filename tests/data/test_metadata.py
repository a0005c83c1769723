"""A table's other columns: numbers, ages, categories, and what is left out."""

import numpy as np
import pandas as pd
import pytest

from data.metadata import is_age, is_sex, parse_columns, to_numbers


def test_dicom_ages_become_years():
    texts = pd.Series(["058Y", " 006M ", "014D", "010W", "60", "1e3", "", "58 Y", "Y58", "058y", "-1"])
    expected = [58, 0.5, 14 / 365.25, 70 / 365.25, 60, 1000, np.nan, np.nan, np.nan, np.nan, -1]
    np.testing.assert_allclose(to_numbers(texts), expected)
    np.testing.assert_allclose(to_numbers(pd.Series(["58Y", "6M", ""])), [58, 0.5, np.nan])
    np.testing.assert_allclose(to_numbers(pd.Series(["1", "2M", "3"])), [1, np.nan, 3])  # a stage, say


def test_columns_are_sorted_by_what_they_hold():
    columns = pd.DataFrame({
        "age": ["58", "", "60.5", "61"], "dicom_age": ["058Y", "006M", "014D", ""], "view": ["AP", "PA", "", "AP"],
        "site": ["1", "2", "1", "2"], "scanner": ["x", "x", "x", "x"], "patient": ["1", "2", "3", "4"],
        "empty": ["", "", "", ""]})
    parsed = parse_columns(columns, {"patient": "it names the patient"})
    assert list(parsed.numeric) == ["age", "dicom_age"]
    np.testing.assert_allclose(parsed.numeric["age"], [58, np.nan, 60.5, 61])
    np.testing.assert_allclose(parsed.numeric["dicom_age"], [58, 0.5, 14 / 365.25, np.nan])
    assert list(parsed.categorical) == ["view", "site"]  # two numbers are two kinds, not an amount
    assert parsed.left_out == {"scanner": "one value throughout", "patient": "it names the patient",
                               "empty": "one value throughout"}


def test_free_text_is_left_out_with_a_reason():
    parsed = parse_columns(pd.DataFrame({"report": [f"words {i}" for i in range(21)]}))
    assert parsed.left_out == {"report": "ids or free text, 21 different values"}
    assert not len(parsed.numeric.columns) and len(parsed.numeric) == 21


@pytest.mark.parametrize("name, is_one", [("Patient Age", True), ("age_approx", True), ("PatientAge", True),
                                          ("AGE", True), ("Image Index", False), ("stage", False), ("dosage", False)])
def test_a_column_of_ages_is_known_by_its_name(name, is_one):
    assert is_age(name) == is_one


@pytest.mark.parametrize("name, is_one", [("Sex", True), ("Patient Gender", True), ("patientSex", True),
                                          ("Sextant", False)])
def test_a_column_of_sexes_is_known_by_its_name(name, is_one):
    assert is_sex(name) == is_one
