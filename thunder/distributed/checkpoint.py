"""Checkpoints of models whose parameters are divided, by `torch.distributed.checkpoint`.

Input: a model (compiled or not), its optimiser, plain values.  Output: one folder a step, `step-12`, from which any
number of processes with any division can load: parameters and optimiser states are DTensors, which say what they are
part of.

A checkpoint counts once its `.metadata` is there, which is written last, under another name, and renamed: whatever
happens in the middle of a save, the checkpoint before stays the latest whole one.
"""

from __future__ import annotations

import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as torch_checkpoint
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor

from thunder import _torch_compat
from thunder.distributed import pipeline_state
from thunder.distributed.pipeline import Pipeline
from thunder.errors import CheckpointError
from thunder.frontend import is_compiled_module
from thunder.frontend.inspection import compiled_function

_PREFIX = "step-"


class _Values:
    """Plain values as one entry of a checkpoint."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values


class Checkpoints:
    """The checkpoints in a folder that all processes see.

    Args:
        folder: made when it is missing.
        keep: whole checkpoints that are kept when a new one is written; None for all.

    Example:
        >>> checkpoints = Checkpoints("run-7")  # doctest: +SKIP
        >>> values = checkpoints.load(model, optimizer)  # doctest: +SKIP
        >>> start = 0 if values is None else values["step"]  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, *, keep: int | None = None) -> None:
        if keep is not None and keep < 1:
            raise CheckpointError(f"keep={keep}", remedy="keep one checkpoint or more")
        self.folder = Path(folder)
        self.keep = keep
        self._group: dist.ProcessGroup | None = None
        self._running: Future[Any] | None = None

    def steps(self) -> list[int]:
        """The steps of which there is a whole checkpoint, in order."""
        found = [path.parent.name.removeprefix(_PREFIX) for path in self.folder.glob(f"{_PREFIX}*/.metadata")]
        return sorted(int(name) for name in found if name.isdecimal())

    def path(self, step: int) -> Path:
        """The folder of one checkpoint."""
        return self.folder / f"{_PREFIX}{step}"

    def save(
        self, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None, **values: Any
    ) -> None:
        """Writes a checkpoint; every process calls it, and all return once it is whole.

        Args:
            step: its number.
            model, optimizer: what is saved.
            values: further picklable values, those of the first process are kept.
        """
        self.wait()
        torch_checkpoint.save(
            self._state(model, optimizer, values), checkpoint_id=self.path(step), process_group=self._process_group()
        )
        self._drop_old()

    def save_in_background(
        self, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None, **values: Any
    ) -> Future[Any]:
        """Copies the state to host memory and writes it while the program goes on.

        A save that is still running is waited for first.

        Returns:
            What `.result()` waits with, or raises the error of the save.
        """
        self.wait()
        state = self._state(model, optimizer, values)
        if not dist.is_initialized():
            torch_checkpoint.save(state, checkpoint_id=self.path(step))
            self._running = Future()
            self._running.set_result(None)
            return self._running
        running: Any = torch_checkpoint.async_save(
            state, checkpoint_id=self.path(step), process_group=self._process_group()
        )
        self._running = running
        return running

    def wait(self) -> None:
        """Waits for the save in the background, if there is one; raises its error."""
        running, self._running = self._running, None
        if running is not None:
            running.result()
            self._drop_old()

    def load(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None, *, step: int | None = None
    ) -> dict[str, Any] | None:
        """Gives model and optimiser the values of a checkpoint, divided as the model's parameters are now.

        Args:
            model, optimizer: changed in place.
            step: which one; None for the latest whole one.

        Returns:
            The plain values that were saved with it and its `step`; None when there is no checkpoint at all.

        Raises:
            CheckpointError: there is none of that step.
        """
        self.wait()
        steps = self.steps()
        if dist.is_initialized():  # one process decides: another may see the folder later
            decided = [steps]
            dist.broadcast_object_list(decided, 0, group=self._process_group())
            steps = decided[0]
        if step is None:
            if not steps:
                return None
            step = steps[-1]
        if step not in steps:
            raise CheckpointError(
                f"there is no whole checkpoint of step {step} in {self.folder}",
                remedy=f"there are those of steps {steps}" if steps else "save one first",
            )
        pipeline = _pipeline_of(model)
        if pipeline is not None:
            state = pipeline_state.state_to_load(pipeline, model, optimizer, self.path(step)) | {"values": _Values({})}
        else:
            state = _state(model, optimizer, {})
        torch_checkpoint.load(state, checkpoint_id=self.path(step), process_group=self._process_group())
        if pipeline is not None:
            pipeline_state.give_to_optimizer(pipeline, model, optimizer, state)
        else:
            set_state_dict(
                model,
                [] if optimizer is None else [optimizer],
                model_state_dict=state["model"],
                optim_state_dict=state.get("optimizer", {}),
            )
        return {**state["values"].values, "step": step}

    def _state(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None, values: dict[str, Any]
    ) -> dict[str, Any]:
        pipeline = _pipeline_of(model)
        if pipeline is None:
            return _state(model, optimizer, values)
        return pipeline_state.state_to_save(pipeline, model, optimizer) | {"values": _Values(values)}

    def _process_group(self) -> dist.ProcessGroup | None:
        """A group of its own, on CPUs: what is saved in the background must not mix with the program's collectives."""
        if dist.is_initialized() and self._group is None:
            self._group = dist.new_group(backend="gloo")
        return self._group

    def _drop_old(self) -> None:
        if self.keep is not None and (not dist.is_initialized() or dist.get_rank() == 0):
            for step in self.steps()[: -self.keep]:
                # Without its metadata it is no checkpoint any more, should this process end in between.
                (self.path(step) / ".metadata").unlink()
                shutil.rmtree(self.path(step))


def _state(model: torch.nn.Module, optimizer: torch.optim.Optimizer | None, values: dict[str, Any]) -> dict[str, Any]:
    """What is saved, and what is loaded into."""
    state: dict[str, Any] = {"values": _Values(values)}
    if optimizer is None:
        state["model"] = get_model_state_dict(model)
    else:
        state["model"], state["optimizer"] = get_state_dict(model, optimizer)
    return state


def _pipeline_of(model: torch.nn.Module) -> Pipeline | None:
    """The pipeline that a compiled model runs as, or None."""
    distribution = compiled_function(model).options.distribution if is_compiled_module(model) else None
    return distribution if isinstance(distribution, Pipeline) else None


def whole_state_dict(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's `state_dict` as plain tensors on the CPU of the first process, as a single process would have it.

    Every process calls it; the others get an empty dict.  One tensor at a time is whole.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    pipeline = _pipeline_of(model)
    if pipeline is not None:
        pipeline_state.require_cut(pipeline)
    state: dict[str, torch.Tensor] = {}
    known: dict[int, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            state[name] = tensor
            continue
        key = id(tensor)
        if key not in known:
            tensor = tensor if pipeline is None else pipeline.whole_part(tensor)
            whole = _whole(tensor) if isinstance(tensor, DTensor) else tensor.detach()
            known[key] = whole.cpu().clone() if first else torch.empty(0)
        state[name] = known[key]
    return state if first else {}


def _whole(tensor: DTensor) -> torch.Tensor:
    """All of a parameter, on the device that its mesh reaches, wherever parts are kept."""
    part = _torch_compat.local_part(tensor).detach().to(tensor.device_mesh.device_type)
    gathered: Any = _torch_compat.dtensor_like(tensor, part)
    whole: torch.Tensor = gathered.full_tensor()
    return whole


def load_safetensors(model: torch.nn.Module, path: str | Path, *, strict: bool = True) -> None:
    """Gives a model the values of plain safetensors files; each process reads the parts that it has.

    Args:
        model: its parameters may be divided in any way; changed in place.
        path: one file, or a folder of them, as transformers saves them.
        strict: whether every tensor of the model, and no other, has to be there.

    Raises:
        CheckpointError: files, names or shapes do not fit.
    """
    from safetensors import safe_open  # not a dependency of thunder

    path = Path(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise CheckpointError(f"there is no safetensors file at {path}", remedy="give a file, or a folder of them")
    wanted: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
    pipeline = _pipeline_of(model)
    if pipeline is not None:
        pipeline_state.require_cut(pipeline)
    read: set[int] = set()
    unexpected = []
    for file in files:
        with safe_open(str(file), framework="pt") as opened:
            for name in opened.keys():
                if name not in wanted:
                    unexpected.append(name)
                    continue
                if pipeline is None or pipeline.has(wanted[name]):
                    _read_part(wanted[name], opened.get_slice(name), name)
                read.add(id(wanted[name]))
    missing = [name for name, tensor in wanted.items() if id(tensor) not in read]
    if strict and (missing or unexpected):
        raise CheckpointError(
            f"the tensors in {path} are not those of the model: missing {missing[:5]}, unexpected {unexpected[:5]}",
            remedy="load the files of the same architecture, or pass strict=False",
        )


def _read_part(tensor: torch.Tensor, source: Any, name: str) -> None:
    """Reads the part of a stored tensor that this process has of it."""
    if tuple(source.get_shape()) != tuple(tensor.shape):
        raise CheckpointError(
            f"{name} has shape {tuple(source.get_shape())} in the file and {tuple(tensor.shape)} in the model",
            remedy="load the files of the same configuration",
        )
    with torch.no_grad():
        if not isinstance(tensor, DTensor):
            tensor.copy_(source[...] if tensor.dim() else source[:])
            return
        part = _torch_compat.local_part(tensor)
        if part.numel():
            offsets = _torch_compat.offsets_of_part(tensor)
            part.copy_(source[tuple(slice(start, start + size) for start, size in zip(offsets, part.shape))])
