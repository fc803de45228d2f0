"""Suite `diffusers`: UNets, transformers and autoencoders of the diffusers library at tiny size.

A row is a model class; its configuration and inputs stand in `thunder.coverage.diffusion_models`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import diffusers
import torch

from thunder.coverage.diffusion_models import DIFFUSION_MODELS
from thunder.coverage.model_phases import ModelCase, run_model_phases
from thunder.coverage.recorder import Recorder
from thunder.coverage.subjects import Subject
from thunder.coverage.suite import Suite


class DiffusersSuite(Suite):
    """All classes that have an entry."""

    name = "diffusers"
    packages = ("torch", "diffusers")

    def row_names(self) -> Sequence[str]:
        return list(DIFFUSION_MODELS)

    def warm(self) -> None:
        warnings.filterwarnings("ignore")
        diffusers.utils.logging.set_verbosity_error()
        for common in ("UNet2DConditionModel", "FluxTransformer2DModel"):
            getattr(diffusers, common)  # imports the code that all share

    def run_row(self, row: str, subject: Subject, recorder: Recorder) -> None:
        run_model_phases(lambda: build(row), subject, recorder, device=self.device)


def build(name: str) -> ModelCase:
    """A tiny model with random weights and inputs."""
    arguments, inputs = DIFFUSION_MODELS[name]
    torch.manual_seed(0)
    model = getattr(diffusers, name)(**arguments)
    return ModelCase(model, inputs())


SUITE = DiffusersSuite()
