"""What captures and replays: CUDA graphs, behind an interface that tests implement on the CPU.

Input: a function without arguments that works on tensors at fixed addresses.  Output: a graph whose `replay()` does
to the memory what the function would do, and the function's results, which are defined after each replay.

Capturing launches nothing.  Memory that is allocated during a capture comes from a pool; a pool may serve several
graphs, which then share the memory of their intermediate values.  Whatever must outlive the replay of another graph
of the pool has to be kept elsewhere: `GraphedFunction` sees to that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

from thunder import _torch_compat
from thunder.executors.collection import collection_paused

Result = TypeVar("Result")


class Graph(Protocol):
    """A captured piece of work."""

    def replay(self) -> None:
        """Does the work once more."""


class GraphBackend(Protocol):
    """Captures functions.

    Attributes:
        device_type: the type of the devices whose work it captures.
    """

    device_type: str

    def new_pool(self, device: torch.device) -> Any:
        """Memory for graphs that never run at the same time."""

    def shared_pool(self, device: torch.device) -> Any:
        """The pool that all programs of a device share whose results lie outside of it."""

    def warm_up(self, function: Callable[[], Result], device: torch.device) -> Result:
        """Runs the function once, in the surroundings in which it will be captured."""

    def capture(self, function: Callable[[], Result], device: torch.device, pool: Any) -> tuple[Graph, Result]:
        """The function as a graph, and its results; nothing has run yet."""

    def order_after_others(self, device: torch.device) -> None:
        """Makes work of the current stream wait for replays that other streams began."""

    def is_capturing(self) -> bool:
        """Whether somebody is capturing in this thread."""


class CudaGraphs:
    """`torch.cuda.CUDAGraph`.

    Captures run on one stream of each device, which is kept and runs nothing else: cuBLAS has a workspace for each
    stream, whose address is in the graphs. torch.compile frees all workspaces before it captures; were ours taken
    from ordinary memory, our graphs would then write to memory of others.
    """

    device_type = "cuda"

    def __init__(self) -> None:
        self._capture_streams: dict[torch.device, torch.cuda.Stream] = {}
        self._warm_up_streams: dict[torch.device, torch.cuda.Stream] = {}
        self._pools: dict[torch.device, Any] = {}
        self._keepers: list[torch.cuda.CUDAGraph] = []
        self._last: dict[torch.device, torch.cuda.Stream] = {}

    def new_pool(self, device: torch.device) -> Any:
        with torch.cuda.device(device):
            return torch.cuda.graph_pool_handle()

    def shared_pool(self, device: torch.device) -> Any:
        pool = self._pools.get(device)
        if pool is None:
            pool = self._pools[device] = self.new_pool(device)
            # A pool whose last graph has died cannot be used again: this one lives as long as the process.
            self._keepers.append(self._small_graph(device, pool))
        return pool

    def _small_graph(self, device: torch.device, pool: Any) -> torch.cuda.CUDAGraph:
        """A graph of small matrix products, for which cuBLAS takes workspaces from the pool when it has none."""
        graph, wide, bias = torch.cuda.CUDAGraph(), torch.zeros(16, 16, device=device), torch.zeros(16, device=device)
        narrow = wide.bfloat16()

        def multiply() -> None:
            with torch.no_grad():
                torch.mm(wide, wide)
                torch.addmm(bias.bfloat16(), narrow, narrow)  # with a bias: by cuBLASLt, which has its own workspace

        with torch.cuda.device(device):
            multiply()  # cuBLAS cannot be initialised within a capture, and nothing else may have needed it yet
        torch.cuda.synchronize(device)
        with torch.cuda.device(device), torch.cuda.stream(_stream_of(self._capture_streams, device)):
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                multiply()
            except BaseException:  # an interrupt too must not leave the device capturing
                _abandon(graph)
                raise
            graph.capture_end()
        return graph

    def warm_up(self, function: Callable[[], Result], device: torch.device) -> Result:
        stream, current = _stream_of(self._warm_up_streams, device), torch.cuda.current_stream(device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            results = function()
        current.wait_stream(stream)
        for result in results if isinstance(results, (tuple, list)) else ():
            if isinstance(result, torch.Tensor) and result.is_cuda:
                result.record_stream(current)
        return results

    def capture(self, function: Callable[[], Result], device: torch.device, pool: Any) -> tuple[Graph, Result]:
        # The workspaces may have been freed since the last capture: they must not come from this graph's pool, which
        # ends with the graph.
        self._small_graph(device, self.shared_pool(device))
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(device)
        stream = _stream_of(self._capture_streams, device)
        with torch.cuda.device(device), torch.cuda.stream(stream), collection_paused():
            try:
                # Other threads may allocate memory meanwhile: only what this thread does can spoil the capture.
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                try:
                    results = function()
                except BaseException:  # an interrupt too must not leave the device capturing
                    _abandon(graph)
                    raise
                graph.capture_end()
            except BaseException:  # as above
                self._clean_up(device, pool)
                raise
        return graph, results

    def _clean_up(self, device: torch.device, pool: Any) -> None:
        """After a capture that failed: memory comes from where it came before, and the random number generator is in
        no capture any more, which it learns from one that succeeds."""
        if self._pools.get(device) == pool:
            del self._pools[device]  # what is left in it belongs to graphs that live
        try:
            _torch_compat.stop_allocating_to_pool(device.index or 0, pool)
        except RuntimeError:
            pass  # the capture had not begun to allocate, or has ended it
        try:
            self._small_graph(device, self.shared_pool(device))
        except RuntimeError:
            pass  # the device is beyond help: the error to report is the first one

    def order_after_others(self, device: torch.device) -> None:
        current = torch.cuda.current_stream(device)
        last = self._last.get(device)
        if last is not None and last != current:
            current.wait_stream(last)
        if last is not current:
            self._last[device] = current

    def is_capturing(self) -> bool:
        return torch.cuda.is_current_stream_capturing()


def _stream_of(streams: dict[torch.device, torch.cuda.Stream], device: torch.device) -> torch.cuda.Stream:
    stream = streams.get(device)
    if stream is None:
        stream = streams[device] = torch.cuda.Stream(device)
    return stream


def _abandon(graph: torch.cuda.CUDAGraph) -> None:
    """Ends a capture in which something was raised; that error is the one to report."""
    try:
        graph.capture_end()
    except RuntimeError:
        pass
