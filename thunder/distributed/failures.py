"""Processes that die, hang or do something else than the others: errors that name them, in place of waiting.

Two means, both over the key-value store of the process group:

- Before a process runs a sequence of collectives that it has not run before, all processes have to say that they are
  about to run it too (`Agreement`).  On CPUs, and where the environment says THUNDER_CHECK_COLLECTIVES=1, before every
  sequence: a process that takes a path which all know, and which the others do not take now, is found as well, for a
  few tenths of a millisecond a program.
- When a collective fails (its peer is gone, or its time is over), every process writes down where it stands, and reads
  where the others do (`collective_failure`).  A process that says nothing is the one that is missing.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch.distributed as dist

from thunder import _torch_compat
from thunder.errors import CollectiveError, DivergenceError
from thunder.trace import Op, Region, Trace

GRACE_SECONDS = 10.0
"""How long a process whose collective has failed waits for the others to say where they stand."""

CHECK_VARIABLE = "THUNDER_CHECK_COLLECTIVES"
"""In the environment: 1, processes agree before every program with collectives; 0, only before new ones."""

_SAME_PATH = (
    "let all ranks take the same path: the same branches, the same modules, the same number of calls; with different "
    "parameters in use, DDP(find_unused_parameters=True)"
)

LATE_SECONDS = 2.0
"""How long others are waited for before each program, where that is checked."""

_models = itertools.count()


class Agreement:
    """Whether the processes of one model are about to run the same collectives.

    Args:
        ranks: the processes.
        timeout: seconds that they are waited for.
        device_type: on which they run; the default of `checks_calls` depends on it.

    Attributes:
        checks_calls: whether they agree before every program with collectives, not only before new ones.
    """

    def __init__(self, ranks: Sequence[int], timeout: float, device_type: str) -> None:
        self._ranks = list(ranks)
        self._timeout = timeout
        self.checks_calls = os.environ.get(CHECK_VARIABLE, "1" if device_type == "cpu" else "0") == "1"
        self._calls = [0]
        # Processes make their models in the same order: the number means the same everywhere.
        self._name = f"thunder/model{next(_models)}/{'-'.join(map(str, self._ranks))}"
        self._known: set[str] = set()

    def require(self, trace: Trace) -> None:
        """Returns when all processes have come to a program with the collectives of this one.

        Raises:
            DivergenceError: names the ranks that have not.
        """
        self.agree(trace.name, collectives_of(trace))

    def agree(self, program: str, collectives: Sequence[str]) -> None:
        """The same for communication that is described in words, one line each."""
        if not collectives:
            return
        digest = _digest(collectives)
        if digest in self._known:
            return
        store, keys = self._say(digest, program)
        try:
            store.wait(list(keys.values()), datetime.timedelta(seconds=self._timeout))
        except RuntimeError:  # torch.distributed.DistStoreError
            absent = [rank for rank, key in keys.items() if not store.check([key])]
            error = DivergenceError(
                f"{_ranks(absent)} did not come to the collectives of the {program} program of rank "
                f"{dist.get_rank()} within {self._timeout:g} s. There are {len(collectives)}, the first is "
                f"{collectives[0]}",
                remedy=_SAME_PATH,
            )
            _say(f"DivergenceError before {program}")
            raise error from None
        self._known.add(digest)

    def agree_on_call(self, program: str, collectives: Sequence[str]) -> None:
        """Compares what this process is about to run with what the others are about to run as the same call.

        A process that is late is waited for briefly: the collective itself notices if it is gone, and when it comes it
        finds what the others have said.  Nothing happens where calls are not checked.

        Raises:
            DivergenceError: some are about to run something else.
        """
        if not self.checks_calls or not collectives or len(self._ranks) < 2:
            return
        self._calls.append(self._calls[-1] + 1)
        mine = f"{_digest(collectives)} {program} ({len(collectives)}, the first {collectives[0]})"
        store, keys = self._say(f"call{self._calls[-1]}", mine)
        start, pause = time.monotonic(), 1e-4
        # Not `store.wait`, which logs a warning when nothing comes.
        while not (all_came := store.check(list(keys.values()))) and time.monotonic() < start + LATE_SECONDS:
            time.sleep(pause)
            pause = min(1.5 * pause, 0.02)
        came = keys if all_came else {rank: key for rank, key in keys.items() if store.check([key])}
        for rank, found in zip(came, store.multi_get(list(came.values()))):
            if (its := found.decode()) != mine:
                there, here = (text.partition(" ")[2] for text in (its, mine))
                _say(f"DivergenceError before {program}")
                raise DivergenceError(
                    f"rank {rank} is about to run the collectives of {there}, where rank {dist.get_rank()} is about to "
                    f"run those of {here}",
                    remedy=_SAME_PATH,
                )
        if all_came:  # and all have read what was said before
            *earlier, last = self._calls
            self._calls = [last]
            for call in earlier:
                store.delete_key(f"{self._name}/call{call}/{dist.get_rank()}")

    def _say(self, place: str, what: str) -> tuple[Any, dict[int, str]]:
        """Says something at this place; returns the store, and the keys of what all ranks say there."""
        store = _torch_compat.default_store()
        store.set(f"{self._name}/{place}/{dist.get_rank()}", what)
        return store, {rank: f"{self._name}/{place}/{rank}" for rank in self._ranks}


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def collectives_of(trace: Trace) -> list[str]:
    """The collectives that a trace makes, in order, as far as all processes have them in common."""
    found = []
    for op in trace.ops:
        if isinstance(op.target, Region):
            found += collectives_of(op.target.trace)
        elif is_collective(op):
            sizes = [f"{var.value.dtype} {tuple(var.value.shape)}" for var in op.inputs()]
            found.append(f"{op.target._opname} of {', '.join(sizes)}")
    return found


def is_collective(op: Op) -> bool:
    """Whether the operation begins a collective."""
    namespace = getattr(op.target, "namespace", None)
    return namespace == "_c10d_functional" and op.target._opname != "wait_tensor"


def collective_regions(trace: Trace) -> frozenset[str]:
    """Names of the regions that begin or end collectives."""
    return frozenset(
        region.name
        for region in trace.regions()
        if any(getattr(op.target, "namespace", None) == "_c10d_functional" for op in region.trace.ops)
    )


def collective_failure(
    error: RuntimeError, program: str, regions: frozenset[str], ranks: Sequence[int]
) -> CollectiveError | None:
    """The error to raise for one that came up within a program; None when it came up outside of collectives.

    Args:
        error: what was raised.
        program: name of the trace that was running.
        regions: names of its regions that make collectives.
        ranks: the processes that take part.
    """
    place = _innermost(error.__traceback__, regions)
    if place is None:
        _say(f"{type(error).__name__} in {program}: {str(error).splitlines()[0] if str(error) else ''}")
        return None
    return _failure(f"{place} of {program}", ranks)


def exchange_failure(error: RuntimeError, what: str, ranks: Sequence[int]) -> CollectiveError:
    """The error to raise for one that came up while processes sent one another activations."""
    return _failure(f"the exchange of {what}", ranks, f" ({str(error).splitlines()[0] if str(error) else ''})")


def _failure(here: str, ranks: Sequence[int], reason: str = "") -> CollectiveError:
    """Says that this process stands here, asks the others, and names those that do not."""
    _say(here)
    said = _what_others_said(ranks)
    if said is None:
        found = "rank 0, which keeps the processes together, is gone"
    else:
        silent = [rank for rank in ranks if rank not in said]
        elsewhere = [f"rank {rank} stands at: {where}" for rank, where in said.items() if where != here]
        parts = [f"{_ranks(silent)} did not take part and is gone or does something else"] if silent else []
        found = "; ".join(parts + elsewhere) or "all ranks were there: the network failed or was too slow"
    return CollectiveError(
        f"the collective {here} failed on rank {dist.get_rank()}: {found}{reason}",
        remedy="the cause is on the ranks that are named; torchrun --max-restarts with thunder.distributed.Checkpoints "
        "goes on from the last checkpoint",
    )


def _say(where: str) -> None:
    try:
        _torch_compat.default_store().set(f"thunder/failed/{dist.get_rank()}", where)
    except RuntimeError:
        pass  # the store is gone with the process that has it


def _what_others_said(ranks: Sequence[int]) -> dict[int, str] | None:
    """Where the ranks that have failed too stand; None when nobody can be asked."""
    store = _torch_compat.default_store()
    deadline = time.monotonic() + GRACE_SECONDS
    try:
        while True:
            there = [rank for rank in ranks if store.check([f"thunder/failed/{rank}"])]
            if len(there) == len(ranks) or time.monotonic() > deadline:
                return {rank: store.get(f"thunder/failed/{rank}").decode() for rank in there}
            time.sleep(0.2)
    except RuntimeError:
        return None


def _innermost(traceback: TracebackType | None, regions: frozenset[str]) -> str | None:
    """The innermost region with collectives that the traceback goes through."""
    found = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_name in regions and code.co_filename.startswith("<thunder "):
            found = code.co_name
        traceback = traceback.tb_next
    return found


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
