"""What a training step will take on a mesh of GPUs, and how best to divide it, without running it."""

from thunder.planning.devices import DEVICES, Device, get_device
from thunder.planning.models import BUILT_IN, PlannedModel, load_model, make_config, trace_model
from thunder.planning.plan import BYTES, PRECISIONS, SCHEDULES, Job, Mesh, Plan
from thunder.planning.predict import Memory, Parts, Prediction, predict, seconds_of
from thunder.planning.search import Fixed, ModelTracer, search
from thunder.planning.segments import Pass, Segment, Segments, cut
from thunder.planning.traced_step import TracedStep, trace_step

__all__ = [
    "BUILT_IN", "BYTES", "DEVICES", "PRECISIONS", "SCHEDULES", "Device", "Fixed", "Job", "Memory", "Mesh",
    "ModelTracer", "Parts", "Pass", "Plan", "PlannedModel", "Prediction", "Segment", "Segments", "TracedStep", "cut",
    "get_device", "load_model", "make_config", "predict", "search", "seconds_of", "trace_model", "trace_step",
]  # fmt: skip
