"""Acquisition: the user's Python, run once under the interpreter, becomes a program."""

from thunder.acquire.acquire import acquire, acquisition
from thunder.acquire.program import PlainCall, Program
from thunder.acquire.scopes import module_scopes
from thunder.acquire.symbols import Seen, marked_sizes

__all__ = ["PlainCall", "Program", "Seen", "acquire", "acquisition", "marked_sizes", "module_scopes"]
