"""The phases that every model row goes through: build, eager, forward, backward, generate.

Input: a function that builds a model with its example inputs. Output: cases on a recorder, each comparing the
subject with eager on a copy of the same model, from the same random state.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from thunder.coverage.compare import compare, leaves, tensors
from thunder.coverage.device import moved
from thunder.coverage.outcomes import Status
from thunder.coverage.recorder import NotRunnableInEager, Recorder
from thunder.coverage.subjects import Subject

GRADIENT_LOOSENESS = 10.0
GENERATED_TOKENS = 8


@dataclasses.dataclass
class ModelCase:
    """A model, its inputs, and how to generate with it."""

    model: torch.nn.Module
    inputs: dict[str, Any]
    generation_inputs: dict[str, Any] | None = None
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def move(self, device: str) -> None:
        """Have the model and its inputs on a device; they were built, and their inputs tried, on the CPU."""
        if device != "cpu":
            self.model = self.model.to(device)
            self.inputs = moved(self.inputs, device)
            self.generation_inputs = moved(self.generation_inputs, device)


def run_model_phases(
    build: Callable[[], ModelCase],
    subject: Subject,
    recorder: Recorder,
    training: bool = False,
    device: str = "cpu",
) -> None:
    """Build a model and take it through all phases that apply to it."""
    case: ModelCase | None = None
    with recorder.case("build", on_error=Status.NOT_RUNNABLE):
        case = build()
        case.model.train(training)
        case.move(device)
    if case is None:
        return
    recorder.note(parameters=sum(parameter.numel() for parameter in case.model.parameters()), **case.notes)
    expected: Any = None
    with recorder.case("eager", on_error=Status.NOT_RUNNABLE) as eager:
        expected = call(copy.deepcopy(case.model), case.inputs)
    if not eager.passed:
        return
    if recorder.wants("forward"):
        with recorder.case("forward"):
            run_forward(case, expected, subject, recorder, device)
        subject.reset()
    if recorder.wants("backward"):
        with recorder.case("backward"):
            run_backward(case, subject)
    if case.generation_inputs is None or not recorder.wants("generate"):
        return
    for cache in ("default", "static"):
        subject.reset()
        with recorder.case("generate", f"{cache} cache"):
            run_generation(case, subject, cache)
    for cache in ("default", "static"):
        served = subject.compile_with_generate(copy.deepcopy(case.model))
        if served is None:
            return
        with recorder.case("generate", f"own loop, {cache} cache"):
            expected = eager_tokens(case, cache)
            compare(generate(served, case.generation_inputs, cache), expected, "tokens")
            subject.require_compiled(served)


def call(model: Callable[..., Any], inputs: Mapping[str, Any], gradients: bool = False) -> Any:
    """Call a model with fresh copies of its inputs from a fixed random state."""
    torch.manual_seed(1)
    with torch.set_grad_enabled(gradients):
        return call_with(model, fresh(inputs, gradients))


def call_with(function: Callable[..., Any], inputs: Mapping[str, Any]) -> Any:
    """Pass inputs by name; one whose name is a number goes by position."""
    positional = [value for name, value in inputs.items() if name.isdigit()]
    return function(*positional, **{name: value for name, value in inputs.items() if not name.isdigit()})


def fresh(inputs: Mapping[str, Any], gradients: bool) -> dict[str, Any]:
    """Copies of inputs; floating-point tensors require gradients when asked."""

    def copy_value(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            twin = value.detach().clone()
            return twin.requires_grad_() if gradients and twin.is_floating_point() else twin
        if isinstance(value, list | tuple):
            return type(value)(copy_value(item) for item in value)
        if isinstance(value, dict):
            return {key: copy_value(item) for key, item in value.items()}
        return copy.deepcopy(value)

    return {name: copy_value(value) for name, value in inputs.items()}


def run_forward(case: ModelCase, expected: Any, subject: Subject, recorder: Recorder, device: str) -> None:
    """Forward without gradients, twice: the second call takes the compiled path.

    On a CUDA device three times: what is captured in a graph is captured at the second call and replayed at the third.
    """
    model = copy.deepcopy(case.model)
    compiled = subject.compile(model)
    started = time.perf_counter()
    first = call(compiled, case.inputs)
    recorder.note(first_call_seconds=round(time.perf_counter() - started, 3))
    compare(first, expected)
    twin = copy.deepcopy(case.model)
    call(twin, case.inputs)
    for which in ("second",) if device == "cpu" else ("second", "third"):
        compare(call(compiled, case.inputs), call(twin, case.inputs), f"{which} result")
    compare(dict(model.named_buffers()), dict(twin.named_buffers()), "buffers")
    subject.require_compiled(compiled)


def run_backward(case: ModelCase, subject: Subject) -> None:
    """Outputs and the gradients of parameters and inputs, of a weighted sum of all floating-point outputs."""
    try:
        expected = forward_and_gradients(copy.deepcopy(case.model), None, case.inputs)
    except Exception as error:  # whatever eager raises here makes the case one that says nothing
        raise NotRunnableInEager(f"{type(error).__name__}: {error}") from error
    model = copy.deepcopy(case.model)
    compiled = subject.compile(model)
    actual = forward_and_gradients(model, compiled, case.inputs)
    compare(actual[0], expected[0], "result")
    compare(actual[1], expected[1], "gradient", looser=GRADIENT_LOOSENESS)
    subject.require_compiled(compiled)


def forward_and_gradients(
    model: torch.nn.Module, compiled: Callable[..., Any] | None, inputs: Mapping[str, Any]
) -> tuple[Any, dict[str, torch.Tensor | None]]:
    """Run forward and backward; the result and the gradients by name."""
    copies = fresh(inputs, gradients=True)
    torch.manual_seed(1)
    result = call_with(model if compiled is None else compiled, copies)
    loss = weighted_sum(result)
    if loss is None:
        raise NotRunnableInEager("no output has a gradient")
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for path, leaf in leaves(copies, "inputs"):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            gradients[path] = leaf.grad
    return result, gradients


def weighted_sum(result: Any) -> torch.Tensor | None:
    """A scalar that every floating-point output enters with uneven weights, so that no gradient cancels."""
    terms = []
    for output in tensors(result):
        if output.requires_grad and (output.is_floating_point() or output.is_complex()):
            flat = torch.view_as_real(output).flatten() if output.is_complex() else output.flatten()
            weights = torch.linspace(-1.0, 1.0, flat.numel(), dtype=torch.float64).to(flat)
            terms.append((torch.nan_to_num(flat, posinf=0.0, neginf=0.0) * weights).sum())
    return torch.stack([term.double() for term in terms]).sum() if terms else None


def run_generation(case: ModelCase, subject: Subject, cache: str) -> None:
    """Greedy generation with the model's forward replaced by the compiled one."""
    assert case.generation_inputs is not None  # the caller checked it
    expected = eager_tokens(case, cache)
    model = copy.deepcopy(case.model)
    compiled = subject.compile(model.forward)
    model.forward = with_signature_of(compiled, model.forward)
    compare(generate(model, case.generation_inputs, cache), expected, "tokens")
    subject.require_compiled(compiled)


def eager_tokens(case: ModelCase, cache: str) -> torch.Tensor:
    """What plain PyTorch generates."""
    assert case.generation_inputs is not None  # the caller checked it
    try:
        return generate(copy.deepcopy(case.model), case.generation_inputs, cache)
    except Exception as error:  # whatever eager raises here makes the case one that says nothing
        raise NotRunnableInEager(f"{type(error).__name__}: {error}") from error


def generate(model: Any, inputs: Mapping[str, Any], cache: str) -> torch.Tensor:
    """Tokens of a short greedy generation."""
    options: dict[str, Any] = {"cache_implementation": "static"} if cache == "static" else {}
    torch.manual_seed(1)
    with torch.no_grad():
        return model.generate(
            **fresh(inputs, gradients=False),
            max_new_tokens=GENERATED_TOKENS,
            min_new_tokens=GENERATED_TOKENS,
            do_sample=False,
            num_beams=1,
            **options,
        )


def with_signature_of(compiled: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function around a compiled one: generation reads the signature of a model's forward."""

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return compiled(*args, **kwargs)

    forward.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    return forward
