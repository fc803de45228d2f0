"""Notices when generation is over, and hands tokens to streamers.

`is_over(produced)` is called after each step has been started; `finish(produced)` at the end, it returns how many
tokens count.  On a GPU the host learns of ended sequences from copies that arrive some steps late, so that the device
never waits for it; stopping criteria in Python need every step's tokens and wait.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from thunder.generate.request import Request
from thunder.generate.step import State

# The host looks for ended sequences after each so many steps, and lets so many looks be under way.
LOOKS_EVERY = 2
LOOKS_UNDER_WAY = 2


def watch_for(request: Request, state: State, streamer: Any) -> ImmediateWatch | DeferredWatch:
    """The watch for a request whose tokens are chosen on the device."""
    if state.sequence.is_cuda and not request.criteria:
        return DeferredWatch(request, state, streamer)
    return ImmediateWatch(request, state, streamer)


class ImmediateWatch:
    """Looks at each step's tokens before the next step is started."""

    def __init__(self, request: Request, state: State, streamer: Any) -> None:
        self._request = request
        self._state = state
        self._streamer = streamer
        self._columns = request.input_ids.shape[1]

    def is_over(self, produced: int, scores: tuple[torch.Tensor, ...] | None = None) -> bool:
        state, request, end = self._state, self._request, self._columns + produced
        if self._streamer is not None:
            self._streamer.put(state.sequence[:, end - 1].cpu())
        if request.criteria:
            state.unfinished.mul_(~request.criteria(state.sequence[:, :end], scores))
        if produced == request.max_new:
            return True
        if not request.criteria and not request.sampling.eos:
            return False
        return not bool(state.unfinished.any())

    def finish(self, produced: int) -> int:
        if self._streamer is not None:
            self._streamer.end()
        return produced


class _Look:
    """A copy of the sequences' state on its way to the host."""

    def __init__(self, batch: int) -> None:
        self.unfinished = torch.empty(batch, dtype=torch.long, pin_memory=True)
        self.tokens = torch.empty(batch, dtype=torch.long, pin_memory=True)
        self.arrived = torch.cuda.Event()

    def send(self, state: State, column: int, *, tokens: bool) -> None:
        self.unfinished.copy_(state.unfinished, non_blocking=True)
        if tokens:
            self.tokens.copy_(state.sequence[:, column], non_blocking=True)
        self.arrived.record()


class DeferredWatch:
    """Learns of ended sequences some steps late; the tokens generated meanwhile do not count."""

    def __init__(self, request: Request, state: State, streamer: Any) -> None:
        self._request = request
        self._state = state
        self._streamer = streamer
        self._columns = request.input_ids.shape[1]
        self._looks_every = 1 if streamer is not None else LOOKS_EVERY
        self._under_way: deque[_Look] = deque()
        self._spare: list[_Look] = []
        self._has_ended = False

    def is_over(self, produced: int) -> bool:
        wanted = self._streamer is not None or bool(self._request.sampling.eos)
        if wanted and produced % self._looks_every == 0:
            look = self._spare.pop() if self._spare else _Look(self._request.input_ids.shape[0])
            look.send(self._state, self._columns + produced - 1, tokens=self._streamer is not None)
            self._under_way.append(look)
            while len(self._under_way) > LOOKS_UNDER_WAY and not self._has_ended:
                self._take_in()
        return produced == self._request.max_new or self._has_ended

    def _take_in(self) -> None:
        """Waits for the oldest look."""
        look = self._under_way.popleft()
        look.arrived.synchronize()
        if self._streamer is not None:
            self._streamer.put(look.tokens.clone())
        self._has_ended = bool(self._request.sampling.eos) and not bool(look.unfinished.any())
        self._spare.append(look)

    def finish(self, produced: int) -> int:
        while self._under_way and not self._has_ended:
            self._take_in()
        if self._streamer is not None:
            self._streamer.end()
        eos = self._request.sampling.eos
        if not eos:
            return produced
        tokens = self._state.sequence[:, self._columns : self._columns + produced]
        ended = torch.isin(tokens, torch.tensor(eos, device=tokens.device))
        if not bool(ended.any(dim=1).all()):
            return produced
        return int(ended.int().argmax(dim=1).max()) + 1
