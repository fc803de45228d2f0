"""Suite `vision`: image models in training mode, from transformers and, where it is installed, timm.

A row is `transformers/TYPE`, an image classifier at tiny size, or `timm/MODULE`, the smallest model of a module of
timm at the size that it is made for. Unlike the suite `transformers`, models are in training mode, so that batch
statistics, their running averages and dropout take part.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto

from thunder.coverage.model_phases import ModelCase, run_model_phases
from thunder.coverage.recorder import NotRunnableInEager, Recorder
from thunder.coverage.subjects import Subject
from thunder.coverage.suite import Suite
from thunder.coverage.suites.transformers import build_class, runnable_inputs
from thunder.coverage.tiny_configuration import SCALES

SMALL_NAMES = (
    "test_", "atto", "femto", "pico", "nano", "xxt", "xxs", "xx_", "tiny", "050", "_s0", "_t0", "_b0", "_m0", "_m1",
    "micro", "mini", "xs", "small", "_s", "lite", "18", "26",
)  # fmt: skip
MAX_PARAMETERS = 50_000_000
TIMM_INSTALLED = all(importlib.util.find_spec(name) is not None for name in ("timm", "torchvision"))


class VisionSuite(Suite):
    """Image classifiers of both libraries."""

    name = "vision"
    packages = ("torch", "transformers", "timm") if TIMM_INSTALLED else ("torch", "transformers")
    row_timeout = 240.0

    def row_names(self) -> Sequence[str]:
        types = sorted(modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
        rows = [f"transformers/{model_type}" for model_type in types]
        if TIMM_INSTALLED:
            rows += [f"timm/{module}" for module in importlib.import_module("timm").list_modules()]
        return rows

    def warm(self) -> None:
        transformers.logging.set_verbosity_error()
        warnings.filterwarnings("ignore")
        if TIMM_INSTALLED:
            importlib.import_module("timm")

    def run_row(self, row: str, subject: Subject, recorder: Recorder) -> None:
        library, _, name = row.partition("/")
        build = build_timm if library == "timm" else build_transformers
        run_model_phases(lambda: build(name), subject, recorder, training=True, device=self.device)


def build_transformers(model_type: str) -> ModelCase:
    """An image classifier of a model type."""
    entry = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type]
    name = entry if isinstance(entry, str) else entry[0]
    failures = []
    for scale in SCALES:
        try:
            model = build_class(model_type, name, scale)
            return ModelCase(model, runnable_inputs(model, model_type), notes={"class": name})
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotRunnableInEager) as error:
            failures.append(f"{type(error).__name__}: {error}".splitlines()[0])
    raise NotRunnableInEager(" / ".join(failures))


def build_timm(module: str) -> ModelCase:
    """The smallest model of a module of timm."""
    timm: Any = importlib.import_module("timm")
    for name in sorted(timm.list_models(module=module), key=size_in_name):
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in timm.create_model(name, pretrained=False).parameters())
        if size <= MAX_PARAMETERS:
            break
    else:
        raise NotRunnableInEager(f"no model of {module} has at most {MAX_PARAMETERS} parameters")
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    channels, height, width = model.pretrained_cfg.get("input_size", (3, 224, 224))
    return ModelCase(model, {"0": torch.randn(2, channels, height, width)}, notes={"model": name})


def size_in_name(name: str) -> tuple[int, int, str]:
    """Smaller models first, as their names tell."""
    ranks = [rank for rank, mark in enumerate(SMALL_NAMES) if mark in name]
    return (ranks[0] if ranks else len(SMALL_NAMES), len(name), name)


SUITE = VisionSuite()
