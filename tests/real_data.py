"""Folders the tests read: the code, and public X-rays that are not part of this repository."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
DATA = ROOT.parent / "shared" / "data"

SOURCES = {
    "nih1000": "a sample of NIH ChestX-ray14, 1,000 images of 64x64 pixels in images/ with sample_labels.csv "
    "(Wang et al. 2017; NIH Clinical Center, free use with acknowledgement; Kaggle's nih-chest-xrays/sample is CC0)",
    "nih_labels": "Data_Entry_2017_v2020.csv.gz, the label table of NIH ChestX-ray14 (NIH Clinical Center, free use "
    "with acknowledgement; https://nihcc.app.box.com/v/ChestXray-NIHCC)",
    "chest_xray": "Kaggle's paultimothymooney/chest-xray-pneumonia as {train,test}/{NORMAL,PNEUMONIA}/, "
    "resized to 224x224 (Kermany et al. 2018, CC BY 4.0)",
}


def missing(folder: str) -> str:
    """Why a test that reads DATA / folder is skipped: what the data are, their licence, and where to put them."""
    return f"needs ../shared/data/{folder} (beside this repository): {SOURCES[folder]}"


def needs(*folders: str) -> pytest.MarkDecorator:
    """Mark that skips a test unless every named folder of public data is there."""
    absent = [folder for folder in folders if not (DATA / folder).exists()]
    return pytest.mark.skipif(bool(absent), reason="; ".join(missing(folder) for folder in absent))


def require(folder: str) -> Path:
    """The folder DATA / folder, for use inside a test or fixture, which is skipped where it is not there."""
    if not (DATA / folder).exists():
        pytest.skip(missing(folder))
    return DATA / folder
