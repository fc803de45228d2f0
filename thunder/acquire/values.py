"""Values of small tensors that the program looks at.

Some programs decide on the values of a small tensor that they are given: the grid of an image, lengths, a mask of
special tokens.  Such values are computed for real from the arguments, become constants of the program, and the
prologue guards the arguments' values: other values mean another program.

Input: a shadow.  Output: its real value, or None when it depends on anything that is large, random or a
floating-point argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from thunder.acquire.guards import Prologue
from thunder.acquire.sources import Source
from thunder.trace import Op, Var, iterate_vars, map_vars

LARGEST = 4096
"""Elements of the largest argument whose values are guarded."""
LARGEST_SETTING = 64
"""The same for floating-point tensors that the program keeps (buffers); those of arguments are never guarded."""
_TAKE_SIZES = frozenset({"expand_as", "view_as", "reshape_as"})
LARGEST_INTERMEDIATE = 1 << 20
"""Elements of the largest tensor that is computed on the way from arguments to a value."""
_NOT_REPEATABLE = (
    "rand", "dropout", "bernoulli", "multinomial", "normal", "uniform", "exponential", "empty", "as_strided",
    "set_data", "checkpoint", "apply", "backward", "state",
)  # fmt: skip
"""Names, or parts of them, of calls whose results depend on more than the values of their arguments."""
_PURE_NAMESPACES = frozenset({"aten", "prim", "prims"})
"""Of operators that other than by random numbers, which a tag tells, depend on their arguments alone."""


class _DependsOnMore(Exception):
    """A value would be made by an operator whose result depends on more than its arguments."""


class _Repeatable(TorchDispatchMode):
    """Lets PyTorch's own operators through that draw no random numbers; others are not even called once."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace not in _PURE_NAMESPACES or torch.Tag.nondeterministic_seeded in func.tags:
            raise _DependsOnMore
        return func(*args, **(kwargs or {}))


@dataclass
class _Recipe:
    """How a value is computed from inputs.

    Attributes:
        ops: the operations, in order.
        result: the Var of the value.
        keys: ids of the Vars of the inputs.
        inputs: (source, real tensor) of each.
        likes: tensors of which only the sizes are asked for, by the ids of their Vars.
    """

    ops: list[Op]
    result: Var
    keys: list[int]
    inputs: list[tuple[Source, torch.Tensor]]
    likes: dict[int, torch.Tensor]

    def compute(self, *tensors: torch.Tensor) -> Any:
        """The value, from values of the inputs, which stay as they are."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            known: dict[int, Any] = dict(self.likes)
            known.update((key, real.detach().clone()) for key, real in zip(self.keys, tensors))
            for op in self.ops:
                args = map_vars(lambda var: known[id(var)], op.args)
                kwargs = map_vars(lambda var: known[id(var)], op.kwargs)
                _bind(op.result, op.target(*args, **kwargs), known)
        return known[id(self.result)]

    def number(self, *tensors: torch.Tensor) -> int:
        """The only number in the value."""
        return int(self.compute(*tensors))


class Values:
    """Computes and guards values.

    Args:
        prologue: receives the guards.
        input_of: (source, real tensor) of an input's shadow, or None.
        varying: places whose values differ from call to call: they are not guarded, and unknown.

    Attributes:
        checks: the place that each guard is about, by the guard's number.
    """

    def __init__(
        self,
        prologue: Prologue,
        input_of: Callable[[torch.Tensor], tuple[Source, torch.Tensor] | None],
        varying: frozenset[str] = frozenset(),
    ) -> None:
        self.prologue = prologue
        self.input_of = input_of
        self.varying = varying
        self.checks: dict[int, Source] = {}
        self._guarded: set[int] = set()

    def of(
        self, shadow: torch.Tensor, variables: dict[int, Var], kept: Sequence[Any], ops: Sequence[Op]
    ) -> torch.Tensor | None:
        """The value of `shadow`; guards the arguments that it was computed from.

        Args:
            variables: the Var of each shadow, by its id.
            kept: the shadows.
            ops: what has been recorded so far.
        """
        recipe = self._recipe(shadow, variables, kept, ops)
        if recipe is None or any(source.describe() in self.varying for source, _ in recipe.inputs):
            return None
        try:
            with _Repeatable():
                value = recipe.compute(*(real for _, real in recipe.inputs))
        except _DependsOnMore:
            return None
        if not isinstance(value, torch.Tensor) or value.shape != shadow.shape:
            return None
        for source, real in recipe.inputs:
            self._guard(source, real)
        return value

    def measure(
        self, shadow: torch.Tensor, variables: dict[int, Var], kept: Sequence[Any], ops: Sequence[Op]
    ) -> tuple[int, str, str] | None:
        """(number in `shadow`, expression by which the prologue computes it anew, what it is made from), or None.

        This is for arguments whose values vary: not they are guarded, but what the program makes of the number.
        """
        recipe = self._recipe(shadow, variables, kept, ops)
        if recipe is None or shadow.numel() != 1 or not _is_discrete(shadow):
            return None
        try:
            with _Repeatable():
                number = recipe.number(*(real for _, real in recipe.inputs))
        except _DependsOnMore:
            return None
        names = ", ".join(self.prologue.expression(source) for source, _ in recipe.inputs)
        places = ", ".join(source.describe() for source, _ in recipe.inputs)
        return number, f"{self.prologue.bind(recipe.number, 'number')}({names})", f"a number made from {places}"

    def _recipe(
        self, shadow: torch.Tensor, variables: dict[int, Var], kept: Sequence[Any], ops: Sequence[Op]
    ) -> _Recipe | None:
        variable = variables.get(id(shadow))
        if variable is None:
            return None
        shadows = {id(variables[id(item)]): item for item in kept if id(item) in variables}
        found = self._needed(variable, shadows, ops)
        if found is None:
            return None
        chosen, inputs = found
        likes = {id(var): _stand_in(shadows[id(var)]) for op in chosen for var in _taken_for_its_sizes(op)}
        if any("changes" in op.tags for op in chosen) and _share_storage([real for _, real in inputs.values()]):
            return None
        return _Recipe(chosen, variable, list(inputs), list(inputs.values()), likes)

    def _needed(
        self, wanted: Var, shadows: dict[int, torch.Tensor], ops: Sequence[Op]
    ) -> tuple[list[Op], dict[int, tuple[Source, torch.Tensor]]] | None:
        """(operations that `wanted` takes, in order, inputs by the id of their Var); None when one has no known value.

        An operation that changes a tensor is needed when the tensor, or another view of it, is needed later.
        """
        needed = {id(wanted)}
        storages = {_storage(shadows.get(id(wanted)))}
        made: set[int] = set()
        chosen: list[Op] = []
        for op in reversed(ops):
            results = [var for var in iterate_vars(op.result) if id(var) in needed and id(var) not in made]
            changes = [var for var in op.tags.get("changes", ()) if _storage(shadows.get(id(var))) in storages]
            if not results and not changes:
                continue
            taken = [var for var in op.inputs() if var not in _taken_for_its_sizes(op)]
            if not self._may_be_computed(op, shadows):
                return None
            chosen.append(op)
            made.update(id(var) for var in results if var not in taken)
            needed.update(map(id, taken))
            storages.update(_storage(shadows.get(id(var))) for var in taken)
        inputs: dict[int, tuple[Source, torch.Tensor]] = {}
        for key in needed - made:
            shadow = shadows.get(key)
            found = None if shadow is None else self.input_of(shadow)
            if found is None or not _may_be_guarded(*found):
                return None
            inputs[key] = found
        return chosen[::-1], inputs

    @staticmethod
    def _may_be_computed(op: Op, shadows: dict[int, torch.Tensor]) -> bool:
        """Whether an operation can be made now, from values, as it will be made later."""
        if any(word in op.name for word in _NOT_REPEATABLE):
            return False
        for var in iterate_vars(op.result):
            shadow = shadows.get(id(var))
            if shadow is None or _is_wrapped(shadow) or not all(type(size) is int for size in shadow.shape):
                return False
            if shadow.numel() > LARGEST_INTERMEDIATE:
                return False
        return True

    def _guard(self, source: Source, real: torch.Tensor) -> None:
        if id(real) in self._guarded:
            return
        self._guarded.add(id(real))
        name, bind = self.prologue.expression(source), self.prologue.bind
        with torch._C.DisableTorchFunction():
            expected = real.detach().clone()
        self.checks[len(self.prologue.checks)] = source
        self.prologue.check(
            f"{bind(holds_values)}({name}, {bind(expected)})", lambda: f"values of {source.describe()} are unchanged"
        )


def _may_be_guarded(source: Source, real: torch.Tensor) -> bool:
    """Whether an input is so small that its values can be asked for at every call.

    Floating-point arguments differ from call to call; a few numbers that the model itself keeps are settings.
    """
    if real.is_meta:
        return False
    if _is_discrete(real):
        return real.numel() <= LARGEST
    return source.stable and real.numel() <= LARGEST_SETTING


def _is_discrete(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex()


def _taken_for_its_sizes(op: Op) -> list[Var]:
    """The argument of which an operation reads sizes only."""
    return [op.args[1]] if op.name in _TAKE_SIZES and len(op.args) > 1 and isinstance(op.args[1], Var) else []


def _stand_in(shadow: torch.Tensor) -> torch.Tensor:
    """A tensor of the same sizes that takes no memory."""
    return torch.zeros((), dtype=shadow.dtype).expand(shadow.shape)


def _share_storage(tensors: Sequence[torch.Tensor]) -> bool:
    return len({tensor.untyped_storage()._cdata for tensor in tensors}) < len(tensors)


def _storage(tensor: torch.Tensor | None) -> int:
    """What tells the storage of a tensor from others; tensors within function transforms count as one."""
    if tensor is None:
        return 0
    return -1 if _is_wrapped(tensor) else tensor.untyped_storage()._cdata


def _is_wrapped(tensor: torch.Tensor) -> bool:
    """Whether a tensor belongs to a function transform, outside of which it has no value."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def holds_values(tensor: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors are alike in dtype, shape, device and every value."""
    if tensor.dtype is not expected.dtype or tensor.device != expected.device:
        return False
    return torch.equal(tensor, expected)


def _bind(structure: Any, results: Any, known: dict[int, Any]) -> None:
    """Remembers results under the Vars that stand for them in `structure`."""
    if isinstance(structure, Var):
        known[id(structure)] = results
    elif isinstance(structure, (tuple, list)):
        for part, result in zip(structure, results):
            _bind(part, result, known)
