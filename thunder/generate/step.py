"""The device's part of decoding: one forward pass and the choice of a token, as functions of buffers.

Nothing here returns to Python what the next step needs: tokens, positions and the cache are in buffers that are
changed in place, so that a captured step can be replayed as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.generation import LogitsProcessor

from thunder.acquire import module_scopes
from thunder.generate.cache import DecodeCache
from thunder.generate.request import Sampling


class Prompt:
    """Buffers for a prompt of at most `length` tokens; it is padded on the right.

    Attributes:
        ids, positions: int64 [batch, length].
        slots: int64 [length], where in the cache the tokens go.
        last: int64 [1], index of the last token that is not padding.
    """

    def __init__(self, batch: int, length: int, device: torch.device) -> None:
        self.ids = torch.zeros(batch, length, dtype=torch.long, device=device)
        self.positions = torch.zeros(batch, length, dtype=torch.long, device=device)
        self.slots = torch.zeros(length, dtype=torch.long, device=device)
        self.last = torch.zeros(1, dtype=torch.long, device=device)


class State:
    """Buffers of one decoding loop.

    Attributes:
        cache: keys and values.
        sequence: int64 [batch, capacity + 1], the tokens.
        token: int64 [batch, 1], the last of them, which goes through the model next.
        column: int64 [1], column of `sequence` for the first generated token.
        slot: int64 [1], place in the cache of the first generated token.
        position: int64 [batch, 1], position of the first generated token.
        step: int64 [1], steps since the prompt.
        unfinished: int64 [batch], 1 for sequences without an end-of-sequence token.
        visible: bool [batch, capacity], false where the prompt is padded; None when it nowhere is.
        capacity: tokens that the cache holds.
    """

    def __init__(self, batch: int, layers: int, capacity: int, device: torch.device, *, padded: bool) -> None:
        self.cache = DecodeCache(layers, capacity)
        self.sequence = torch.zeros(batch, capacity + 1, dtype=torch.long, device=device)
        self.token = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self.column = torch.zeros(1, dtype=torch.long, device=device)
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.position = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self.step = torch.zeros(1, dtype=torch.long, device=device)
        self.unfinished = torch.ones(batch, dtype=torch.long, device=device)
        self.visible = torch.ones(batch, capacity, dtype=torch.bool, device=device) if padded else None
        self.capacity = capacity


class Chooser:
    """Chooses tokens from logits on the device."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self.sampling = sampling
        self.processors = [_rebuilt(kind, settings) for kind, settings in sampling.processors]
        self.eos = torch.tensor(sampling.eos, dtype=torch.long, device=device) if sampling.eos else None

    def choose(self, state: State, logits: torch.Tensor, column: torch.Tensor) -> None:
        """Writes the tokens chosen from `logits` [batch, vocabulary] to `column` [1] of the sequences."""
        # The largest of 16-bit numbers is the largest of the same numbers in 32 bits.
        scores = logits.to(torch.float32) if self.processors or self.sampling.do_sample else logits
        for processor in self.processors:
            scores = processor(state.sequence, scores)
        tokens = draw(scores) if self.sampling.do_sample else torch.argmax(scores, dim=-1)
        if self.eos is not None:
            tokens = torch.where(state.unfinished == 1, tokens, self.sampling.pad)
            ended = (tokens[:, None] == self.eos).any(dim=-1)
            state.unfinished.copy_(state.unfinished * ~ended)
        state.token.copy_(tokens[:, None])
        state.sequence.index_copy_(1, column, tokens[:, None])


def _rebuilt(kind: type, settings: tuple[tuple[str, Any], ...]) -> LogitsProcessor:
    """A processor with these settings."""
    processor: LogitsProcessor = object.__new__(kind)
    processor.__dict__.update(settings)
    return processor


def draw(scores: torch.Tensor) -> torch.Tensor:
    """Tokens drawn with the probabilities softmax(scores), with the same random numbers as `torch.multinomial`.

    With one sample, that is the argmax of probabilities divided by exponentially distributed numbers; the function
    itself checks its argument on the host.
    """
    probabilities = torch.softmax(scores, dim=-1)
    return torch.argmax(probabilities / torch.empty_like(probabilities).exponential_(1.0), dim=-1)


def prompt_logits(model: Any, state: State, prompt: Prompt, patterns: Any, *, keeps: bool) -> torch.Tensor:
    """Runs the prompt; the logits after its last token, [batch, vocabulary]."""
    if keeps:
        return _forward(model, state, prompt.ids, prompt.slots, prompt.positions, patterns, prompt.last)[:, -1]
    return _forward(model, state, prompt.ids, prompt.slots, prompt.positions, patterns, None)[:, prompt.last].squeeze(1)


def next_logits(model: Any, state: State, patterns: Any) -> torch.Tensor:
    """Runs the last token of the sequences; the logits after it, [batch, vocabulary]."""
    slots, positions = state.slot + state.step, state.position + state.step
    return _forward(model, state, state.token, slots, positions, patterns, None)[:, -1]


def _forward(
    model: Any,
    state: State,
    ids: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor,
    patterns: Any,
    keep: torch.Tensor | None,
) -> torch.Tensor:
    if isinstance(patterns, dict):
        masks: Any = {kind: _mask(model, state, slots, window) for kind, window in patterns.items()}
    else:
        masks = _mask(model, state, slots, patterns or None)
    options = {} if keep is None else {"logits_to_keep": keep}
    state.cache.slots.current = slots
    with module_scopes(model):
        outputs = model(
            input_ids=ids,
            attention_mask=masks,
            position_ids=positions,
            past_key_values=state.cache,
            use_cache=True,
            return_dict=True,
            **options,
        )
    state.cache.slots.current = None
    logits: torch.Tensor = outputs.logits
    return logits


def _mask(model: Any, state: State, slots: torch.Tensor, window: int | None) -> torch.Tensor:
    """What each new token sees: [batch or 1, 1, new tokens, capacity], as the model's attention takes it."""
    # Made here, not kept: a pass that reads the trace can then tell how far attention has to look.
    cells, places = torch.arange(state.capacity, device=slots.device)[None, None, None, :], slots[None, None, :, None]
    seen = cells <= places
    if window is not None:
        seen = seen & (cells > places - window)
    if state.visible is not None:
        seen = seen & state.visible[:, None, None]
        if slots.shape[0] > 1:
            # Padding sees itself: a row without anything visible has no softmax.
            seen = seen | (cells == places)
    config = model.config.get_text_config()
    if config._attn_implementation == "eager":
        lowest = torch.finfo(model.dtype).min
        # For the whole batch: some models check that it is (XGLM).
        hidden = torch.zeros_like(seen, dtype=model.dtype).masked_fill(~seen, lowest)
        return hidden.expand(state.token.shape[0], -1, -1, -1)
    return seen


def prompt_step(model: Any, state: State, prompt: Prompt, patterns: Any, chooser: Chooser, *, keeps: bool) -> None:
    """Runs the prompt and chooses the first token."""
    chooser.choose(state, prompt_logits(model, state, prompt, patterns, keeps=keeps), state.column)


def decode_step(model: Any, state: State, patterns: Any, chooser: Chooser) -> None:
    """Runs the last token and chooses the next."""
    logits = next_logits(model, state, patterns)
    chooser.choose(state, logits, state.column + state.step + 1)
    state.step.add_(1)


def forward_step(model: Any, state: State, patterns: Any) -> torch.Tensor:
    """Runs the last token; returns the logits, for choosers in Python."""
    logits = next_logits(model, state, patterns).to(torch.float32)
    state.step.add_(1)
    return logits
