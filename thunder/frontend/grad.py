"""`thunder.grad`: the gradient of a function as a compiled function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from thunder import _torch_compat
from thunder.errors import OptionError
from thunder.frontend.compiled import module_lookasides
from thunder.frontend.jit import jit


def grad(
    fn: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, **options: Any
) -> Callable[..., Any]:
    """The function that computes the gradient of `fn`, which must return a scalar tensor.

    Args:
        fn: a function of tensors, or of nested lists, tuples and dicts of tensors.
        argnums: position or positions of the arguments with respect to which it is differentiated; negative ones
            count from the end.
        has_aux: `fn` returns `(scalar, anything)`; its tensors are handed out beside the gradient, without a gradient
            of their own.
        options: as in `thunder.jit`.

    Returns:
        A function of the same arguments; it returns one gradient, or a tuple of them for several positions, each
        like its argument, and with `has_aux` the pair of that and the rest.  What it returns can be differentiated
        in turn, as with `torch.func.grad`: where an argument, or a parameter that `fn` reads, requires grad.

    Raises:
        OptionError: for positions without tensors, and for results that are no scalar.

    Example:
        >>> import torch, thunder
        >>> thunder.grad(lambda x: (x * x).sum())(torch.tensor([3.0]))
        tensor([6.])
    """
    return Gradient(fn, argnums, has_aux, options)


class Gradient:
    """What `grad` returns."""

    def __init__(
        self, fn: Callable[..., Any], argnums: int | Sequence[int], has_aux: bool, options: dict[str, Any]
    ) -> None:
        if not isinstance(fn, torch.nn.Module):
            functools.update_wrapper(self, fn, updated=())
        self.fn, self.argnums, self.has_aux = fn, argnums, has_aux
        self.positions = _positions(argnums)
        self.transformed = torch.func.grad(
            fn, argnums=argnums if isinstance(argnums, int) else self.positions, has_aux=has_aux
        )
        self.compiled = jit(fn, **options)
        self.compiled_transformed = jit(self.transformed, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _torch_compat.is_transformed():
            return self.transformed(*args, **kwargs)  # compiled with what is around it, or not at all
        grad_enabled = torch.is_grad_enabled()
        if grad_enabled and any(_requires_grad(leaf) for leaf in pytree.tree_leaves((args, kwargs))):
            return self.compiled_transformed(*args, **kwargs)
        with torch.enable_grad():
            chosen = [_differentiated(self.fn, args, position) for position in self.positions]
            given = list(args)
            for position, argument in zip(self.positions, chosen):
                given[position] = argument
            value, rest = _value_and_rest(self.fn, self.compiled(*given, **kwargs), self.has_aux)
            leaves, structure = pytree.tree_flatten(tuple(chosen))
            if grad_enabled and _depends_on_others(value, leaves):
                return self.compiled_transformed(*args, **kwargs)
            gradients = _gradients(value, leaves)
        found = pytree.tree_unflatten(gradients, structure)
        found = found[0] if isinstance(self.argnums, int) else found
        return (found, rest) if self.has_aux else found

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """A gradient in a class binds as any function does."""
        return self if instance is None else functools.partial(self, instance)


module_lookasides[Gradient.__call__] = lambda interp, gradient, *args, **kwargs: interp.call(
    gradient.transformed, *args, **kwargs
)


def _positions(argnums: int | Sequence[int]) -> tuple[int, ...]:
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not positions or not all(type(position) is int for position in positions):
        raise OptionError(f"argnums={argnums!r} is no position", remedy="pass an int or several")
    return positions


def _requires_grad(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.requires_grad


def _differentiated(fn: Callable[..., Any], args: Sequence[Any], position: int) -> Any:
    """The argument at a position with leaves that require grad for its tensors."""
    argument = args[position] if -len(args) <= position < len(args) else None
    leaves, structure = pytree.tree_flatten(argument)
    if not leaves or not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
        raise OptionError(f"argument {position} of {fn!r} is no tensor", remedy="choose other argnums")
    return pytree.tree_unflatten([leaf.detach().requires_grad_() for leaf in leaves], structure)


def _value_and_rest(fn: Callable[..., Any], result: Any, has_aux: bool) -> tuple[torch.Tensor, Any]:
    """The scalar to differentiate, and what `fn` returns beside it."""
    if has_aux and not (isinstance(result, tuple) and len(result) == 2):
        raise OptionError(f"{fn!r} does not return a pair", remedy="return (scalar, rest), or leave has_aux out")
    value, rest = result if has_aux else (result, None)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise OptionError(f"{fn!r} does not return a scalar tensor", remedy="reduce its result with .sum()")
    return value, pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, rest)


def _gradients(value: torch.Tensor, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True))


def _depends_on_others(value: torch.Tensor, leaves: Sequence[torch.Tensor]) -> bool:
    """Whether tensors beside these require grad and the value depends on them: parameters that the function reads."""
    known = {id(leaf) for leaf in leaves}
    pending: list[Any] = [value.grad_fn]
    seen: set[Any] = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in known:
            return True
        pending += [parent for parent, _ in node.next_functions]
    return False
