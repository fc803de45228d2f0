"""What a plugin is, and the registry of plugins by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from thunder.errors import OptionError, unknown_name


@dataclass
class Choices:
    """What `thunder.compile` hands to `thunder.jit`.

    Attributes:
        transforms: passes `Trace -> Trace`.
        executors: names or instances in order of preference; None for the defaults.
        options: further arguments of `thunder.jit`.
        front_end: "interpreter" acquires the whole call as one program; "dynamo" leaves acquisition to torch.compile,
            with its graph breaks and dynamic shapes.
        notes: lines for `thunder.compile_stats(...).notes`.
    """

    transforms: list[Callable[..., Any]] = field(default_factory=list)
    executors: list[Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    front_end: str = "interpreter"
    notes: list[str] = field(default_factory=list)


class Plugin:
    """Changes the choices for a model; subclass and override `apply`.

    Attributes:
        name: the name in `thunder.compile(model, plugins=...)`.
    """

    name = ""

    def apply(self, choices: Choices, target: Callable[..., Any]) -> Choices:
        """The changed choices for `target`, a model or function."""
        raise NotImplementedError(f"{type(self).__qualname__} does not override `apply`")

    def check(self, target: Callable[..., Any]) -> None:
        """Raises when `apply` would; called for all plugins before any of them changes the model."""

    def check_after(self, earlier: Sequence[Plugin], target: Callable[..., Any]) -> None:
        """Raises when `apply` would once the plugins listed before this one have changed the model; as `check`."""

    def refuses(self, other: Plugin) -> str | None:
        """A sentence that says why the two cannot be used together, or None."""
        return None

    def refuses_to_follow(self, other: Plugin) -> str | None:
        """A sentence that says why this plugin cannot be given after the other one, or None."""
        return None


_registry: dict[str, Callable[[], Plugin]] = {}


def register_plugin(plugin: type[Plugin]) -> type[Plugin]:
    """Makes a plugin class known by its name; usable as a decorator."""
    if not plugin.name:
        raise OptionError(f"{plugin.__qualname__} has no name", remedy="set the class attribute `name`")
    _registry[plugin.name] = plugin
    return plugin


def plugin_names() -> list[str]:
    return sorted(_registry)


def resolve_plugins(plugins: str | Plugin | Sequence[str | Plugin] | None) -> list[Plugin]:
    """Names and instances to instances, in order."""
    if plugins is None:
        return []
    listed = [plugins] if isinstance(plugins, (str, Plugin)) else list(plugins)
    resolved = []
    for plugin in listed:
        if isinstance(plugin, Plugin):
            resolved.append(plugin)
        elif isinstance(plugin, type) and issubclass(plugin, Plugin):
            resolved.append(plugin())
        elif plugin in _registry:
            resolved.append(_registry[plugin]())
        else:
            raise unknown_name("plugin", plugin, plugin_names())
    return resolved


def check_together(plugins: Sequence[Plugin]) -> None:
    """Raises `OptionError` when two of the plugins cannot be used together."""
    for number, plugin in enumerate(plugins):
        for other in plugins[:number]:
            if type(plugin) is type(other) and plugin == other:
                raise OptionError(f"the plugin {plugin.name!r} is given twice", remedy="name it once")
            reason = plugin.refuses(other) or other.refuses(plugin)
            if reason is not None:
                raise OptionError(reason, remedy=f"use one of {other.name!r} and {plugin.name!r}")
            reason = plugin.refuses_to_follow(other)
            if reason is not None:
                raise OptionError(reason, remedy="the order is: what changes layers, 'tp', 'ddp' or 'fsdp', 'pp'")
