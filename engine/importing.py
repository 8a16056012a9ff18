"""Packages that a page of the dashboard hides: pages/datasets.py and Hugging Face's `datasets` have one name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from engine.settings import ROOT

PAGES = ROOT / "pages"


def load(name: str) -> ModuleType:
    """Import a package as it is outside the dashboard.

    While Streamlit runs a page, the folder of pages stands first on the path, and whatever imports `datasets` for the
    first time (cleanlab does) would run the page of that name instead.
    """
    hiding = [one for one in sys.path if one and Path(one).resolve() == PAGES]
    for one in hiding:
        sys.path.remove(one)
    try:
        return importlib.import_module(name)
    finally:
        sys.path[:0] = hiding
