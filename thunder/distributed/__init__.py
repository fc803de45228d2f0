"""Models spread over processes: the transforms that put torch.distributed's collectives into traces."""

from thunder.distributed.checkpoint import Checkpoints, load_safetensors, whole_state_dict
from thunder.distributed.collectives import Group
from thunder.distributed.data_parallel import DataParallel, DataParallelOptions, Groups
from thunder.distributed.gradient_norm import clip_gradients
from thunder.distributed.initialise import Initialise, broadcast_from_first, fully_shard
from thunder.distributed.mesh import (
    data_parallel_mesh,
    group_of,
    joint_mesh,
    one_device,
    require_process_group,
    require_same_model,
)
from thunder.distributed.methods import DataParallelMethods, DistributedMethods, PipelineMethods
from thunder.distributed.overlap import Collective, begin_collectives_early, describe_collectives
from thunder.distributed.pipeline import Pipeline
from thunder.distributed.pipeline_options import SCHEDULES, PipelineOptions
from thunder.distributed.tensor_parallel import divide_cross_entropy, merge_entries, parallelise
from thunder.distributed.tensor_plans import automatic_plan

__all__ = [
    "SCHEDULES",
    "Checkpoints",
    "Collective",
    "DataParallel",
    "DataParallelMethods",
    "DataParallelOptions",
    "DistributedMethods",
    "Group",
    "Groups",
    "Initialise",
    "Pipeline",
    "PipelineMethods",
    "PipelineOptions",
    "automatic_plan",
    "begin_collectives_early",
    "broadcast_from_first",
    "clip_gradients",
    "data_parallel_mesh",
    "describe_collectives",
    "divide_cross_entropy",
    "fully_shard",
    "group_of",
    "joint_mesh",
    "load_safetensors",
    "merge_entries",
    "one_device",
    "parallelise",
    "require_process_group",
    "require_same_model",
    "whole_state_dict",
]
