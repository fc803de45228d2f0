"""Every private torch API that thunder uses, one function each, with the versions it was tested on.

Importing this module touches nothing private: an attribute that a version of torch lacks is missed
only by the function that needs it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import shlex
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.checkpoint


def set_grad_enabled_statement() -> Callable[..., Any]:
    """`torch._C._set_grad_enabled(flag)`: how a `with torch.no_grad()` shows in a trace.  Tested: 2.13."""
    return torch._C._set_grad_enabled


def context_statements() -> dict[Callable[..., Any], Callable[[Any], Any]]:
    """Functions that enter a context and return it, with the function that leaves it.  Tested: 2.13.

    They are how `with torch.autocast(...)` and `with torch.inference_mode()` show in a trace.
    """
    return {
        torch.amp.autocast_mode._enter_autocast: torch.amp.autocast_mode._exit_autocast,
        torch.autograd.grad_mode._enter_inference_mode: torch.autograd.grad_mode._exit_inference_mode,
    }


def level_statements() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions that enter a level of `torch.func` or of forward-mode gradients and return its number, with the
    function that leaves it.  Tested: 2.11, 2.13."""
    return {
        _level("_vmap_increment_nesting"): _level("_vmap_decrement_nesting"),
        _level("_jvp_increment_nesting"): _level("_jvp_decrement_nesting"),
        _level("_grad_increment_nesting"): _level("_grad_decrement_nesting"),
        _level("_enter_dual_level"): _level("_exit_dual_level"),
    }


def _level(name: str) -> Callable[..., Any]:
    """A function of `torch.func`'s levels, from where the transforms of this version take it."""
    places = (torch._functorch.predispatch, torch._C._functorch, torch._C, torch._VF)
    return next(getattr(place, name) for place in places if hasattr(place, name))


def enter_dual_level() -> Callable[..., Any]:
    """The one of `level_statements` whose counterpart takes the level as a keyword.  Tested: 2.11, 2.13."""
    return _level("_enter_dual_level")


def is_transformed() -> bool:
    """Whether the caller runs within a transform of `torch.func`, or forward-mode gradients are computed.

    Tested: 2.11, 2.13.
    """
    return torch._C._functorch.maybe_current_level() is not None or torch.autograd.forward_ad._current_level >= 0


def level_operations() -> list[Callable[..., Any]]:
    """Functions that move tensors between levels of `torch.func`, and switches that hold within one.

    Tested: 2.11, 2.13.
    """
    return [
        _level(name)
        for name in (
            "_add_batch_dim",
            "_remove_batch_dim",
            "_make_dual",
            "_unpack_dual",
            "_unwrap_for_grad",
            "_wrap_for_grad",
            "set_inplace_requires_grad_allowed",
            "_set_fwd_grad_enabled",
        )
    ]


@functools.cache
def level_functions() -> frozenset[Any]:
    """All calls that belong to the machinery of `torch.func`."""
    entered = level_statements()
    return frozenset([*entered, *entered.values(), *level_operations()])


def tensor_guards(tensors: list[torch.Tensor]) -> Callable[..., bool] | None:
    """A C++ function that checks class, dtype, device, requires_grad, sizes and strides of as many tensors at once,
    or None where torch has none.  Tested: 2.13."""
    guards = getattr(getattr(torch._C, "_dynamo", None), "guards", None)
    kind = getattr(guards, "TensorGuards", None)
    if kind is None or not tensors:
        return None
    sizes = [list(tensor.shape) for tensor in tensors]  # None in place of a number would leave it unchecked
    strides = [list(tensor.stride()) for tensor in tensors]
    check: Callable[..., bool] = kind(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check
    return check


def autocast_device_types() -> tuple[str, ...]:
    """Device types whose autocast state a program may depend on, on this machine.  Tested: 2.13."""
    accelerator = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else None
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)


def is_any_autocast_enabled() -> bool:
    """Whether autocast is on for any device type.  Tested: 2.13."""
    return torch._C._is_any_autocast_enabled()


def function_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`function.apply` without its look at every argument outside of `torch.func`, where none needs one: of several
    hundred tensors that takes as long as the rest.  Tested: 2.11, 2.13."""
    bare: Any = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    in_transform = torch._C._are_functorch_transforms_active

    def apply(*arguments: Any) -> Any:
        return function.apply(*arguments) if in_transform() else bare(*arguments)

    return apply


def below_autograd() -> Any:
    """A context in which operators skip autograd and in-place bookkeeping.  Tested: 2.13."""
    return torch._C._AutoDispatchBelowADInplaceOrView()


def functional_tensor_mode() -> Any:
    """PyTorch's functionalisation as a dispatch mode, the one that AOTAutograd uses.  Tested: 2.13."""
    from torch._subclasses.functional_tensor import FunctionalTensorMode

    return FunctionalTensorMode()


def python_dispatcher() -> Any:
    """A context in which operators' Python decompositions take precedence, as in AOTAutograd.  Tested: 2.13."""
    from torch._dispatch.python import enable_python_dispatcher

    return enable_python_dispatcher()


def fake_tensor_mode() -> Any:
    """A new mode for tensors without data.  Tested: 2.13."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()


@contextlib.contextmanager
def effects_by_order() -> Iterator[None]:
    """Within the block, functionalisation leaves operators with effects (assertions) as they are.  Tested: 2.13.

    Otherwise it threads tokens through them, which a trace, whose operations are executed in order, does not need.
    """
    from torch._higher_order_ops import effects

    original = effects.has_effects

    def has_effects(op: Any) -> bool:
        return not isinstance(op, torch._ops.OpOverload) and original(op)

    effects.has_effects = has_effects
    try:
        yield
    finally:
        effects.has_effects = original


def to_functional(tensor: torch.Tensor) -> torch.Tensor:
    """Wraps a tensor for `functional_tensor_mode`, which must be active.  Tested: 2.13."""
    from torch._subclasses.functional_tensor import FunctionalTensor

    return FunctionalTensor.to_functional(tensor)


def is_functional(value: Any) -> bool:
    """Whether the value is a tensor wrapped by `to_functional`.  Tested: 2.13."""
    from torch._subclasses.functional_tensor import FunctionalTensor

    return isinstance(value, FunctionalTensor)


def from_functional(tensor: Any) -> torch.Tensor:
    """The tensor beneath the wrapper, with every in-place change up to now applied.  Tested: 2.13."""
    torch._sync(tensor)
    return torch._from_functional_tensor(tensor.elem)


def has_data_mutation(tensor: Any) -> bool:
    """Whether the contents of the wrapped tensor were changed in place.  Tested: 2.13."""
    return bool(torch._functionalize_has_data_mutation(tensor.elem))  # type: ignore[attr-defined]


def has_metadata_mutation(tensor: Any) -> bool:
    """Whether the wrapped tensor itself was given another shape, layout or storage.  Tested: 2.13."""
    return torch._functionalize_has_metadata_mutation(tensor.elem) or torch._functionalize_was_storage_changed(
        tensor.elem
    )


def is_changed_under_no_grad(tensor: Any) -> bool:
    """Whether every in-place change of the wrapped tensor was made without autograd.  Tested: 2.13."""
    return torch._functionalize_are_all_mutations_under_no_grad_or_inference_mode(tensor.elem)


def storage_key(tensor: torch.Tensor) -> int:
    """A number that two tensors share when they share their storage, while they live.  Tested: 2.13."""
    return tensor.untyped_storage()._cdata


def is_storage_shared(tensor: torch.Tensor) -> bool:
    """Whether other tensors than this one use its memory.  Tested: 2.11, 2.13."""
    count = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)
    return int(count) > _unshared_count()


@functools.cache
def _unshared_count() -> int:
    """What PyTorch counts for the memory of a tensor that nobody else uses."""
    tensor = torch.empty(1)
    return int(torch._C._storage_Use_Count(tensor.untyped_storage()._cdata))


def recorder_mode_key() -> Any:
    """The place in the stack of dispatch modes between functionalisation and fake tensors.  Tested: 2.13."""
    return torch._C._TorchDispatchModeKey.PROXY


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether the tensor is a fake tensor.  Tested: 2.13."""
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)


def checkpoint_function() -> Callable[..., Any]:
    """`torch.utils.checkpoint.checkpoint`, which a trace calls with a region.  Tested: 2.13."""
    return torch.utils.checkpoint.checkpoint


def has_kernel(overload: Any) -> bool:
    """Whether the overload is an operator of the dispatcher, with kernels (`prim.device` is not).  Tested: 2.13."""
    return torch._C._dispatch_has_kernel(overload.name())


# CUDA ---------------------------------------------------------------------------------------------------------------
def is_forked_from_cuda() -> bool:
    """Whether this process was forked from one that had CUDA in use, so that it cannot use it.  Tested: 2.11, 2.13."""
    return torch.cuda._is_in_bad_fork()


def cuda_architecture(device: torch.device) -> int:
    """90 for a device of compute capability 9.0."""
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor


def scaled_mm(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """The product of float8 matrices, `b` with its columns side by side, times scales.  Tested: 2.11."""
    return torch._scaled_mm(a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=dtype, use_fast_accum=True)


def custom_op_function(overload: Any) -> Callable[..., Any]:
    """The Python function that a custom operator was made of.  Tested: 2.11, 2.13."""
    from torch._library.custom_ops import OPDEFS

    function: Callable[..., Any] = OPDEFS[overload.name().partition(".")[0]]._init_fn
    return function


def has_cuda_kernel_launcher() -> bool:
    """Whether torch can load and launch machine code of kernels.  Tested: 2.11 to 2.13."""
    return hasattr(torch._C, "_StaticCudaLauncher")


def load_cuda_kernel(path: str, name: str, shared_bytes: int, device: torch.device) -> tuple[Callable[..., None], int]:
    """(C function that launches kernels, the loaded kernel).  Tested: 2.11 to 2.13.

    The C function takes the kernel, three grid sizes, warps, bytes of shared memory, one letter for each argument's
    type ("O" for pointers), the arguments (pointers as ints), the stream.
    """
    launcher = torch._C._StaticCudaLauncher
    index = torch.cuda.current_device() if device.index is None else device.index
    with torch.cuda.device(index):
        function, _registers, _spills = launcher._load_kernel(path, name, shared_bytes, index)
    return launcher._launch_kernel, function


def current_cuda_stream_function() -> Callable[[int], int]:
    """A C function: device number -> handle of the current stream.  Tested: 2.11 to 2.13."""
    return torch._C._cuda_getCurrentRawStream


def is_triton_interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU.  Tested: 3.6."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on")


def core_decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's table of operators in terms of the core ones.  Tested: 2.11 to 2.13."""
    from torch._decomp import core_aten_decompositions

    return dict(core_aten_decompositions())


def all_decompositions() -> dict[Any, Callable[..., Any]]:
    """Every operator that PyTorch can express by others.  Tested: 2.11 to 2.13."""
    import torch._refs  # noqa: F401  (fills the table)
    from torch._decomp import decomposition_table

    return decomposition_table


# Inductor -----------------------------------------------------------------------------------------------------------
def import_inductor() -> None:
    """Imports Inductor's compiler, which takes a second.  Tested: 2.13."""
    import torch._inductor.compile_fx  # noqa: F401


def inductor_decompositions() -> dict[Any, Callable[..., Any]]:
    """Operators that Inductor wants to see in terms of others.  Tested: 2.13."""
    from torch._inductor.decomposition import select_decomp_table

    return select_decomp_table()


def compile_with_inductor(graph_module: Any, example_inputs: list[Any]) -> Callable[..., Any]:
    """Compiles an FX graph of ATen operators; the result takes its inputs as one list.  Tested: 2.13.

    Outputs keep the strides that the graph's fake tensors have.
    """
    from torch._inductor.compile_fx import compile_fx_inner

    output = graph_module.graph.output_node()
    output.meta["user_visible_output_idxs"] = list(range(len(output.args[0])))
    compiled = compile_fx_inner(graph_module, example_inputs)
    return getattr(compiled, "current_callable", None) or compiled


def inductor_options(**options: Any) -> Any:
    """A context in which Inductor's configuration has these values.  Tested: 2.13."""
    from torch._inductor import config

    return config.patch({name.replace("__", "."): value for name, value in options.items() if _has(config, name)})


def _has(config: Any, name: str) -> bool:
    holder = config
    for part in name.split("__"):
        if not hasattr(holder, part):
            return False
        holder = getattr(holder, part)
    return True


@contextlib.contextmanager
def inductor_cpp_kernels(make_kernel: Callable[[list[str], str], Any]) -> Iterator[None]:
    """Within the block, Inductor hands each C++ kernel to `make_kernel(argument types, source)`.  Tested: 2.13.

    What that returns becomes a global of the generated module and is called with the kernel's arguments.
    """
    from torch._inductor.async_compile import AsyncCompile as Compiler

    AsyncCompile: Any = Compiler
    original, thread = AsyncCompile.cpp_pybinding, threading.get_ident()

    def cpp_pybinding(self: Any, argument_types: list[str], source: str) -> Any:
        if threading.get_ident() != thread:  # another thread's `torch.compile`
            return original(self, argument_types, source)
        return make_kernel(argument_types, source)

    AsyncCompile.cpp_pybinding = cpp_pybinding
    try:
        yield
    finally:
        AsyncCompile.cpp_pybinding = original


def compile_cpp_kernel(argument_types: list[str], source: str) -> Callable[..., Any]:
    """Inductor's own way to compile one C++ kernel.  Tested: 2.13."""
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    return CppPythonBindingsCodeCache.load_pybinding(argument_types, source)


def cpp_build(source_path: str, *, precompiled_header: str | None) -> tuple[list[str], str]:
    """The command that compiles a C++ file as Inductor does its kernels, and the library it writes.  Tested: 2.13."""
    from torch._inductor.cpp_builder import CppBuilder, get_name_and_dir_from_output_file_path

    name, directory = get_name_and_dir_from_output_file_path(source_path)
    options = _cpp_options(cpp_vector_extension())
    options.precompiled_header = precompiled_header
    builder = CppBuilder(name=name, sources=source_path, BuildOption=options, output_dir=directory)
    return shlex.split(builder.get_command_line()), builder.get_target_file_path()


def cpp_vector_extension() -> Any:
    """The vector instructions that kernels are compiled for, as Inductor is configured now.  Tested: 2.13."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    return pick_vec_isa()


def _cpp_flags(vector_extension: Any) -> dict[str, Any]:
    return {
        "include_pytorch": False,
        "shared": True,
        "device_type": "cpu",
        "extra_flags": (),
        "use_relative_path": False,
        "vec_isa": vector_extension,
    }


def _cpp_options(vector_extension: Any) -> Any:
    from torch._inductor.cpp_builder import CppTorchDeviceOptions

    return CppTorchDeviceOptions(compile_only=False, min_optimize=False, **_cpp_flags(vector_extension))


def cpp_precompiled_header(vector_extension: Any) -> str:
    """Path of Inductor's header of vector types, precompiled.  Tested: 2.13.

    It is made once for each compiler and set of flags, which takes several seconds, and kept where `torch.compile`
    finds it too.
    """
    from torch._inductor.codecache import _get_cpp_prefix_header, _precompile_header
    from torch._inductor.cpp_builder import CppBuilder

    options = _cpp_options(vector_extension)
    command = CppBuilder(name="o", sources="i", BuildOption=options).get_command_line()
    flags = _cpp_flags(vector_extension)
    return _precompile_header(_get_cpp_prefix_header("cpu"), command, min_optimize=False, **flags)


def cpp_compiler() -> str | None:
    """The C++ compiler that Inductor would use, or None when there is none.  Tested: 2.13."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return get_cpp_compiler()
    except InvalidCxxCompiler:
        return None


def inductor_cache_directory() -> str:
    """The folder in which Inductor keeps compiled code.  Tested: 2.13."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return cache_dir()


def tensor_data_pointer_function() -> int:
    """Address of the C function `void* data_ptr(PyObject* tensor)`.  Tested: 2.13."""
    return int(torch._C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr)  # type: ignore[attr-defined]


@contextlib.contextmanager
def inductor_fast_strides() -> Iterator[None]:
    """Within the block, Inductor finds the strides of affine indices without `sympy.simplify`.  Tested: 2.13.

    The C++ code generator asks for the stride of each index in each loop; most of its time went into simplifying
    sums of products, whose strides can be read off.
    """
    import sympy
    from torch._inductor.codegen import cpp
    from torch.utils._sympy.functions import FloorDiv, ModularIndexing

    original = cpp.stride_at_vec_range

    def constant_in_vector(expression: Any, var: Any, vec_length: int) -> Any:
        """A quotient or remainder of `var`, as it is while `var` runs over the lanes of one vector."""
        if expression.args[0] != var or not all(argument.is_Integer for argument in expression.args[1:]):
            return expression
        divisor = int(expression.args[1])
        if divisor % vec_length == 0:
            return sympy.Dummy()
        if isinstance(expression, ModularIndexing) and divisor == 1 and int(expression.args[2]) % vec_length == 0:
            return var + sympy.Dummy()
        return expression

    @functools.lru_cache(maxsize=4096)
    def stride_at_vec_range(index: Any, var: Any, vec_length: int | None = None) -> Any:
        if not index.has(var):
            return sympy.S.Zero
        simple = index
        if vec_length and index.has(FloorDiv, ModularIndexing):
            simple = index.replace(
                lambda e: isinstance(e, (FloorDiv, ModularIndexing)), lambda e: constant_in_vector(e, var, vec_length)
            )
        expanded = simple.expand()
        stride = expanded.coeff(var)
        rest = (expanded - stride * var).expand()
        if stride.has(var) or rest.has(var):
            return original(index, var, vec_length)
        return stride

    cpp.stride_at_vec_range = stride_at_vec_range
    try:
        yield
    finally:
        cpp.stride_at_vec_range = original


# Autograd -----------------------------------------------------------------------------------------------------------
def no_autocast() -> Any:
    """A context in which autocast does nothing, on any device.  Tested: 2.13."""
    return torch._C._DisableAutocast()


def has_saved_tensor_hooks() -> bool:
    """Whether the user wants to handle what autograd saves (`torch.autograd.graph.saved_tensors_hooks`).

    Tested: 2.13.
    """
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def is_graph_kept() -> bool:
    """Whether the running backward pass was called with `retain_graph=True`.  Tested: 2.13."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def delayed_error(message: bytes, tensors: list[torch.Tensor]) -> Any:
    """The tensors, with a history that raises `message` when it is differentiated.  Tested: 2.13."""
    marked = torch._C._functions.DelayedError(message, len(tensors))(*tensors)
    return marked if isinstance(marked, tuple) else (marked,)


def associative_scan() -> Callable[..., Any] | None:
    """`associative_scan`, which is not public yet; None where nothing has imported it (that takes seconds).

    Tested: 2.11 to 2.13.
    """
    module = sys.modules.get("torch._higher_order_ops.associative_scan")
    return getattr(module, "associative_scan", None)


def higher_order_operator(name: str) -> Any:
    """An operator that takes functions, or None where this version has none of that name.  Tested: 2.11, 2.13."""
    return getattr(torch.ops.higher_order, name, None)


def loop_functions() -> dict[str, Callable[..., Any]]:
    """The loops over functions that only Dynamo can capture, by name, as far as they exist.  Tested: 2.11, 2.13."""
    home = sys.modules.get("torch._higher_order_ops")  # nobody can call them before it is imported
    found = {name: getattr(home, name, None) for name in ("while_loop", "scan", "map")}
    return {name: function for name, function in found.items() if isinstance(function, types.FunctionType)}


def recompile_lazy_graph(graph: torch.fx.GraphModule) -> None:
    """Has `graph.forward` be the graph's own code from here on; Dynamo writes it at the first call.

    Tested: 2.11, 2.13.
    """
    recompile = getattr(graph, "real_recompile", None)
    if recompile is not None:
        recompile()


def flex_attention() -> Callable[..., Any] | None:
    """`torch.nn.attention.flex_attention.flex_attention`; None where nothing has imported it.  Tested: 2.11, 2.13."""
    module = sys.modules.get("torch.nn.attention.flex_attention")
    return getattr(module, "flex_attention", None)


# CUDA graphs --------------------------------------------------------------------------------------------------------
def storage_use_count_function() -> Callable[[int], int]:
    """A C function: how many tensors and Python objects hold the storage with this `_cdata`.  Tested: 2.11, 2.13."""
    function: Callable[[int], int] = torch._C._storage_Use_Count
    return function


def shape_environment(on_unknown: Callable[[], None], *, has_unknown: bool) -> Any:
    """A shape environment that tells when somebody asks for the outcome of a comparison that cannot be known.

    Tested: 2.11, 2.13.

    Args:
        on_unknown: called before the error is raised.
        has_unknown: sizes and numbers may depend on the values of tensors.
    """
    module = importlib.import_module("torch.fx.experimental.symbolic_shapes")

    class Environment(module.ShapeEnv):  # type: ignore[name-defined]
        def _make_data_dependent_error(self, *args: Any, **kwargs: Any) -> Any:
            on_unknown()
            return super()._make_data_dependent_error(*args, **kwargs)

    return Environment(allow_scalar_outputs=has_unknown, allow_dynamic_output_shape_ops=has_unknown)


def stop_allocating_to_pool(device: int, pool: Any) -> None:
    """Ends what a capture that failed has begun: memory of this device comes from the pool.  Tested: 2.11, 2.13."""
    torch._C._cuda_endAllocateToPool(device, pool)


def functionalized_call() -> Any:
    """What functionalisation makes of a custom operator that changes its arguments.  Tested: 2.11, 2.13."""
    return torch.ops.higher_order.auto_functionalized_v2


def innermost_function_mode() -> Any:
    """The `TorchFunctionMode` that was entered last, or None.  Tested: 2.11, 2.13."""
    stack = torch.overrides._get_current_function_mode_stack()
    return stack[-1] if stack else None


def without_innermost_function_mode() -> Any:
    """A context without the `TorchFunctionMode` that was entered last.  Tested: 2.11, 2.13."""
    return torch.overrides._pop_mode_temporarily()


def without_dispatch_modes() -> Any:
    """A context without any `TorchDispatchMode`, functionalisation included.  Tested: 2.11, 2.13."""
    return torch.utils._python_dispatch._disable_current_modes()


def local_part(tensor: Any) -> torch.Tensor:
    """The part of a DTensor that is in this process, without autograd history.  Tested: 2.11, 2.13."""
    part: torch.Tensor = tensor._local_tensor
    return part


def dtensor_like(tensor: Any, part: torch.Tensor) -> torch.Tensor:
    """A DTensor that lies like another one, with another part in this process; checks nothing and communicates
    nothing, unlike `DTensor.from_local`.  Tested: 2.11, 2.13."""
    made: torch.Tensor = type(tensor)(part, tensor._spec, requires_grad=False)
    return made


def offsets_of_part(tensor: Any) -> tuple[int, ...]:
    """Where the part of a DTensor that is in this process begins in the whole.  Tested: 2.11, 2.13."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(offsets)


def default_store() -> Any:
    """The key-value store through which the processes of the default group found each other.  Tested: 2.11, 2.13."""
    return torch.distributed.distributed_c10d._get_default_store()


def process_group(name: Any) -> Any:
    """The process group of this name.  Tested: 2.11, 2.13."""
    return torch.distributed.distributed_c10d._resolve_process_group(name)


def root_mesh(mesh: Any) -> Any:
    """The mesh that this one is a slice of, or itself.  Tested: 2.11, 2.13."""
    return mesh._get_root_mesh()


def free_memory(tensor: torch.Tensor) -> None:
    """Gives back the memory of a tensor that nobody reads any more, unless others share it.  Tested: 2.11, 2.13."""
    storage = tensor.untyped_storage()
    if storage.nbytes() == tensor.numel() * tensor.element_size():
        storage.resize_(0)


def give_memory(tensor: torch.Tensor) -> None:
    """Memory again, without values, for a tensor whose memory was given back.  Tested: 2.11, 2.13."""
    storage = tensor.untyped_storage()
    if not storage.nbytes():
        storage.resize_(tensor.numel() * tensor.element_size())
