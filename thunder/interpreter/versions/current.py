"""Selects the table of the running Python."""

from __future__ import annotations

import importlib
import sys
from types import CodeType

from ..errors import UnsupportedPythonError
from ..program import Translation
from .bytecode import Table, translate

_KNOWN = {(3, 10): "python310", (3, 11): "python311", (3, 12): "python312", (3, 13): "python313"}


def _load_table() -> Table:
    module = _KNOWN.get(sys.version_info[:2])
    if module is None:
        raise UnsupportedPythonError(sys.version_info[:2])
    # Only the running version's table can be imported: the others name instructions that this Python lacks.
    return importlib.import_module(f".{module}", __package__).TABLE


TABLE = _load_table()


def translate_code(code: CodeType) -> Translation:
    """The instructions of `code` in the common instruction set."""
    return translate(code, TABLE)
