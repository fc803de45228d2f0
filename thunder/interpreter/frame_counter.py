"""Counts how many of the executed Python frames were interpreted; slows the program down."""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any

from .frame import Frame
from .tracebacks import is_internal, is_stub_code


class FrameCounter:
    """Counts Python frames: interpreted ones where they are made, native ones through the profiling hooks."""

    def __init__(self) -> None:
        self.interpreted = 0
        self.native = 0
        made = Frame.__init__

        def counted(*arguments: Any) -> None:
            self.interpreted += 1
            made(*arguments)

        Frame.__init__ = counted  # type: ignore[method-assign, assignment]

    def start(self) -> None:
        if hasattr(sys, "monitoring"):
            monitoring: Any = sys.monitoring
            monitoring.use_tool_id(4, "frames")
            monitoring.register_callback(4, monitoring.events.PY_START, self.started)
            monitoring.set_events(4, monitoring.events.PY_START)
        else:
            sys.setprofile(self.profiled)

    def stop(self) -> None:
        if hasattr(sys, "monitoring"):
            sys.monitoring.set_events(4, 0)
        else:
            sys.setprofile(None)

    def started(self, code: CodeType, offset: int) -> Any:
        """Since 3.12: called once for each start, and never again for the interpreter's own code."""
        if is_internal(code) or is_stub_code(code):
            return sys.monitoring.DISABLE  # type: ignore[attr-defined]
        self.native += 1
        return None

    def profiled(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and not is_internal(frame.f_code) and not is_stub_code(frame.f_code):
            self.native += 1
