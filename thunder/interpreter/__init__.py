"""A bytecode interpreter for CPython 3.10 to 3.13, written in Python; it needs nothing but the standard library.

`Interpreter().call(function, *arguments)` runs a Python function instruction by instruction.  A `Tracker` is told where
every value comes from and what is written.  See docs/interpreter.md.
"""

from __future__ import annotations

from . import handlers
from .errors import InterpreterError, UnsupportedInstructionError, UnsupportedPythonError
from .extensions import extended
from .frame import NULL, Frame
from .interpreter import Interpreter
from .lookup import observed_lookups, type_lookup
from .tracker import Tracker

__all__ = [
    "NULL",
    "Frame",
    "Interpreter",
    "InterpreterError",
    "Tracker",
    "UnsupportedInstructionError",
    "UnsupportedPythonError",
    "extended",
    "handlers",
    "observed_lookups",
    "type_lookup",
]
