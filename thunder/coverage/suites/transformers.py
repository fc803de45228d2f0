"""Suite `transformers`: every model type of the installed transformers, at a tiny random configuration.

A row is a model type. Its class is the most capable one that eager runs: with a language-modelling head where the
type has one, else with another head, else the bare model. Inputs hold every modality that could be put together;
the row's notes say which class and which inputs were used.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence

import torch
import transformers
from transformers import PreTrainedModel
from transformers.models.auto import configuration_auto, modeling_auto

from thunder.coverage.configuration_overrides import CLASSES, CONFIGURATIONS
from thunder.coverage.model_inputs import Inputs, add_placeholders, candidates
from thunder.coverage.model_phases import ModelCase, call, run_model_phases
from thunder.coverage.recorder import NotRunnableInEager, Recorder, first_line
from thunder.coverage.special_inputs import SPECIAL_INPUTS
from thunder.coverage.subjects import Subject
from thunder.coverage.suite import Suite
from thunder.coverage.tiny_configuration import SCALES, Scale, tiny_configuration

PREFERRED_MAPPINGS = (
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES",
    "MODEL_FOR_CTC_MAPPING_NAMES",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
    "MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES",
    "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES",
    "MODEL_MAPPING_NAMES",
)
MAX_PARAMETERS = 80_000_000
MAX_REPAIRS = 4


def mapping_names() -> list[str]:
    """Names of all mappings from model types to classes, preferred ones first."""
    names = [name for name in dir(modeling_auto) if name.startswith("MODEL_") and name.endswith("_MAPPING_NAMES")]
    return [*PREFERRED_MAPPINGS, *sorted(set(names) - set(PREFERRED_MAPPINGS))]


def class_names(model_type: str) -> list[str]:
    """Classes of a model type, the one to prefer first."""
    chosen: list[str] = [CLASSES[model_type]] if model_type in CLASSES else []
    for name in mapping_names():
        entry = getattr(modeling_auto, name).get(model_type, ())
        chosen += [entry] if isinstance(entry, str) else list(entry)
    return list(dict.fromkeys(chosen))


class TransformersSuite(Suite):
    """All model types."""

    name = "transformers"
    packages = ("torch", "transformers")

    def row_names(self) -> Sequence[str]:
        return sorted({model_type for name in mapping_names() for model_type in getattr(modeling_auto, name)})

    def warm(self) -> None:
        transformers.logging.set_verbosity_error()
        warnings.filterwarnings("ignore")
        for common in ("LlamaForCausalLM", "CLIPModel", "T5Model", "GenerationConfig"):
            getattr(transformers, common)  # imports the code that all share

    def run_row(self, row: str, subject: Subject, recorder: Recorder) -> None:
        run_model_phases(lambda: build(row), subject, recorder, device=self.device)


def build(model_type: str) -> ModelCase:
    """The first class and inputs of a model type that eager runs."""
    reasons = []
    for scale in SCALES:
        for name in class_names(model_type):
            try:
                model = build_class(model_type, name, scale)
                inputs = runnable_inputs(model, model_type)
            except Exception as error:  # a class that cannot be built or run is passed over, and its reason kept
                reasons.append(f"{name}: {type(error).__name__}: {first_line(error)}")
                gc.collect()
                continue
            notes = {"class": name, "inputs": sorted(inputs), "width": scale.width}
            return ModelCase(model, inputs, generation_inputs(model, inputs), notes)
    raise NotRunnableInEager(" / ".join(dict.fromkeys(reasons)))


def build_class(model_type: str, class_name: str, scale: Scale) -> PreTrainedModel:
    """A tiny model with random weights."""
    model_class = getattr(transformers, class_name)
    configuration_class = model_class.config_class or configuration_auto.CONFIG_MAPPING[model_type]
    configuration = tiny_configuration(configuration_class, CONFIGURATIONS.get(model_type, {}), scale)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class(configuration).parameters())
    if size > MAX_PARAMETERS:
        raise NotRunnableInEager(f"{size} parameters are too many for a tiny model")
    torch.manual_seed(0)
    model = model_class(configuration).eval().float()
    model.config.return_dict = True
    return model


def runnable_inputs(model: PreTrainedModel, model_type: str) -> Inputs:
    """The richest inputs that eager accepts."""
    if model_type in SPECIAL_INPUTS:
        return repaired(model, SPECIAL_INPUTS[model_type](model))
    failure: Exception | None = None
    for inputs in candidates(model):
        try:
            return repaired(model, inputs)
        except Exception as error:  # these inputs do not fit; the first reason is reported if none fits
            failure = failure or error
    raise failure or NotRunnableInEager("no inputs could be put together")


def repaired(model: PreTrainedModel, inputs: Inputs) -> Inputs:
    """Inputs with the placeholder tokens that the model asks for."""
    for _ in range(MAX_REPAIRS):
        try:
            call(model, inputs)
            return inputs
        except ValueError as error:
            changed = add_placeholders(model, inputs, str(error))
            if changed is None:
                raise
            inputs = changed
    raise NotRunnableInEager("the model kept asking for other placeholder tokens")


def generation_inputs(model: PreTrainedModel, inputs: Inputs) -> Inputs | None:
    """Inputs of a generation, or None for a model that cannot generate."""
    if not model.can_generate():
        return None
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    model.generation_config.bos_token_id = 1
    model.generation_config.decoder_start_token_id = 1
    chosen = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    mask = chosen.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.dim() == 2 and not model.config.is_encoder_decoder:
        chosen["attention_mask"] = mask.flip(1)  # what is to be continued is padded on the left
    return chosen


SUITE = TransformersSuite()
