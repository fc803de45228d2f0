"""Models on the meta device whose parameters get memory only where they are used, which is known later.

Input: a model on the meta device.  Output: the same model object on a device; its parameters have shapes and no memory
until `finish` says which of them stay.  Values are those that the same model has in one process which starts from the
same state of the random generators: every process initialises every module in turn, and forgets what it does not use.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from thunder import _torch_compat
from thunder.distributed.initialise import Initialise, initialise_module


class DelayedStart:
    """The start of one model.

    Args:
        model: on the meta device; its parameters and buffers are exchanged, tied ones stay tied.
        device: where they are to be.
        initialise: gives one module's own parameters and buffers their values; None for its `reset_parameters`.
        mesh: the processes, of one dimension; random numbers are those of the first.
    """

    def __init__(
        self, model: torch.nn.Module, device: torch.device, initialise: Initialise | None, mesh: DeviceMesh
    ) -> None:
        self._model = model
        self._initialise = initialise
        self._cuda = [device.index or 0] if device.type == "cuda" else []
        states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(index) for index in self._cuda)]
        shared = [states]
        dist.broadcast_object_list(shared, dist.get_process_group_ranks(mesh.get_group())[0], group=mesh.get_group())
        self._random_states = shared[0]
        made: dict[int, tuple[torch.Tensor, torch.nn.Parameter]] = {}  # an id says nothing of a parameter that is gone
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is None:
                    continue
                if id(parameter) not in made:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                    _torch_compat.free_memory(empty)
                    made[id(parameter)] = parameter, torch.nn.Parameter(empty, parameter.requires_grad)
                module._parameters[name] = made[id(parameter)][1]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty_like(buffer, device=device)

    def finish(self, keeps: Callable[[torch.Tensor], bool]) -> None:
        """Gives the parameters that `keeps` accepts memory, and them and all buffers their values."""
        done: dict[int, torch.Tensor] = {}
        with torch.random.fork_rng(devices=self._cuda), torch.no_grad():
            torch.set_rng_state(self._random_states[0])
            for index, state in zip(self._cuda, self._random_states[1:]):
                torch.cuda.set_rng_state(state, index)
            for path, module in self._model.named_modules():
                own = [parameter for parameter in module._parameters.values() if parameter is not None]
                if not own and not module._buffers:
                    continue
                tied = {id(parameter): parameter.clone() for parameter in own if id(parameter) in done}
                for parameter in own:
                    _torch_compat.give_memory(parameter)
                initialise_module(module, path, self._initialise)
                for parameter in own:
                    if id(parameter) in tied:
                        parameter.copy_(tied[id(parameter)])
                    if keeps(parameter):
                        done[id(parameter)] = parameter
                    else:
                        _torch_compat.free_memory(parameter)
