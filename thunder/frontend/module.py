"""Compiled modules: an `nn.Module` whose calls run compiled and that shares everything with the original.

The compiled module is an instance of a subclass of the model's own class and has the model's own `__dict__`.
Parameters, buffers, submodules, attributes, `state_dict`, `train`, `to` and methods such as `generate` therefore
are the original's, in both directions; only `__call__` differs.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from thunder.frontend.compiled import CompiledFunction, Options, module_lookasides

_classes: dict[tuple[type, tuple[type, ...]], type] = {}


class CompiledModuleMethods:
    """What a compiled module has beside the methods of the model's class."""

    __slots__ = ()
    _thunder: CompiledFunction

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._thunder.dispatch(args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        model = copy.deepcopy(self._thunder.function, memo)
        return compile_module(model, self._thunder.options, _mixins_of(self))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return compile_module, (self._thunder.function, self._thunder.options, _mixins_of(self))


def compile_module(model: torch.nn.Module, options: Options, mixins: tuple[type, ...] = ()) -> torch.nn.Module:
    """A module that runs `model` compiled and shares its state; methods of `mixins` replace those of its class."""
    if is_compiled_module(model):
        model = original_module(model)
    kind = type(model)
    compiled_kind = _classes.get((kind, mixins))
    if compiled_kind is None:
        namespace = {"__slots__": ("_thunder",), "__module__": kind.__module__, "__doc__": kind.__doc__}
        compiled_kind = _classes[kind, mixins] = type(kind.__name__, (CompiledModuleMethods, *mixins, kind), namespace)
    compiled: Any = object.__new__(compiled_kind)
    object.__setattr__(compiled, "__dict__", model.__dict__)
    object.__setattr__(compiled, "_thunder", CompiledFunction(model, options))
    return compiled


def _mixins_of(compiled: Any) -> tuple[type, ...]:
    bases = type(compiled).__bases__
    return bases[1:-1]


def is_compiled_module(module: Any) -> bool:
    """Whether `module` was made by `compile_module`."""
    return isinstance(module, CompiledModuleMethods)


def original_module(module: Any) -> torch.nn.Module:
    """The model that a compiled module runs."""
    return module._thunder.function


module_lookasides[CompiledModuleMethods.__call__] = lambda interp, module, *args, **kwargs: interp.call(
    module._thunder.function, *args, **kwargs
)
