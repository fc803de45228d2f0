"""Executes torch-level operations on functional fake tensors, while an `AtenRecorder` listens.

Input: torch-level operations and the values of the Vars that they use.  Output: the values of the Vars that they
define; each operation's `subops` are the ATen calls recorded beneath it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from thunder import _torch_compat
from thunder.lower.layouts import overlaps
from thunder.lower.limits import NotLowerable
from thunder.lower.recorder import AtenRecorder
from thunder.lower.state import AmbientState, is_state_statement
from thunder.trace import Op, Region, Var, map_vars

_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
# Calls whose effect is on autograd's own records or on the tensor object, which no functional program can have.
_EFFECTS_ON_TENSORS = frozenset(
    {
        "backward",
        "begin_backward_hook",
        "detach_",
        "register_hook",
        "register_post_accumulate_grad_hook",
        "requires_grad_",
        "resize_",
        "resize_as_",
        "retain_grad",
        "set_",
        "__set__",
    }
)


class Replay:
    """Runs operations in order; `values` maps the id of each Var to its value."""

    def __init__(
        self,
        recorder: AtenRecorder,
        fake_mode: Any,
        values: dict[int, Any],
        states: Mapping[int, AmbientState],
    ) -> None:
        self.recorder = recorder
        self.fake_mode = fake_mode
        self.values = values
        self.states = states
        self._entered = {id(value) for value in values.values()}
        self._nodes_seen: set[Any] = set()
        self._overlapping: set[int] = set()
        self._note_overlaps(values.values(), [])

    def run(self, ops: Sequence[Op]) -> None:
        for op in ops:
            self.step(op)

    def step(self, op: Op) -> None:
        """Runs one operation."""
        if is_state_statement(op):
            self.states[id(op)].apply()
            return
        if op.target is _torch_compat.checkpoint_function():
            self._checkpoint(op)
            return
        name = getattr(op.target, "__name__", "")
        if name in _EFFECTS_ON_TENSORS:
            raise NotLowerable(f"{name} changes more than values", op)
        if isinstance(op.target, type) and issubclass(op.target, torch.nn.Parameter):
            raise NotLowerable("a parameter, which is a new leaf, is made", op)
        if any(isinstance(argument, Region) for argument in op.args):
            raise NotLowerable("which branch of torch.cond runs depends on a value", op)
        if op.target is _torch_compat.flex_attention():
            raise NotLowerable("flex attention compiles itself", op)
        if op.target in _torch_compat.level_functions():
            raise NotLowerable("it runs within levels of torch.func", op)
        if name in _RECURRENT and _drops_between_layers(op.args):
            raise NotLowerable("PyTorch's decomposition of recurrent layers leaves out the dropout between them", op)
        args = map_vars(self._value, op.args)
        kwargs = map_vars(self._value, op.kwargs)
        if isinstance(op.target, Region):
            self._bind(op.result, self._inline(op.target, args), op)
            return
        first = len(self.recorder.ops)
        self.recorder.source = op
        args, kwargs = self._lifted(args), self._lifted(kwargs)
        self._refuse_new_leaves((args, kwargs), op)
        if any(isinstance(out, torch.Tensor) and out.numel() == 0 for out in leaves(kwargs.get("out"))):
            raise NotLowerable("an empty tensor is given as out=, which gets another shape", op)
        overlapping = [leaf for leaf in leaves((args, kwargs)) if id(leaf) in self._overlapping]
        versions = [tensor._version for tensor in overlapping]
        result = op.target(*args, **kwargs)
        if [tensor._version for tensor in overlapping] != versions:
            raise NotLowerable("a tensor is changed in place of which several elements are one place in memory", op)
        self._note_overlaps(leaves(result), overlapping)
        op.subops = self.recorder.ops[first:]
        if not op.subops and not any(isinstance(leaf, torch.Tensor) for leaf in leaves(result)):
            raise NotLowerable(f"{name or op.target} does something that is no tensor operation", op)
        self._bind(op.result, result, op)
        self._note_source_of_gradients(result, op)

    def _note_overlaps(self, values: Iterable[Any], overlapping: Sequence[torch.Tensor]) -> None:
        """Remembers the tensors with overlapping elements, and views of them: functionalisation cannot change them.

        Args:
            values: the tensors that an operation has made.
            overlapping: those of its arguments that are remembered.
        """
        storages = {_torch_compat.storage_key(tensor) for tensor in overlapping}
        for value in values:
            if isinstance(value, torch.Tensor) and value.layout is torch.strided:
                if overlaps(value.shape, value.stride()) or (storages and _torch_compat.storage_key(value) in storages):
                    self._overlapping.add(id(value))

    def _refuse_new_leaves(self, args: Any, op: Op) -> None:
        """A view that was made without gradients can be a leaf of its own, whose gradient the input does not get."""
        if not torch.is_grad_enabled():
            return
        for leaf in leaves(args):
            if isinstance(leaf, torch.Tensor) and leaf.requires_grad and id(leaf) not in self._entered:
                if leaf.is_leaf:
                    raise NotLowerable("a leaf that requires grad is made", op)

    def _value(self, var: Var) -> Any:
        try:
            return self.values[id(var)]
        except KeyError:
            raise NotLowerable(f"{var.name} comes from outside of the program") from None

    def _lifted(self, structure: Any) -> Any:
        """Real tensors among the arguments (constants of the program) become functional fake tensors."""
        if isinstance(structure, torch.Tensor):
            if _torch_compat.is_functional(structure):
                return structure
            if _torch_compat.is_fake(structure) or structure.requires_grad:
                raise NotLowerable("a tensor is used that is neither an input nor a constant", self.recorder.source)
            known = self.values.get(id(structure))
            if known is None:
                fake = self.fake_mode.from_tensor(structure)
                self.recorder.bind(fake, structure)
                known = self.values[id(structure)] = _torch_compat.to_functional(fake)
            return known
        if isinstance(structure, (list, tuple)):
            items = [self._lifted(item) for item in structure]
            if all(new is old for new, old in zip(items, structure)):
                return structure
            return type(structure)(*items) if hasattr(structure, "_fields") else type(structure)(items)
        if type(structure) is dict:
            return {key: self._lifted(item) for key, item in structure.items()}
        return structure

    def _bind(self, result: Any, value: Any, op: Op) -> None:
        if isinstance(result, Var):
            recorded = result.value
            if isinstance(value, torch.Tensor) and (value.shape, value.dtype) != (recorded.shape, recorded.dtype):
                # A decomposition of PyTorch's that does not answer as its operator does.
                raise NotLowerable(f"lowered, {op.name} answers {value.dtype} {tuple(value.shape)}", op)
            self.values[id(result)] = value
        elif isinstance(result, (list, tuple)):
            if len(result) != len(value):
                raise NotLowerable("an operation returned another number of values than when it was recorded", op)
            for part, part_value in zip(result, value):
                self._bind(part, part_value, op)
        elif isinstance(result, dict):
            for key, part in result.items():
                self._bind(part, value[key], op)

    def _inline(self, region: Region, args: Sequence[Any]) -> Any:
        for var, value in zip(region.trace.inputs, args):
            self.values[id(var)] = value
        self.run(region.trace.ops)
        return map_vars(self._value, region.trace.output)

    def _checkpoint(self, op: Op) -> None:
        """A checkpointed region runs like any other; what it computes is tagged to be computed again in backward."""
        region, *args = op.args
        if not isinstance(region, Region):
            raise NotLowerable("the checkpointed function was not acquired", op)
        values = map_vars(self._value, tuple(args))
        tags, first = self.recorder.tags, len(self.recorder.ops)
        grad_enabled = torch.is_grad_enabled()
        if op.kwargs.get("use_reentrant") and not any(
            isinstance(value, torch.Tensor) and value.requires_grad for value in leaves(values)
        ):
            torch.set_grad_enabled(False)  # as the reentrant form does when no argument requires grad
        self.recorder.tags = {**tags, "recompute": True}
        try:
            self._bind(op.result, self._inline(region, values), op)
        finally:
            self.recorder.tags = tags
            torch.set_grad_enabled(grad_enabled)
        op.subops = self.recorder.ops[first:]

    def _note_source_of_gradients(self, result: Any, op: Op) -> None:
        """Gradient operations take the location of the operation that they differentiate."""
        pending = [leaf.grad_fn for leaf in leaves(result) if isinstance(leaf, torch.Tensor) and leaf.grad_fn]
        while pending:
            node = pending.pop()
            if node in self._nodes_seen:
                continue
            self._nodes_seen.add(node)
            if node.name().endswith("WarnNotImplemented"):
                # Outside, PyTorch differentiates what the operator's kernel calls; fake kernels call nothing.
                raise NotLowerable(f"{op.name} has no derivative formula of its own", op)
            node.register_prehook(lambda _gradients: setattr(self.recorder, "source", op))
            pending += [parent for parent, _ in node.next_functions if parent is not None]


def leaves(structure: Any) -> list[Any]:
    """The values in nested lists, tuples and dicts, left to right."""
    if isinstance(structure, (list, tuple)):
        return [leaf for item in structure for leaf in leaves(item)]
    if isinstance(structure, dict):
        return [leaf for item in structure.values() for leaf in leaves(item)]
    return [structure]


def _drops_between_layers(args: Sequence[Any]) -> bool:
    """Whether a call of a recurrent network drops values between its layers."""
    first = 3 if isinstance(args[3], bool) else 4  # packed sequences have one argument more before has_biases
    layers, rate, training = args[first + 1 : first + 4]
    return bool(training and rate and layers > 1)
