"""Plugins: named changes to how a model is compiled."""

from thunder.plugins.debug import DebugPlugin
from thunder.plugins.plugin import Choices, Plugin, plugin_names, register_plugin, resolve_plugins
from thunder.plugins.reduce_overhead import ReduceOverheadPlugin

__all__ = [
    "Choices",
    "DebugPlugin",
    "Plugin",
    "ReduceOverheadPlugin",
    "plugin_names",
    "register_plugin",
    "resolve_plugins",
]
