"""Acquisition: the user's Python, run once under the interpreter, becomes a program."""

from thunder.acquire.acquire import acquire, acquisition
from thunder.acquire.program import PlainCall, Program

__all__ = ["PlainCall", "Program", "acquire", "acquisition"]
