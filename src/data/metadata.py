"""A label table's other columns, age or view: as numbers, as categories, or neither."""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

MOST_CATEGORIES = 20
YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
AGE = re.compile(rf"(\d{{1,3}})([{''.join(YEARS)}])")  # Source: DICOM PS3.5, 6.2, the value representation AS


@dataclass(frozen=True)
class ParsedColumns:
    """A table's other columns by what they hold, each frame in the table's order."""

    numeric: pd.DataFrame  # float, NaN where empty
    categorical: pd.DataFrame  # text of at most 20 values, "" where empty
    left_out: dict[str, str]  # column: why


def to_numbers(texts: pd.Series) -> pd.Series:
    """Each cell as a number, or, where it is an age as DICOM has it (058Y, 006M), in years; NaN for any other text.

    Ages of fewer digits, 2M, are ages too where no cell is a bare number: beside such they may mean anything.
    """
    texts = texts.astype(str).str.strip()
    numbers = pd.to_numeric(texts, errors="coerce").astype(float)
    ages = texts[numbers.isna() & (texts != "")].str.extract(f"^{AGE.pattern}$")
    if numbers.notna().any():
        ages = ages[ages[0].str.len() == 3]
    return numbers.fillna(ages[0].astype(float) * ages[1].map(YEARS))


def parse_columns(columns: pd.DataFrame, skip: dict[str, str] | None = None) -> ParsedColumns:
    """Text columns as numbers or categories; ids and free text, and those of `skip` (column: why), are left out.

    A column is numeric where every cell that is not empty is a number, or an age as DICOM has it, 058Y, 006M.
    """
    skip, numeric, categorical, left_out = skip or {}, {}, {}, {}
    for column in columns:
        texts = columns[column].astype(str).str.strip()
        filled = texts[texts != ""]
        if column in skip:
            left_out[column] = skip[column]
        elif filled.nunique() < 2 and (texts != "").all() or not len(filled):
            left_out[column] = "one value throughout"
        elif (numbers := _numbers(texts)) is not None and filled.nunique() > 2:
            numeric[column] = numbers
        elif filled.nunique() <= MOST_CATEGORIES:
            categorical[column] = texts
        else:
            left_out[column] = f"ids or free text, {filled.nunique():,} different values"
    return ParsedColumns(pd.DataFrame(numeric, index=columns.index), pd.DataFrame(categorical, index=columns.index),
                         left_out)


def _numbers(texts: pd.Series) -> pd.Series | None:
    """The cells as numbers, NaN where empty; None where any is a word."""
    numbers = to_numbers(texts)
    return None if numbers[texts != ""].isna().any() else numbers.replace([np.inf, -np.inf], np.nan)


def is_age(column: str) -> bool:
    """True for Patient Age, age_approx, PatientAge; not for Image or Stage."""
    return "age" in column_words(column)


def is_sex(column: str) -> bool:
    """True for Sex, Patient Gender, patient_sex."""
    return bool({"sex", "gender"} & set(column_words(column)))


def column_words(column: str) -> list[str]:
    """The words of a column's name in small letters: ["patient", "age"] for PatientAge, Patient_Age and patient age."""
    return re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower())
