"""The host's part of decoding: starts steps on the device, and notices when sequences end.

Between the steps of a captured loop Python does nothing but replay the graph.  On a GPU the host runs ahead of the
device: it learns from copies that arrive some steps later whether all sequences have ended, and cuts off the tokens
that were generated meanwhile.
"""

from __future__ import annotations

from typing import Any

import torch

from thunder.frontend import Options
from thunder.generate.cache import give_back, take_over
from thunder.generate.program import RepeatedProgram
from thunder.generate.request import Request, Sampling, attention_patterns
from thunder.generate.step import (
    Chooser,
    Prompt,
    State,
    decode_step,
    draw,
    forward_step,
    prompt_logits,
    prompt_step,
)
from thunder.generate.watch import ImmediateWatch, watch_for

SMALLEST_PROMPT = 16
CAPACITY_STEP = 128
# Sets of buffers that are kept for later calls.
STATES_KEPT = 4


class Decoder:
    """Generates tokens with one model; keeps buffers and compiled steps between calls."""

    def __init__(self, model: Any, options: Options, keeps: bool) -> None:
        self._model = model
        self._options = options
        self._keeps = keeps
        self._loops: dict[Any, _Loop] = {}

    def generate(self, request: Request, streamer: Any) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """(sequences, scores of each step, logits of each step); the latter two only if the request records them."""
        loop = self._loop_for(request)
        return loop.run(request, streamer)

    def _loop_for(self, request: Request) -> _Loop:
        batch = request.input_ids.shape[0]
        new = prompt_bucket(request.new_ids.shape[1])
        columns = request.input_ids.shape[1] + request.max_new
        capacity = rounded_up(max(request.filled + new, request.filled + request.new_ids.shape[1] + request.max_new))
        capacity = max(capacity, rounded_up(columns))
        model = self._model
        patterns = attention_patterns(model.config)
        key = (
            batch, capacity, request.mask is not None, request.on_device, request.sampling,
            model.device, model.dtype, model.training, model.config.get_text_config()._attn_implementation,
            torch.is_inference_mode_enabled(), repr(patterns),
        )  # fmt: skip
        loop = self._loops.pop(key, None)
        if loop is None:
            if len(self._loops) >= STATES_KEPT:
                self._loops.pop(next(iter(self._loops)))
            loop = _Loop(model, self._options, request, capacity, patterns, self._keeps)
        self._loops[key] = loop
        return loop


def prompt_bucket(length: int) -> int:
    """The length to which a prompt is padded: a few programs serve all lengths."""
    bucket = SMALLEST_PROMPT
    while bucket < length and bucket < 1024:
        bucket *= 2
    return bucket if bucket >= length else -(-length // 512) * 512


def rounded_up(length: int) -> int:
    """The capacity of buffers for so many tokens."""
    step = CAPACITY_STEP
    while step * 8 < length:
        step *= 2
    return -(-length // step) * step


class _Loop:
    """Buffers and steps for requests of one kind."""

    def __init__(
        self, model: Any, options: Options, request: Request, capacity: int, patterns: Any, keeps: bool
    ) -> None:
        self._model = model
        self._options = options
        self._patterns = patterns
        self._keeps = keeps
        device, batch = request.input_ids.device, request.input_ids.shape[0]
        with torch.inference_mode(False):
            layers = model.config.get_text_config().num_hidden_layers
            self.state = State(batch, layers, capacity, device, padded=request.mask is not None)
            self._chooser = Chooser(request.sampling, device)
        self._prompts: dict[int, tuple[Prompt, RepeatedProgram | None]] = {}
        self._step: RepeatedProgram | None = None

    def run(self, request: Request, streamer: Any) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        prompt, program = self._fill(request)
        if request.on_device:
            produced = self._run_on_device(request, streamer, prompt, program)
            scores: list[torch.Tensor] = []
            logits: list[torch.Tensor] = []
        else:
            produced, scores, logits = self._run_on_host(request, streamer, prompt)
        sequences = self.state.sequence[:, : request.input_ids.shape[1] + produced].clone()
        if request.cache is not None:
            filled = request.filled + request.new_ids.shape[1] + produced - 1
            give_back(self.state.cache, request.cache, filled)
        return sequences, scores, logits

    def _fill(self, request: Request) -> tuple[Prompt, RepeatedProgram | None]:
        """Puts the request into the buffers."""
        state, new = self.state, request.new_ids.shape[1]
        bucket = prompt_bucket(new)
        if bucket not in self._prompts:
            with torch.inference_mode(False):
                prompt = Prompt(request.input_ids.shape[0], bucket, request.input_ids.device)
            self._prompts[bucket] = prompt, None
        prompt, program = self._prompts[bucket]
        prompt.ids[:, :new] = request.new_ids
        prompt.positions[:, :new] = request.position_ids
        if bucket > new:
            prompt.ids[:, new:] = 0
            prompt.positions[:, new:] = 0
        torch.arange(request.filled, request.filled + bucket, out=prompt.slots)
        prompt.last.fill_(new - 1)
        columns = request.input_ids.shape[1]
        state.sequence[:, :columns] = request.input_ids
        state.column.fill_(columns)
        state.slot.fill_(request.filled + new)
        state.position.copy_(request.position_ids[:, -1:] + 1)
        state.step.zero_()
        state.unfinished.fill_(1)
        if state.visible is not None and request.mask is not None:
            state.visible.fill_(True)
            state.visible[:, : request.mask.shape[1]] = request.mask != 0
        if request.given_cache is not None:
            take_over(request.given_cache, state.cache, request.filled)
        return prompt, program

    # The device chooses ----------------------------------------------------------------------------------------------
    def _run_on_device(self, request: Request, streamer: Any, prompt: Prompt, program: RepeatedProgram | None) -> int:
        """Generates; returns the number of tokens."""
        model, state, patterns, chooser, keeps = self._model, self.state, self._patterns, self._chooser, self._keeps

        def run_prompt() -> None:
            prompt_step(model, state, prompt, patterns, chooser, keeps=keeps)

        bucket = prompt.ids.shape[1]
        if program is not None:
            program.start()()
        else:
            # The first prompt of a length runs in plain Python, which also makes the cache's buffers.
            run_prompt()
            self._prompts[bucket] = prompt, RepeatedProgram(run_prompt, self._options)
        watch = watch_for(request, state, streamer)
        produced, replay = 1, None
        if watch.is_over(produced):
            return watch.finish(produced)
        step = self._start_step(lambda: decode_step(model, state, patterns, chooser))
        while True:
            if replay is None:
                step()
                replay = self._replay()  # one of the first calls may have captured the program
            else:
                replay()
            produced += 1
            if watch.is_over(produced):
                return watch.finish(produced)

    def _start_step(self, function: Any) -> Any:
        if self._step is None:
            self._step = RepeatedProgram(function, self._options)
        return self._step.start()

    def _replay(self) -> Any:
        return self._step.replay() if self._step is not None else None

    # Python chooses --------------------------------------------------------------------------------------------------
    def _run_on_host(
        self, request: Request, streamer: Any, prompt: Prompt
    ) -> tuple[int, list[torch.Tensor], list[torch.Tensor]]:
        """Generates with processors in Python; returns the number of tokens, scores and logits."""
        model, state, patterns = self._model, self.state, self._patterns
        watch = ImmediateWatch(request, state, streamer)
        scores: list[torch.Tensor] = []
        logits: list[torch.Tensor] = []
        process: Any = request.processors
        columns, produced, step = request.input_ids.shape[1], 0, None
        found = prompt_logits(model, state, prompt, patterns, keeps=self._keeps).to(torch.float32)
        while True:
            processed = process(state.sequence[:, : columns + produced], found.clone())
            if request.keeps_logits:
                logits.append(found.clone())
                scores.append(processed)
            tokens = draw(processed) if request.sampling.do_sample else torch.argmax(processed, dim=-1)
            self._write(tokens, columns + produced, request.sampling)
            produced += 1
            if watch.is_over(produced, tuple(scores) if request.keeps_logits else None):
                return watch.finish(produced), scores, logits
            if step is None:
                step = self._start_step(lambda: forward_step(model, state, patterns))
            found = step()

    def _write(self, tokens: torch.Tensor, column: int, sampling: Sampling) -> None:
        state = self.state
        if self._chooser.eos is not None:
            tokens = torch.where(state.unfinished == 1, tokens, sampling.pad)
            state.unfinished.mul_(~(tokens[:, None] == self._chooser.eos).any(dim=-1))
        state.sequence[:, column] = tokens
        state.token.copy_(tokens[:, None])
