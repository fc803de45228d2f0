"""Graphs on the CPU, for tests: a capture keeps the function, a replay runs it again.

As with CUDA graphs, a capture changes nothing, draws no random numbers and leaves its results undefined (they are
filled with a pattern here), and the results of a replay are where those of the capture were.  Results of all graphs
of a pool are spoilt by a replay of any of them, as memory of intermediate values would be.
"""

from __future__ import annotations

import gc

import torch

POISON = 77


class RecordedGraph:
    def __init__(self, backend, function, pool):
        self.backend, self.function, self.pool = backend, function, pool
        self.replays = 0
        with backend.nothing_happens():
            self.results = function()
        backend.members.setdefault(pool, []).append(self)
        self.own = [r for r in self.results if isinstance(r, torch.Tensor) and backend.is_new(r)]
        self.spoil()

    def spoil(self):
        with torch.no_grad():
            for result in self.own:
                result.fill_(POISON)

    def replay(self):
        self.replays += 1
        for graph in self.backend.members[self.pool]:
            graph.spoil()
        for result, new in zip(self.results, self.function()):
            if any(result is own for own in self.own):
                result.copy_(new)


class RecordedGraphs:
    """A `GraphBackend` for CPU tensors.

    `watched`: every tensor whose content a capture must not change: those that exist when it begins.
    """

    device_type = "cpu"

    def __init__(self):
        self.graphs = []
        self.members = {}
        self.pools = 0
        self.known = set()

    def new_pool(self, device):
        self.pools += 1
        return self.pools

    def shared_pool(self, device):
        return 0

    def warm_up(self, function, device):
        return function()

    def capture(self, function, device, pool):
        graph = RecordedGraph(self, function, pool)
        self.graphs.append(graph)
        return graph, graph.results

    def order_after_others(self, device):
        pass

    def is_capturing(self):
        return False

    def is_new(self, tensor):
        return tensor.untyped_storage().data_ptr() not in self.known

    def nothing_happens(self):
        return _Undone(self)


class _Undone:
    """Within the block all tensors of the process keep their contents, and the generator its state."""

    def __init__(self, backend):
        self.backend = backend

    def __enter__(self):
        found = {}
        for thing in gc.get_objects():
            if type(thing) in (torch.Tensor, torch.nn.Parameter):
                try:
                    found[thing.untyped_storage().data_ptr()] = thing
                except (RuntimeError, NotImplementedError):
                    continue  # compilers' tensors without memory
        self.backend.known = set(found)
        storages = [tensor.untyped_storage() for tensor in found.values() if tensor.device.type == "cpu"]
        self.saved = [(storage, storage.clone()) for storage in storages]
        self.state = torch.get_rng_state()

    def __exit__(self, *error):
        for storage, content in self.saved:
            storage.copy_(content)
        torch.set_rng_state(self.state)
