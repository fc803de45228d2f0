"""Compares a compiled function with eager PyTorch in everything that a caller can see."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from record import record

from thunder.executors import CompiledComputation, compile_computation, resolve_executors


def compile_function(
    function: Callable[..., Any], *args: Any, executors: Sequence[str] = ("aten",), **options: Any
) -> tuple[CompiledComputation, list[Any]]:
    """(compiled computation, the tensors that it takes) for `function(*args)`."""
    trace, inputs = record(function, *args)
    compiled = compile_computation(
        trace,
        executors=resolve_executors(executors),
        grad_enabled=torch.is_grad_enabled(),
        worthwhile_seconds=0.0,
        **options,
    )
    return compiled, inputs


def clone_all(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Leaves with the same values, strides and requires_grad; tensors that are one stay one."""
    clones: dict[int, torch.Tensor] = {}
    for tensor in tensors:
        if id(tensor) not in clones:
            copied = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
            copied.copy_(tensor.detach())
            clones[id(tensor)] = copied.requires_grad_(tensor.requires_grad)
    return [clones[id(tensor)] for tensor in tensors]


def sharing(tensors: Sequence[Any]) -> list[list[bool]]:
    """Which of the tensors share storage with which."""
    storages = [t.untyped_storage()._cdata if isinstance(t, torch.Tensor) else object() for t in tensors]
    return [[a == b for b in storages] for a in storages]


def check(
    function: Callable[..., Any],
    *args: Any,
    executors: Sequence[str] = ("aten",),
    lowered: bool = True,
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    **options: Any,
) -> CompiledComputation:
    """Runs `function` eagerly and compiled, and compares everything: twice, as state may change between calls.

    Compared: outputs with shapes, strides, dtypes and requires_grad; which outputs are inputs or share memory;
    inputs changed in place; gradients of every input.

    Args:
        lowered: whether the program is expected to be lowered, or to run as it stands with a note.
    """
    compiled, inputs = compile_function(function, *args, executors=executors, **options)
    assert bool(compiled.notes) is not lowered, compiled.notes
    eager_function, flat = eager(function, *args)
    tolerances = {} if rtol is None and atol is None else {"rtol": rtol or 0.0, "atol": atol or 0.0}
    ours_inputs, theirs_inputs = clone_all(flat), clone_all(flat)
    for _ in range(2):
        torch.manual_seed(seed)
        ours = list(compiled.run(*ours_inputs))
        torch.manual_seed(seed)
        theirs = eager_function(theirs_inputs)
        assert len(ours) == len(theirs)
        compare(ours, theirs, tolerances)
        compare(ours_inputs, theirs_inputs, tolerances)
        positions = [[x is y for y in ours_inputs] for x in ours], [[x is y for y in theirs_inputs] for x in theirs]
        assert positions[0] == positions[1], "outputs that are inputs"
        assert sharing([*ours, *ours_inputs]) == sharing([*theirs, *theirs_inputs])
        compare_gradients(ours, ours_inputs, theirs, theirs_inputs, tolerances)
    return compiled


def eager(function: Callable[..., Any], *args: Any) -> tuple[Callable[[list[Any]], list[Any]], list[Any]]:
    """(function of the flat list of inputs, that list): what the compiled computation is compared with."""
    if not isinstance(function, torch.nn.Module):
        flat, spec = pytree.tree_flatten(args)
        order = list(dict.fromkeys(position for position, leaf in enumerate(flat) if isinstance(leaf, torch.Tensor)))
        unique = list({id(flat[position]): flat[position] for position in order}.values())

        def call(inputs: list[Any]) -> list[Any]:
            given = dict(zip(map(id, unique), inputs))
            leaves = [given.get(id(leaf), leaf) for leaf in flat]
            return pytree.tree_leaves(function(*pytree.tree_unflatten(leaves, spec)))

        return call, unique
    state = {**dict(function.named_parameters()), **dict(function.named_buffers())}
    tensors = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    ordered: dict[str, torch.Tensor] = {}
    for path, module in function.named_modules():
        for store in (module._parameters, module._buffers):
            for key, value in store.items():
                name = f"{path}.{key}".lstrip(".")
                if value is not None and name in state:
                    ordered[name] = value
    twin = copy.deepcopy(function)

    def call_module(inputs: list[Any]) -> list[Any]:
        replaced = dict(zip(ordered, inputs[len(tensors) :]))
        flat, spec = pytree.tree_flatten(args)
        given = dict(zip(map(id, tensors), inputs))
        leaves = [given.get(id(leaf), leaf) for leaf in flat]
        result = torch.func.functional_call(twin, replaced, pytree.tree_unflatten(leaves, spec))
        return pytree.tree_leaves(result)

    return call_module, [*tensors, *ordered.values()]


def compare(ours: Sequence[Any], theirs: Sequence[Any], tolerances: dict[str, float]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(other, torch.Tensor):
            torch.testing.assert_close(mine, other, equal_nan=True, check_stride=True, **tolerances)
            assert mine.requires_grad == other.requires_grad
        else:
            assert mine == other


def compare_gradients(
    ours: Sequence[Any],
    ours_inputs: Sequence[torch.Tensor],
    theirs: Sequence[Any],
    theirs_inputs: Sequence[torch.Tensor],
    tolerances: dict[str, float],
) -> None:
    generator = torch.Generator().manual_seed(1)
    wanted = [n for n, tensor in enumerate(theirs) if isinstance(tensor, torch.Tensor) and tensor.requires_grad]
    leaves = [n for n, tensor in enumerate(theirs_inputs) if tensor.requires_grad and tensor.is_leaf]
    if not wanted or not leaves:
        return
    tangents = [torch.randn(theirs[n].shape, generator=generator).to(theirs[n].dtype) for n in wanted]
    both = []
    for outputs, inputs in ((ours, ours_inputs), (theirs, theirs_inputs)):
        both.append(
            torch.autograd.grad([outputs[n] for n in wanted], [inputs[n] for n in leaves], tangents, allow_unused=True)
        )
    for mine, other in zip(*both, strict=True):
        assert (mine is None) == (other is None), "a gradient is missing"
        if other is not None:
            torch.testing.assert_close(mine, other, equal_nan=True, **tolerances)
