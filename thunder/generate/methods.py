"""What a compiled Hugging Face model has beside the methods of its class: our decoding loop.

`generate` itself is Hugging Face's: it reads the arguments, makes processors and criteria, and calls `_sample` for
greedy search and sampling.  That method is replaced here.  Calls that the loop does not serve go to the original
model, with the reason in `compile_stats().notes`.
"""

from __future__ import annotations

import inspect
import weakref
from typing import Any

from transformers.generation import GenerateDecoderOnlyOutput

from thunder.frontend import original_module
from thunder.generate.loop import Decoder
from thunder.generate.request import Request, read_request, why_unsuitable

# Uncompiled, because a cache that grows would have the forward pass compiled for ever new sizes.
_OTHER_LOOP = "generate runs Hugging Face's own loop, uncompiled"

_decoders: weakref.WeakKeyDictionary[Any, Decoder | str] = weakref.WeakKeyDictionary()


class GenerationMethods:
    """A mixin for the classes of compiled models."""

    __slots__ = ()
    _thunder: Any

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any) -> Any:
        given = model_kwargs.get("past_key_values")
        result = super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)  # type: ignore[misc]
        cache = model_kwargs.get("past_key_values")
        if cache is not None:
            cache._thunder_given = given is not None
        return result

    def _beam_search(self, *args: Any, **kwargs: Any) -> Any:
        _note(self, f"{_OTHER_LOOP}: it searches with beams")
        model: Any = original_module(self)
        return model._beam_search(*args, **kwargs)

    def _assisted_decoding(self, *args: Any, **kwargs: Any) -> Any:
        _note(self, f"{_OTHER_LOOP}: another model, or the prompt, proposes tokens")
        model: Any = original_module(self)
        return model._assisted_decoding(*args, **kwargs)

    def _sample(
        self,
        input_ids: Any,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        decoder = _decoder_of(self)
        reason: Any = decoder
        if isinstance(decoder, Decoder):
            reason = "several processes generate in step" if synced_gpus else None
        request: Any = None
        if reason is None:
            request = reason = read_request(
                original_module(self), input_ids, logits_processor, stopping_criteria, generation_config, model_kwargs
            )
        if isinstance(reason, str):
            _note(self, f"{_OTHER_LOOP}: {reason}")
            model: Any = original_module(self)
            return model._sample(
                input_ids,
                logits_processor=logits_processor,
                stopping_criteria=stopping_criteria,
                generation_config=generation_config,
                synced_gpus=synced_gpus,
                streamer=streamer,
                **model_kwargs,
            )
        assert isinstance(decoder, Decoder) and isinstance(request, Request)
        sequences, scores, logits = decoder.generate(request, streamer)
        if not generation_config.return_dict_in_generate:
            return sequences
        output: Any = GenerateDecoderOnlyOutput
        return output(
            sequences=sequences,
            scores=tuple(scores) if generation_config.output_scores else None,
            logits=tuple(logits) if generation_config.output_logits else None,
            past_key_values=request.cache,
        )


def _decoder_of(compiled: Any) -> Decoder | str:
    """The decoder of a compiled model, or why it has none."""
    function = compiled._thunder
    decoder = _decoders.get(function)
    if decoder is None:
        model = original_module(compiled)
        reason = why_unsuitable(model)
        keeps = "logits_to_keep" in inspect.signature(type(model).forward).parameters
        decoder = _decoders[function] = reason or Decoder(model, function.options, keeps)
    return decoder


def _note(compiled: Any, note: str) -> None:
    notes = compiled._thunder.statistics.notes
    if not any(note in known for known in notes):
        notes.append([note])
