"""The plugin "debug": prints every trace of every program while it is compiled."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from thunder.plugins.plugin import Choices, Plugin, register_plugin
from thunder.trace import Trace


def print_to_stderr(trace: Trace) -> Trace:
    """A transform that prints the trace and leaves it as it is."""
    print(trace, file=sys.stderr)
    return trace


@register_plugin
class DebugPlugin(Plugin):
    """Prints the acquired trace, and warns of Python that cannot be replayed."""

    name = "debug"

    def apply(self, choices: Choices, target: Callable[..., Any]) -> Choices:
        choices.transforms.append(print_to_stderr)
        choices.options.setdefault("sharp_edges", "warn")
        return choices
