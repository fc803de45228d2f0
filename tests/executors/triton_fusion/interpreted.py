"""Runs programs with kernels in Triton's interpreter; the process that does it has TRITON_INTERPRET=1 from the start.

    python interpreted.py typical results.json
    python interpreted.py random 0 30 results.json
    python interpreted.py models results.json

Writes for each program: the errors of outputs and gradients against float64 beside those of eager PyTorch, the names
of its kernels, and their sources.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import torch
from fused_programs import Program, programs, random_program

import thunder
from thunder.acquire import acquire
from thunder.errors import ExecutorWarning
from thunder.executors import compile_computation, resolve_executors
from thunder.executors.triton_fusion import FusedKernel, TritonExecutor

warnings.simplefilter("error", ExecutorWarning)


def as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def results(function: Any, arguments: list[Any], tangents: list[torch.Tensor] | None) -> tuple[list[Any], list[Any]]:
    """Outputs and the gradients of the arguments."""
    outputs = [output for output in as_tuple(function(*arguments)) if isinstance(output, torch.Tensor)]
    wanted = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
    differentiable = [output for output in outputs if output.requires_grad]
    if not wanted or not differentiable:
        return outputs, []
    given = [tangent.to(output.dtype) for tangent, output in zip(tangents or [], outputs) if output.requires_grad]
    gradients = torch.autograd.grad(differentiable, wanted, given, allow_unused=True)
    return outputs, [gradient for gradient in gradients if gradient is not None]


def error(value: torch.Tensor, reference: torch.Tensor) -> float:
    assert value.shape == reference.shape, (value.shape, reference.shape)
    if not reference.dtype.is_floating_point:
        return float((value != reference).any())
    nan = reference.isnan()
    if not torch.equal(nan, value.isnan()):
        return float("inf")
    value, reference = value.double().masked_fill(nan, 0), reference.double().masked_fill(nan, 0)
    finite = reference.isfinite()
    if not torch.equal(value[~finite], reference[~finite]):
        return float("inf")
    value, reference = value[finite], reference[finite]
    return float(((value - reference).norm() / reference.norm().clamp_min(1e-3)).detach())


def run(program: Program, executor: TritonExecutor) -> dict[str, Any]:
    function, arguments = program
    wide = [
        a.detach().double().requires_grad_(a.requires_grad)
        if isinstance(a, torch.Tensor) and a.dtype.is_floating_point
        else a
        for a in arguments
    ]
    original = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double
    try:
        shapes = [output for output in as_tuple(function(*wide)) if isinstance(output, torch.Tensor)]
        tangents = [torch.randn_like(output.detach().double()) for output in shapes]
        expected, expected_gradients = results(function, wide, tangents)
    finally:
        torch.Tensor.float = original
    eager, eager_gradients = results(function, arguments, tangents)
    acquired = acquire(function, tuple(arguments), {}, sharp_edges="allow")
    compiled = compile_computation(
        acquired.computation,
        executors=resolve_executors([executor]),
        grad_enabled=True,
        worthwhile_seconds=0.0,
    )
    call = acquired.link(compiled.run, check=False)
    ours, gradients = results(lambda *values: call(values, {})[0], arguments, tangents)
    kernels = [
        region.implementation
        for trace in (compiled.forward_traces[-1], *compiled.backward_traces[-1:])
        for region in trace.regions()
        if isinstance(region.implementation, FusedKernel)
    ]
    return {
        "errors": [error(a, b) for a, b in zip([*ours, *gradients], [*expected, *expected_gradients])],
        "eager_errors": [error(a, b) for a, b in zip([*eager, *eager_gradients], [*expected, *expected_gradients])],
        "same_types": [
            (a.dtype, a.stride()) == (b.dtype, b.stride()) for a, b in zip([*ours], [*eager])
        ],
        "notes": compiled.notes,
        "kernels": [kernel.name for kernel in kernels],
        "sources": [asdict(kernel.kernel_source) for kernel in kernels],
    }


def run_model(name: str) -> dict[str, Any]:
    """Loss, logits and gradients of a small transformer in float32, beside eager PyTorch's."""
    transformers = importlib.import_module("transformers")  # an optional package
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 61}
    if name == "qwen2":
        configuration = transformers.Qwen2Config(
            **small, intermediate_size=48, num_key_value_heads=2, tie_word_embeddings=False, use_cache=False
        )
        model = transformers.Qwen2ForCausalLM(configuration)
    else:
        model = transformers.BertForMaskedLM(transformers.BertConfig(**small, intermediate_size=48)).eval()
    tokens = torch.randint(0, 61, (2, 7))
    expected = model(input_ids=tokens, labels=tokens)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(expected.loss, parameters, allow_unused=True)
    compiled = thunder.jit(model, executors=["triton", "eager"])
    found = compiled(input_ids=tokens, labels=tokens)
    ours = torch.autograd.grad(found.loss, list(compiled.parameters()), allow_unused=True)
    traces = [thunder.last_traces(compiled)[-1], *thunder.last_backward_traces(compiled)[-1:]]
    pairs = [(found.loss, expected.loss), (found.logits, expected.logits)]
    pairs += [(a, b) for a, b in zip(ours, gradients) if b is not None]
    return {
        "errors": [error(a.detach(), b.detach()) for a, b in pairs],
        "notes": thunder.compile_stats(compiled).notes,
        "kernels": [
            region.implementation.name
            for trace in traces
            for region in trace.regions()
            if isinstance(region.implementation, FusedKernel)
        ],
    }


def main() -> None:
    kind, *bounds, path = sys.argv[1:]
    if kind == "models":
        Path(path).write_text(json.dumps({name: run_model(name) for name in ("qwen2", "bert")}))
        return
    if kind == "typical":
        chosen = programs()
    else:
        chosen = {str(seed): random_program(seed) for seed in range(int(bounds[0]), int(bounds[1]))}
    found = {}
    executor = TritonExecutor("triton_of_the_test")
    for name, program in chosen.items():
        try:
            found[name] = run(program, executor)
        except Exception:  # the test shows it
            found[name] = {"failure": traceback.format_exc()}
    Path(path).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
