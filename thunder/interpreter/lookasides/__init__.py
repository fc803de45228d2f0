"""Look-asides: what the interpreter calls instead of certain builtins.

`frame_lookasides` are builtins that ask for the caller's frame, which must be the interpreted one.
`callback_lookasides` are builtins that call back Python code, which must run interpreted.
`import_lookasides` interpret the import system and whatever makes functions; only for whole programs.
"""

from __future__ import annotations

from .callbacks import callback_lookasides
from .frames import frame_lookasides
from .programs import import_lookasides

__all__ = ["callback_lookasides", "frame_lookasides", "import_lookasides"]
