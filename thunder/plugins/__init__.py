"""Plugins: named changes to how a model is compiled."""

from thunder.plugins.ddp import DDP
from thunder.plugins.debug import DebugPlugin
from thunder.plugins.float8 import FP8, MXFP8
from thunder.plugins.fsdp import FSDP
from thunder.plugins.plugin import (
    Choices,
    Plugin,
    check_together,
    plugin_names,
    register_plugin,
    resolve_plugins,
)
from thunder.plugins.pp import PP
from thunder.plugins.quantize import FP6, MXFP4, NVFP4, QuantizeInt4, QuantizeInt8, QuantizePlugin
from thunder.plugins.reduce_overhead import ReduceOverheadPlugin
from thunder.plugins.tp import TP

__all__ = [
    "DDP",
    "FSDP",
    "PP",
    "TP",
    "FP6",
    "FP8",
    "MXFP4",
    "MXFP8",
    "NVFP4",
    "Choices",
    "DebugPlugin",
    "Plugin",
    "QuantizeInt4",
    "QuantizeInt8",
    "QuantizePlugin",
    "ReduceOverheadPlugin",
    "check_together",
    "plugin_names",
    "register_plugin",
    "resolve_plugins",
]
