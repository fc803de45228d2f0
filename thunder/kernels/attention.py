"""Attention: recognises what programs write around `scaled_dot_product_attention` and chooses a better call.

Input: a torch-level trace.  Output: the same program, in which

- attention of one new token over a cache is `thunder::decode_attention`;
- a mask that hides nothing is left out, and one that is the causal one is `is_causal=True`, without which PyTorch's
  flash kernel cannot be used: masks that no input goes into are computed to find out, others recognised when they are
  comparisons of positions;
- keys and values that are repeated for grouped-query attention are handed over as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from thunder.kernels import decode_attention
from thunder.kernels.attention_backends import with_new_layouts
from thunder.kernels.constant_masks import EXACT_OPERATIONS, ConstantMasks
from thunder.kernels.pattern import Definitions
from thunder.kernels.registry import is_disabled, is_wanted_on, kernel_device_type
from thunder.kernels.substitute import Surroundings
from thunder.trace import Op, Trace, Var, trace_pass


@trace_pass
def improve_attention(trace: Trace) -> Trace:
    """Rewrites the calls of attention on devices that kernels are wanted on."""
    if is_disabled("attention"):
        return trace
    definitions = Definitions(trace)
    surroundings = Surroundings(trace)
    constant_masks = ConstantMasks(definitions, surroundings)
    ops = [_improved(op, definitions, surroundings, constant_masks) for op in trace.ops]
    calls = {id(old): new for new, old in zip(ops, trace.ops) if new is not old}
    if not calls:
        return trace
    improved = drop_unused(trace.replace(ops=ops))
    return with_new_layouts(trace, improved, calls)


@dataclass(frozen=True)
class _Mask:
    """What is known of a mask: a conjunction.

    Attributes:
        position: the Var of the queries' positions q, when `j <= q` is one of its parts, else None.
        offset: position of the first query, when that is a constant.
        rest: whether there are other parts.
        ops: what computes the part that was recognised.
    """

    position: Var | None
    offset: int | None
    rest: bool
    ops: tuple[Op, ...]


def _improved(op: Op, definitions: Definitions, surroundings: Surroundings, constant_masks: ConstantMasks) -> Op:
    if op.name != "scaled_dot_product_attention" or not isinstance(op.result, Var):
        return op
    arguments = definitions.call(op).arguments
    names = ("query", "key", "value")
    query, key, value = (arguments.get(name) for name in names)
    if not (isinstance(query, Var) and isinstance(key, Var) and isinstance(value, Var)):
        return op
    mask = arguments.get("attn_mask")
    if not is_wanted_on(query.value.device.type) or query.value.dim() != 4:
        return op
    if any(type(size) is not int for var in (query, key, value) for size in var.value.shape):
        return op
    if isinstance(mask, Var) and not arguments.get("is_causal", False):
        meaning = constant_masks.meaning(mask, op, query.value.shape[2], key.value.shape[2])
        if meaning is not None:
            mask, arguments = None, {**arguments, "attn_mask": None, "is_causal": meaning == "causal"}
    found = _analyse_mask(mask, definitions)
    plain_key, key_ops = without_repetition(key, query, definitions)
    plain_value, value_ops = without_repetition(value, query, definitions)
    if plain_key.value.shape[1] != plain_value.value.shape[1]:
        plain_key, plain_value, key_ops, value_ops = key, value, (), ()
    for peeled, var in ((key_ops, plain_key), (value_ops, plain_value)):
        if peeled and not surroundings.may_move(peeled, op, [var]):
            return op
    if found is not None and found.position is not None:
        if not surroundings.may_move(found.ops, op, [found.position], differentiable=False):
            found = None
    if arguments.get("dropout_p", 0.0) == 0.0:
        call = _decode_call(op, query, plain_key, plain_value, mask, found, arguments)
        if call is not None:
            return call
    return _plain_call(op, (query, key, value), (plain_key, plain_value), found, arguments, definitions)


def _decode_call(
    op: Op, query: Var, key: Var, value: Var, mask: Any, found: _Mask | None, arguments: dict[Any, Any]
) -> Op | None:
    if not decode_attention.is_supported(query.value, key.value, value.value) or op.result.value.requires_grad:
        return None
    if arguments.get("is_causal", False) or not isinstance(arguments.get("scale"), (float, type(None))):
        return None
    position = None
    if isinstance(mask, Var):
        shape = mask.value.shape
        if mask.value.dtype is not torch.bool or len(shape) != 4 or shape[3] != key.value.shape[2]:
            return None
        if found is not None and found.position is not None:
            position = found.position
            mask = mask if found.rest else None
    elif mask is not None:
        return None
    call = (query, key, value, position, mask, arguments.get("scale"))
    return replace(op, target=decode_attention.DECODE_ATTENTION, args=call, kwargs={})


def _plain_call(
    op: Op,
    inputs: tuple[Var, Var, Var],
    plain: tuple[Var, Var],
    found: _Mask | None,
    arguments: dict[Any, Any],
    definitions: Definitions,
) -> Op:
    """The call with a simpler mask, and without repeated keys and values where PyTorch's flash kernel takes both."""
    query, key, _value = inputs
    changed = dict(arguments)
    lengths = query.value.shape[2], key.value.shape[2]
    if found is not None and not found.rest and found.offset == 0 and lengths[0] == lengths[1]:
        changed["attn_mask"], changed["is_causal"] = None, True
    unmasked = changed.get("attn_mask") is None
    on_gpu = kernel_device_type(query.value.device) == "cuda"
    if unmasked and plain[0] is not key and on_gpu and query.value.element_size() == 2:
        changed["key"], changed["value"], changed["enable_gqa"] = *plain, True
    if changed == definitions.call(op).arguments:
        return op
    positional = tuple(changed.pop(name) for name in ("query", "key", "value"))
    return replace(op, args=positional, kwargs=changed)


def without_repetition(repeated: Var, query: Var, definitions: Definitions) -> tuple[Var, tuple[Op, ...]]:
    """Keys or values before they were repeated for the heads of the query, and the operations that did so."""
    steps = _steps_back(repeated, definitions)
    reshape = next(steps, None)
    if reshape is not None and reshape.name == "repeat_interleave":
        arguments = [*reshape.args[1:], *reshape.kwargs.values()]
        base = reshape.args[0]
        if isinstance(base, Var) and 1 in arguments and base.value.shape[2:] == repeated.value.shape[2:]:
            return base, (reshape,)
        return repeated, ()
    expand, index = next(steps, None), next(steps, None)
    if reshape is None or expand is None or index is None:
        return repeated, ()
    if (reshape.name, expand.name) != ("reshape", "expand") or index.name not in ("__getitem__", "unsqueeze"):
        return repeated, ()
    base = index.args[0]
    if not isinstance(base, Var) or base.value.dim() != 4:
        return repeated, ()
    b, kv_heads, length, size = base.value.shape
    group = repeated.value.shape[1] // kv_heads if kv_heads else 0
    shapes = [tuple(op.result.value.shape) for op in (index, expand, reshape)]
    wanted = [(b, kv_heads, 1, length, size), (b, kv_heads, group, length, size), (b, kv_heads * group, length, size)]
    return (base, (index, expand, reshape)) if shapes == wanted else (repeated, ())


def _steps_back(var: Any, definitions: Definitions) -> Iterator[Op]:
    """The operations that made a value, each from the first argument of the one before."""
    while isinstance(var, Var) and id(var) in definitions.makers:
        op = definitions.makers[id(var)]
        yield op
        var = op.args[0] if op.args else None


def _analyse_mask(mask: Any, definitions: Definitions) -> _Mask | None:
    """What is known of a mask, or None when nothing of it was recognised."""
    if not isinstance(mask, Var) or mask.value.dtype is not torch.bool or mask.value.dim() != 4:
        return None
    length = mask.value.shape[3]
    position, offset, rest = None, None, False
    seen: list[Op] = []
    for part in _conjuncts(mask, definitions, seen):
        found = _causal_part(part, length, definitions)
        if found is None:
            rest = rest or not _is_true(part, definitions)
        elif position is None:
            position, offset, ops = found
            seen += ops
        else:
            rest = rest or found[0] is not position
    return _Mask(position, offset, rest, tuple(seen)) if position is not None else None


def _conjuncts(mask: Var, definitions: Definitions, seen: list[Op]) -> Iterator[Var]:
    """The parts of a conjunction; expansion, which changes no value, is looked through."""
    op = definitions.makers.get(id(mask))
    name = definitions.call(op).name if op is not None else ""
    if op is not None and (name == "expand" or _adds_leading_dimensions(op)):
        seen.append(op)
        yield from _conjuncts(op.args[0], definitions, seen)
    elif op is not None and name == "bitwise_and" and all(isinstance(arg, Var) for arg in op.args[:2]):
        seen.append(op)
        for argument in op.args[:2]:
            yield from _conjuncts(argument, definitions, seen)
    elif op is not None and name == "to" and mask.value.dtype is op.args[0].value.dtype:
        seen.append(op)
        yield from _conjuncts(op.args[0], definitions, seen)
    else:
        yield mask


def _adds_leading_dimensions(op: Op) -> bool:
    """Whether this is `x[None, None]`: broadcasting does the same."""
    if op.name != "__getitem__" or not isinstance(op.args[0], Var):
        return False
    index = op.args[1] if isinstance(op.args[1], tuple) else (op.args[1],)
    return all(part is None for part in index)


def _is_true(part: Var, definitions: Definitions) -> bool:
    op = definitions.makers.get(id(part))
    return op is not None and op.name in ("ones", "new_ones", "ones_like")


def _causal_part(part: Var, length: int, definitions: Definitions) -> tuple[Var, int | None, list[Op]] | None:
    """For `j[None, None, None, :] <= q[None, None, :, None]` with j = 0, 1, ...: q, where it begins, the operations."""
    op = definitions.makers.get(id(part))
    if op is None or len(op.args) != 2 or not all(isinstance(arg, Var) for arg in op.args):
        return None
    name = definitions.call(op).name
    keys, queries = op.args if name == "le" else op.args[::-1]
    if name not in ("le", "ge"):
        return None
    key_index = _indexed_vector(keys, 1, definitions)
    query_index = _indexed_vector(queries, 2, definitions)
    if key_index is None or query_index is None:
        return None
    if key_index[0].value.shape[0] != length or _first_of_range(key_index[0], definitions) != 0:
        return None
    return query_index[0], _first_of_range(query_index[0], definitions), [op, *key_index[1], *query_index[1]]


def _indexed_vector(var: Var, dim: int, definitions: Definitions) -> tuple[Var, list[Op]] | None:
    """The vector v of `v[None, None, :, None]` or `v[:, None]`, whose elements lie along the `dim`-th dimension from
    the end, and the operations that made this of it."""
    op = definitions.makers.get(id(var))
    if var.value.dim() == 1 and dim == 1:
        return var, []
    if op is None or op.name != "__getitem__" or not isinstance(op.args[0], Var):
        return None
    vector, index = op.args[0], op.args[1]
    count = var.value.dim()
    wanted = tuple(slice(None) if position == count - dim else None for position in range(count))
    same = isinstance(index, tuple) and len(index) == count and all(a == b for a, b in zip(index, wanted))
    return (vector, [op]) if same and vector.value.dim() == 1 else None


def _first_of_range(var: Var, definitions: Definitions) -> int | None:
    """The constant c when the vector is c, c + 1, ..., else None."""
    op = definitions.makers.get(id(var))
    if op is None:
        return None
    call = definitions.call(op)
    if call.name == "arange":
        numbers = [value for key, value in call.arguments.items() if isinstance(key, int)]
        if not all(type(number) is int for number in numbers) or len(numbers) not in (1, 2):
            return None
        return 0 if len(numbers) == 1 else numbers[0]
    if call.name == "add" and set(call.arguments) == {0, 1}:
        base, shift = call.arguments[0], call.arguments[1]
        if isinstance(base, Var) and type(shift) is int:
            first = _first_of_range(base, definitions)
            return None if first is None else first + shift
    return None


def drop_unused(trace: Trace) -> Trace:
    """Without the masks and repeated tensors that nothing uses any more."""
    needed = {id(var) for var in trace.output_vars()} | {id(var) for var in trace.inputs}
    kept: list[Op] = []
    for op in reversed(trace.ops):
        outputs = list(op.outputs())
        is_unused = outputs and not any(id(var) in needed for var in outputs)
        if is_unused and op.name in EXACT_OPERATIONS and "out" not in op.kwargs:
            continue
        needed.update(id(var) for var in op.inputs())
        kept.append(op)
    return trace.replace(ops=kept[::-1])
