"""CUDA graphs: a computation is launched once as a recording, and then replayed."""

from thunder.executors.cuda_graphs.backend import CudaGraphs, GraphBackend
from thunder.executors.cuda_graphs.capturable import why_not_capturable
from thunder.executors.cuda_graphs.graphed import GraphedFunction
from thunder.executors.cuda_graphs.policy import GRAPH_MODES, GraphPolicy, graph_policy
from thunder.executors.cuda_graphs.recording import Recording

__all__ = [
    "GRAPH_MODES",
    "CudaGraphs",
    "GraphBackend",
    "GraphPolicy",
    "GraphedFunction",
    "Recording",
    "graph_policy",
    "why_not_capturable",
]
