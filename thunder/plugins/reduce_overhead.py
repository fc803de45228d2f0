"""The plugin "reduce-overhead": programs are captured in CUDA graphs, training steps too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thunder.plugins.plugin import Choices, Plugin, register_plugin


@register_plugin
class ReduceOverheadPlugin(Plugin):
    """Replays whole programs from CUDA graphs when their calls repeat; `compile_stats().notes` says where it cannot.

    `recipe="auto"` does this for programs without gradients; the plugin adds forward and backward programs of
    training, and notes the reason for every program that cannot be captured.
    """

    name = "reduce-overhead"

    def apply(self, choices: Choices, target: Callable[..., Any]) -> Choices:
        choices.options["cuda_graphs"] = "all"
        return choices
