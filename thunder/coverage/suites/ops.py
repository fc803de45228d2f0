"""Suite `ops`: PyTorch's operator database, every sample input, compared with eager.

A row is an operator at one dtype. Its phases: `function` (the public function), `method`, `in-place`, `out`
(`out=` tensors of the right shape), `gradient` (of the function, and of the in-place form on a copy), `error`
(wrong inputs must raise what eager raises). A case is one sample.

float32 runs every sample. The other dtypes, and the variants that dispatch to the same kernel, run an even
selection, since they differ in dispatch and not in the shapes that samples vary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils import _pytree as pytree

from thunder.coverage.compare import compare, tensors
from thunder.coverage.device import seed
from thunder.coverage.recorder import NotRunnableInEager, Recorder, WrongResult
from thunder.coverage.subjects import Subject
from thunder.coverage.suite import Suite

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "complex64": torch.complex64,
    "int64": torch.int64,
    "bool": torch.bool,
}
SAMPLES_OF_OTHER_DTYPES = 12
SAMPLES_OF_VARIANTS = 6
UNINITIALISED = ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided", "resize_")
"""Operators whose values mean nothing: only shape, dtype and strides are compared."""

Function = Callable[..., Any]


class OpsSuite(Suite):
    """All operators of the database at all dtypes that they support."""

    name = "ops"
    row_timeout = 1200.0
    case_timeout = 60.0
    rows_of_a_process = 100

    def row_names(self) -> Sequence[str]:
        names = [
            f"{full_name(op)}:{name}"
            for op in op_db
            for name, dtype in DTYPES.items()
            if dtype in op.supported_dtypes(self.device)
        ]
        return list(dict.fromkeys(names))

    def warm(self) -> None:
        warnings.filterwarnings("ignore")

    def run_row(self, row: str, subject: Subject, recorder: Recorder) -> None:
        op_name, _, dtype_name = row.rpartition(":")
        for op in op_db:
            if full_name(op) == op_name:
                OpRow(op, DTYPES[dtype_name], subject, recorder, self.device).run()


def full_name(op: OpInfo) -> str:
    """Name of an operator with the variant of its test."""
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


class OpRow:
    """One operator at one dtype under one subject."""

    def __init__(self, op: OpInfo, dtype: torch.dtype, subject: Subject, recorder: Recorder, device: str) -> None:
        self.op, self.dtype, self.subject, self.recorder, self.device = op, dtype, subject, recorder, device
        self.values_matter = op.name.rpartition(".")[2] not in UNINITIALISED
        self.is_main = dtype is torch.float32 or torch.float32 not in op.supported_dtypes(device)

    def run(self) -> None:
        """All phases that apply."""
        samples = self.samples(requires_grad=False)
        few = evenly(samples, SAMPLES_OF_VARIANTS)
        self.cases("function", samples, lambda sample: self.check(self.op.op, sample))
        if self.op.method_variant is not None:
            self.cases("method", few, lambda sample: self.check(self.op.method_variant, sample))
        if self.op.inplace_variant is not None:
            unbroadcast = [sample for sample in samples if not sample.broadcasts_input]
            self.cases("in-place", evenly(unbroadcast, SAMPLES_OF_VARIANTS), self.check_in_place)
        if self.op.supports_out:
            self.cases("out", few, self.check_out)
        if self.op.supports_autograd and (self.dtype.is_floating_point or self.dtype.is_complex):
            differentiable = self.samples(requires_grad=True)
            self.cases("gradient", differentiable, lambda sample: self.check_gradient(self.op.op, sample))
            if self.op.inplace_variant is not None:
                unbroadcast = [sample for sample in differentiable if not sample.broadcasts_input]
                self.cases("in-place gradient", evenly(unbroadcast, SAMPLES_OF_VARIANTS), self.check_in_place_gradient)
        if self.op.error_inputs_func is not None and self.is_main:
            errors = list(self.op.error_inputs(self.device))
            self.cases("error", [error.sample_input for error in errors], self.check_error)

    def samples(self, requires_grad: bool) -> list[SampleInput]:
        """The database's samples; the same ones in every process."""
        torch.manual_seed(0)
        samples = list(self.op.sample_inputs(self.device, self.dtype, requires_grad=requires_grad))
        return samples if self.is_main else evenly(samples, SAMPLES_OF_OTHER_DTYPES)

    def cases(self, phase: str, samples: Iterable[SampleInput], check: Callable[[SampleInput], None]) -> None:
        """One case for each sample."""
        if not self.recorder.wants(phase):
            return
        for index, sample in enumerate(samples):
            if self.recorder.skips_next():
                continue
            with self.recorder.case(phase, f"{index}: {describe(sample)}"):
                check(sample)
            self.subject.reset()

    def compiled(self, function: Function) -> Function:
        """The compiled form of a fresh function, so that nothing is cached from one sample to the next."""
        return self.subject.compile(lambda *args, **kwargs: function(*args, **kwargs))

    def call(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the compiled form of a function; a call that ran in plain Python has failed."""
        compiled = self.compiled(function)
        result = seeded(compiled, args, kwargs)
        self.subject.require_compiled(compiled)
        return result

    def check(self, function: Function, sample: SampleInput) -> None:
        """Call a function."""
        expected = eager(function, *arguments(sample))
        args, kwargs = arguments(sample)
        actual = self.call(function, args, kwargs)
        self.compare(actual, expected)

    def check_in_place(self, sample: SampleInput) -> None:
        """Call the in-place form: its result is its input, which holds the new values."""
        reference_args, reference_kwargs = arguments(sample)
        expected = eager(self.op.inplace_variant, reference_args, reference_kwargs)
        args, kwargs = arguments(sample)
        actual = self.call(self.op.inplace_variant, args, kwargs)
        self.compare(actual, expected)
        self.compare(args[0], reference_args[0], "input")
        if expected is reference_args[0] and actual is not args[0]:
            raise WrongResult("the result is not the input tensor itself, as it is in eager")

    def check_out(self, sample: SampleInput) -> None:
        """Write into `out=` tensors."""
        like = eager(self.op.op, *arguments(sample))
        if not isinstance(like, torch.Tensor) and not (isinstance(like, tuple) and tensors(like) == list(like)):
            raise NotRunnableInEager("the result is no tensor, so there is nothing to write into")
        make = torch.zeros_like  # some kernels leave part of their result unwritten
        reference_out, out = pytree.tree_map(make, like), pytree.tree_map(make, like)
        if isinstance(like, tuple):
            reference_out, out = tuple(reference_out), tuple(out)
        args, kwargs = arguments(sample)
        expected = eager(self.op.op, args, {**kwargs, "out": reference_out})
        args, kwargs = arguments(sample)
        function = self.op.op
        actual = self.call(lambda out, *args, **kwargs: function(*args, **kwargs, out=out), (out, *args), kwargs)
        self.compare(actual, expected)
        self.compare(out, reference_out, "out")
        if expected is reference_out and actual is not out:
            raise WrongResult("the result is not the out= tensor itself, as it is in eager")

    def check_gradient(self, function: Function, sample: SampleInput) -> None:
        """Gradients of all inputs that require them."""
        try:
            expected = self.gradients(seeded, function, sample)
        except NotRunnableInEager:
            raise
        except Exception as error:  # whatever eager raises here makes the case one that says nothing
            raise NotRunnableInEager(f"{type(error).__name__}: {error}") from error
        actual = self.gradients(self.call, function, sample)
        self.compare(actual, expected, "gradient", looser=10.0)

    def check_in_place_gradient(self, sample: SampleInput) -> None:
        """Gradients through the in-place form applied to a copy of the input."""
        in_place = self.op.inplace_variant
        self.check_gradient(lambda input, *args, **kwargs: in_place(input.clone(), *args, **kwargs), sample)

    def gradients(self, call: Function, function: Function, sample: SampleInput) -> list[torch.Tensor | None]:
        """Run forward, by way of `call(function, args, kwargs)`, and backward with uneven cotangents."""
        args, kwargs = arguments(sample)
        inputs = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if requires_gradient(leaf)]
        result = sample.output_process_fn_grad(call(function, args, kwargs))
        outputs = [output for output in tensors(result) if output.requires_grad]
        if not outputs or not inputs:
            raise NotRunnableInEager("no output has a gradient")
        cotangents = [uneven(output) for output in outputs]
        return list(torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True))

    def check_error(self, sample: SampleInput) -> None:
        """Wrong inputs raise an exception of eager's type."""
        args, kwargs = arguments(sample)
        try:
            seeded(self.op.op, args, kwargs)
        except Exception as error:  # the type of whatever eager raises is what is asked for
            expected = type(error)
        else:
            raise NotRunnableInEager("eager accepts these inputs")
        args, kwargs = arguments(sample)
        try:
            seeded(self.compiled(self.op.op), args, kwargs)
        except expected:
            return
        raise WrongResult(f"no error, eager raises {expected.__name__}")

    def compare(self, actual: Any, expected: Any, what: str = "result", looser: float = 1.0) -> None:
        """Compare values and strides, or only the latter where values mean nothing."""
        if not self.values_matter:
            to_zero = torch.zeros_like
            actual, expected = pytree.tree_map(to_zero, actual), pytree.tree_map(to_zero, expected)
        compare(actual, expected, what, looser)


def arguments(sample: SampleInput) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A sample's arguments as fresh tensors with the same strides and `requires_grad`."""

    def fresh(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return leaf.detach().clone().requires_grad_(leaf.requires_grad)

    args, kwargs = pytree.tree_map(fresh, ((sample.input, *sample.args), dict(sample.kwargs)))
    return args, kwargs


def seeded(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call from a fixed random state."""
    seed(1)
    return function(*args, **kwargs)


def eager(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call plain PyTorch; a case that it cannot run says nothing."""
    try:
        return seeded(function, args, kwargs)
    except Exception as error:  # whatever eager raises here makes the case one that says nothing
        raise NotRunnableInEager(f"{type(error).__name__}: {error}") from error


def requires_gradient(leaf: Any) -> bool:
    """True for tensors that want a gradient."""
    return isinstance(leaf, torch.Tensor) and leaf.requires_grad


def uneven(output: torch.Tensor) -> torch.Tensor:
    """A cotangent whose entries differ, so that no gradient cancels."""
    dense = torch.linspace(0.5, 1.5, max(1, output.numel()), dtype=torch.float64)[: output.numel()]
    return dense.to(output).reshape(output.shape)


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """An even selection in the original order."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def describe(sample: SampleInput) -> str:
    """The shapes and values of a sample, short enough for a table."""
    parts = [brief(value) for value in (sample.input, *sample.args)]
    parts += [f"{name}={brief(value)}" for name, value in sample.kwargs.items()]
    return f"({', '.join(parts)})"[:160]


def brief(value: Any) -> str:
    """A tensor by its shape, other values as they print."""
    if isinstance(value, torch.Tensor):
        return f"[{','.join(map(str, value.shape))}]"
    if isinstance(value, list | tuple):
        return f"({', '.join(brief(item) for item in value)})"
    return repr(value)[:40]


SUITE = OpsSuite()
