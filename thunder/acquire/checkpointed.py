"""`torch.utils.checkpoint.checkpoint`: the function becomes a region of the program, recomputed in backward.

Input: the call.  Output: one operation whose first argument is the region.  Invariant: whatever the program uses of
what was made within a region is among the region's results, however the function handed it out: in a dict or an
object, through an attribute or a list.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.utils.checkpoint

from thunder.trace import Op, Region, Var


def checkpoint_lookaside(recorder: Any) -> Callable[..., Any]:
    """The replacement of `checkpoint`; the reentrant variant becomes the other, which has the same gradients."""
    numbers = itertools.count()

    def checkpoint(
        interp: Any, function: Any, *args: Any, use_reentrant: bool | None = None, context_fn: Any = None,
        determinism_check: str = "default", debug: bool = False, early_stop: bool = True, **kwargs: Any,
    ) -> Any:  # fmt: skip
        options = {"use_reentrant": False, "preserve_rng_state": kwargs.pop("preserve_rng_state", True)}
        location, name = recorder.location(), f"checkpointed_{next(numbers)}"
        region, taken, result = recorder.subtrace(name, lambda: interp.call(function, *args, **kwargs))
        made = tuple(var for var in dict.fromkeys(region.trace.output_vars()) if var not in set(taken))
        region.trace.output = made
        target = torch.utils.checkpoint.checkpoint
        recorder.ops.append(Op(target, (region, *taken), options, made, location, recorder.scope))
        return result

    return checkpoint


def hand_out(ops: Sequence[Op], wanted: Iterable[Var]) -> None:
    """Adds to the results of checkpointed regions in `ops` what later operations take of them, or what is `wanted`."""
    used = {id(var) for var in wanted}
    for op in reversed(ops):
        region = op.args[0] if op.target is torch.utils.checkpoint.checkpoint else None
        if isinstance(region, Region):
            given = {id(var) for var in op.result}
            made = dict.fromkeys(var for var in _made(region) if id(var) in used and id(var) not in given)
            op.result = region.trace.output = (*op.result, *made)
            hand_out(region.trace.ops, region.trace.output)
        used.update(id(var) for var in op.inputs())


def _made(region: Region) -> Iterator[Var]:
    """What is made within a region and the regions in it."""
    taken = {id(var) for var in region.trace.inputs}
    for op in region.trace.ops:
        yield from (var for var in op.outputs() if id(var) not in taken)
        if op.target is torch.utils.checkpoint.checkpoint and isinstance(op.args[0], Region):
            yield from _made(op.args[0])
