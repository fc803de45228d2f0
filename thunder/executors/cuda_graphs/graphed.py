"""A function that captures itself in CUDA graphs when its calls repeat.

Input: a function of tensors.  Output: a callable with the same signature and the same effects.  Its first call runs
as it is; the second, with inputs of the same sizes, warms up on the inputs that a graph would use and captures; from
then on calls are replays.

Inputs whose memory is at the same place at both calls (parameters, buffers, caches) are used where they are.  When a
place changes, a small input that is only read is copied from then on; for a large one, and for one that is changed in
place, the function is captured once more.

No result is overwritten while somebody holds it: up to `HELD_RECORDINGS` recordings hand out their own memory, each
replayed only when all that it handed out last is gone; when none is free, results are copied.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from thunder.executors.cuda_graphs.backend import GraphBackend
from thunder.executors.cuda_graphs.layout import LayoutError, ResultLayout
from thunder.executors.cuda_graphs.recording import InputPlan, Recording, fill

# Two, because in `out = model(x)` the last result lives until the new one is there.
HELD_RECORDINGS = 2
# A function whose static inputs move so often is not captured any more.
CAPTURE_LIMIT = 16
# Calls with so many different sizes are remembered.
KEY_LIMIT = 64
# Calls that run as they are while large inputs come from ever new places: they may return.
WAITED_CALLS = 3
# Sets of places of the static inputs for which recordings are kept side by side.
PLACES = 2
# Inputs up to this size are copied once they have moved; larger ones are worth a new capture.
COPIED_BYTES = 1 << 20


@dataclass
class Pools:
    """Where graphs take memory from.

    Attributes:
        shared: recordings use the device's shared pool, and their results are copied out of it within the graph.
            Otherwise each recording has its own pool, where its results stay.
    """

    backend: GraphBackend
    device: torch.device
    shared: bool

    def next(self) -> Any:
        return self.backend.shared_pool(self.device) if self.shared else self.backend.new_pool(self.device)


@dataclass
class _Calls:
    """What is known of calls with inputs of the same sizes.

    Attributes:
        seen: for each tensor among the inputs, the addresses that it has had.
        copied: positions of the inputs that recordings copy.
        waited: calls that ran as they are because large inputs were at new places.
        recordings: those that hand out their own memory.
        copying: one whose results are copied for every call.
    """

    seen: list[set[int]] = field(default_factory=list)
    copied: set[int] = field(default_factory=set)
    waited: int = 0
    recordings: list[Recording] = field(default_factory=list)
    copying: Recording | None = None

    def forget_recordings(self) -> None:
        self.recordings = []
        self.copying = None


class GraphedFunction:
    """A function with its recordings.

    Args:
        function: called with the inputs, returns a tuple or list; or, if `boxed`, called with one list.
        tensors, others: positions of the inputs that are tensors, and of those that are not.
        changed: positions of the inputs that are changed in place below autograd's notice; None: autograd is told of
            changes, and the first call shows which there are.
        pools: where graphs take memory from.
        report: told once why the function cannot be captured.
        name: the function's name in that report.
        cloned: positions of results that are copied for every call.
        copies_when_busy: whether calls that find no free recording are replayed with copied results; otherwise they
            run as they are.
        boxed: see `function`.
        by_shape: whether sizes may differ between calls.
        after: the function whose results are among the inputs. They stay at their places when its calls are replays,
            and calls before that say nothing about where they will be.

    Attributes:
        last: the recording that was used last, or captured since.
        used: that of the last call, when the call was a replay or made it; a replay would repeat the call.
        has_replayed: whether the last call was a replay.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        tensors: Sequence[int],
        others: Sequence[int],
        changed: frozenset[int] | None,
        pools: Pools,
        report: Callable[[str], None],
        name: str = "the program",
        cloned: frozenset[int] = frozenset(),
        copies_when_busy: bool = True,
        boxed: bool = False,
        by_shape: bool = False,
        after: GraphedFunction | None = None,
    ) -> None:
        self._after = after
        self._function = _unboxed(function) if boxed else function
        self._boxed = boxed
        self._tensors = tuple(tensors)
        self._others = tuple(others)
        self._tells_autograd = changed is None
        self._changed = changed
        self._pools = pools
        self._backend = pools.backend
        self._report = report
        self._name = name
        self._cloned = cloned
        self._copies_when_busy = copies_when_busy
        self._by_shape = by_shape
        self._calls: dict[Any, _Calls] = {}
        self._lock = threading.RLock()
        self.captures = 0
        self.last: Recording | None = None
        self.used: Recording | None = None
        self.has_replayed = False
        self.blocked: str | None = None

    def __call__(self, *inputs: Any) -> Any:
        if self._boxed:
            (given,) = inputs
            inputs = tuple(given)
            given.clear()
        self.used = None
        self.has_replayed = False
        if self.blocked is not None or self._backend.is_capturing():
            return self._function(*inputs)
        with self._lock:
            last = self.last
            if last is not None and last.fits(inputs) and last.is_free():
                return self._replay(last, inputs)
            return self._find(inputs)

    def _replay(self, recording: Recording, inputs: Sequence[Any]) -> Any:
        results = recording.replay(inputs)
        self.used = recording
        self.has_replayed = True
        if self._tells_autograd and self._changed:
            torch.autograd.graph.increment_version([inputs[position] for position in self._changed])
        return results

    def _find(self, inputs: Sequence[Any]) -> Any:
        """A call for which the recording that was used last will not do."""
        after = self._after
        if after is not None and after.blocked is None and not after.has_replayed:
            return self._function(*inputs)
        calls = self._calls_like(inputs)
        if not calls.seen:
            calls.seen = [{inputs[position].data_ptr()} for position in self._tensors]
            return self._first_run(inputs)
        fitting = [recording for recording in calls.recordings if recording.fits(inputs)]
        for recording in fitting:
            if recording.is_free():
                self.last = recording
                return self._replay(recording, inputs)
        if len(fitting) >= HELD_RECORDINGS:
            if not self._copies_when_busy:
                return self._function(*inputs)
            if calls.copying is not None and calls.copying.fits(inputs):
                return self._replay(calls.copying, inputs)
            return self._capture(inputs, calls, copying=True)
        if not fitting and not self._settle_places(inputs, calls):
            return self._function(*inputs)
        return self._capture(inputs, calls, copying=False)

    def _first_run(self, inputs: Sequence[Any]) -> Any:
        """Runs the function as it is, and notes which inputs it changes."""
        if self._changed is not None:
            return self._function(*inputs)
        tracked = [position for position in self._tensors if not inputs[position].is_inference()]
        before = [inputs[position]._version for position in tracked]
        results = self._function(*inputs)
        found = {p for p, version in zip(tracked, before) if inputs[p]._version != version}
        # Inference tensors have no version: they are taken where they are, changed or not.
        self._changed = frozenset(found | (set(self._tensors) - set(tracked)))
        return results

    def _calls_like(self, inputs: Sequence[Any]) -> _Calls:
        key: Any = None
        if self._by_shape:
            shapes = tuple(inputs[position].shape for position in self._tensors)
            key = (shapes, tuple(inputs[position] for position in self._others))
        calls = self._calls.get(key)
        if calls is None:
            if len(self._calls) >= KEY_LIMIT:
                self._calls.pop(next(iter(self._calls)))
            calls = self._calls[key] = _Calls()
        return calls

    def _settle_places(self, inputs: Sequence[Any], calls: _Calls) -> bool:
        """Decides which inputs recordings copy, now that none fits; False when it is too early to tell."""
        changed = self._changed or frozenset()
        moved, new = [], []
        for position, seen in zip(self._tensors, calls.seen):
            address = inputs[position].data_ptr()
            if position in calls.copied:
                continue
            if address not in seen:
                new.append(position)
                seen.add(address)
            if len(seen) > 1 and position not in changed:
                moved.append(position)
        light = {position for position in moved if _bytes_of(inputs[position]) <= COPIED_BYTES}
        heavy_and_new = set(new) - light - changed
        if heavy_and_new and calls.waited < WAITED_CALLS:
            # They may come from another recording, which will put them at the same places again.
            calls.waited += 1
            return False
        if light or heavy_and_new:
            calls.copied |= light | heavy_and_new
            calls.forget_recordings()
        if len(calls.recordings) >= PLACES * HELD_RECORDINGS:
            calls.copied |= set(moved)
            calls.forget_recordings()
        return True

    def _capture(self, inputs: Sequence[Any], calls: _Calls, *, copying: bool) -> Any:
        """Runs the function in the surroundings of a capture, then captures it; returns the results of the run."""
        if self.captures >= CAPTURE_LIMIT:
            self._block("its inputs keep moving in memory")
            return self._function(*inputs)
        backend, device = self._backend, self._pools.device
        plan = self._plan(calls)
        buffers = plan.new_buffers(inputs)
        arguments = plan.arguments(inputs, buffers)
        backend.order_after_others(device)
        with torch.no_grad():
            for position, buffer in zip(plan.copied, buffers):
                fill(buffer, inputs[position])
        results = list(backend.warm_up(lambda: self._function(*arguments), device))
        with torch.no_grad():
            for position, buffer in zip(plan.copied, buffers):
                if position in plan.changed:
                    fill(inputs[position], buffer)
        try:
            layout = ResultLayout(results, arguments)
            recording = Recording(
                self._function,
                inputs,
                plan,
                buffers,
                layout,
                backend=backend,
                device=device,
                pool=self._pools.next(),
                results_outside=self._pools.shared,
                cloned=frozenset(range(len(results))) if copying else self._cloned,
                sizes_vary=self._by_shape,
            )
        except (LayoutError, RuntimeError) as error:  # what CUDA refuses in a capture; this call has its results
            self._block(str(error).splitlines()[0])
            given = {id(argument): position for position, argument in enumerate(arguments)}
            return tuple(inputs[given[id(result)]] if id(result) in given else result for result in results)
        self.captures += 1
        if copying:
            calls.copying = recording
        else:
            calls.recordings.append(recording)
            self.last = self.used = recording
        return layout.handed_out(results, inputs)

    def _plan(self, calls: _Calls) -> InputPlan:
        copied = tuple(position for position in self._tensors if position in calls.copied)
        static = tuple(position for position in self._tensors if position not in calls.copied)
        return InputPlan(static, copied, self._changed or frozenset(), self._others)

    def _block(self, reason: str) -> None:
        self.blocked = reason
        self.last = None
        self._calls.clear()
        self._report(f"{self._name} runs without CUDA graphs: {reason}")


def _bytes_of(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _unboxed(function: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    return lambda *inputs: function(list(inputs))
