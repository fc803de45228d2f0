"""The state of a pipeline as checkpoints have it: each process gives and takes what its stages use.

Names and nesting are those of `torch.distributed.checkpoint.state_dict`, so that a checkpoint of a pipeline can be
loaded without one, with another number of stages, and the other way round.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from thunder.distributed.pipeline import Pipeline
from thunder.errors import CheckpointError

Optimizer = torch.optim.Optimizer


def require_cut(pipeline: Pipeline) -> None:
    """Raises while it is not known who has which parameters."""
    if not pipeline.is_cut:
        raise CheckpointError(
            "it is not known yet which process of the pipeline has which parameters",
            remedy="call model.cut_stages(...) with a batch as for train_step first",
        )


def state_to_save(pipeline: Pipeline, model: torch.nn.Module, optimizer: Optimizer | None) -> dict[str, Any]:
    """What this process writes: of what several have, equal entries are written once."""
    require_cut(pipeline)
    state: dict[str, Any] = {"model": _tensors(pipeline, model)}
    if optimizer is not None:
        names = _names(model)
        state["optimizer"] = {
            "state": {names[id(p)]: dict(entries) for p, entries in optimizer.state.items() if pipeline.has(p)},
            "param_groups": _groups(optimizer, names),
        }
    return state


def state_to_load(
    pipeline: Pipeline, model: torch.nn.Module, optimizer: Optimizer | None, path: Path
) -> dict[str, Any]:
    """What this process reads of a checkpoint: its own parameters, and memory for the states that belong to them."""
    require_cut(pipeline)
    state: dict[str, Any] = {"model": _tensors(pipeline, model)}
    if optimizer is None:
        return state
    names = _names(model)
    own = {names[id(p)]: p for group in optimizer.param_groups for p in group["params"] if pipeline.has(p)}
    metadata = FileSystemReader(path).read_metadata()
    entries: dict[str, dict[str, Any]] = {}
    for key, place in (metadata.planner_data or {}).items():
        if tuple(place[:2]) != ("optimizer", "state") or place[2] not in own:
            continue
        stored, parameter = metadata.state_dict_metadata[key], own[place[2]]
        value: Any = None
        if isinstance(stored, TensorStorageMetadata):
            dtype = stored.properties.dtype
            if stored.size == parameter.shape:
                value = torch.empty_like(parameter.detach(), dtype=dtype)
            else:
                value = torch.empty(stored.size, dtype=dtype)
        entries.setdefault(place[2], {})[place[3]] = value
    state["optimizer"] = {"state": entries, "param_groups": _groups(optimizer, names)}
    return state


def give_to_optimizer(
    pipeline: Pipeline, model: torch.nn.Module, optimizer: Optimizer | None, state: dict[str, Any]
) -> None:
    """Gives the optimiser what was read; parameters have theirs already."""
    if optimizer is None:
        return
    names, read = _names(model), state["optimizer"]
    for group, saved in zip(optimizer.param_groups, read["param_groups"]):
        group.update({key: value for key, value in saved.items() if key != "params"})
        for parameter in group["params"]:
            if names[id(parameter)] in read["state"]:
                optimizer.state[parameter] = read["state"][names[id(parameter)]]


def _tensors(pipeline: Pipeline, model: torch.nn.Module) -> dict[str, Any]:
    """The parameters and buffers that this process has, by name."""
    found: dict[str, Any] = model.state_dict(keep_vars=True)
    return {
        name: tensor.detach() if isinstance(tensor, torch.Tensor) else tensor
        for name, tensor in found.items()
        if not isinstance(tensor, torch.Tensor) or pipeline.has(tensor)
    }


def _names(model: torch.nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.named_parameters()}


def _groups(optimizer: Optimizer, names: dict[int, str]) -> list[dict[str, Any]]:
    return [{**group, "params": [names[id(p)] for p in group["params"]]} for group in optimizer.param_groups]
