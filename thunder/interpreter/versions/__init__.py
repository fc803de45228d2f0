"""The one place in which Python versions differ.

`translate_code(code)` gives the instructions of a code object of the running Python in the common instruction set
(see `instructions`).  Each `pythonXYZ` module holds the table of one version; a new version needs a new table.
"""

from __future__ import annotations

from .current import translate_code

__all__ = ["translate_code"]
