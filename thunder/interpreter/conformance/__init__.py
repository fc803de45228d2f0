"""Runs CPython's own tests natively and under the interpreter, and compares.

`python -m thunder.interpreter.conformance` is the command; see docs/conformance.md for its results.
"""

from __future__ import annotations
