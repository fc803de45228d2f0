"""Launching kernels from kept machine code: what is compiled ahead, and how arguments reach the driver."""

from __future__ import annotations

import ctypes
import os
import types

import pytest
import torch

from thunder import _torch_compat
from thunder.kernels import gemv, machine_code, skinny, swiglu
from thunder.kernels.binaries import BinaryCache
from thunder.kernels.compile_ahead import compile_ahead
from thunder.trace import Op, Var

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter was chosen for this process"
)

BF16 = torch.bfloat16
GATED = swiglu.gated_activation._opoverload
PROPERTIES = types.SimpleNamespace(multi_processor_count=132, shared_memory_per_block_optin=232448)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What is compiled for a GPU that is not there."""
    monkeypatch.setenv("THUNDER_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: PROPERTIES)
    monkeypatch.setattr(machine_code, "_has_launcher", lambda: True)
    skinny.has_room.cache_clear()
    found, original = [], BinaryCache.request

    def request(self, source, architecture, **options):
        found.append((source, original(self, source, architecture, **options)))
        return found[-1][1]

    monkeypatch.setattr(BinaryCache, "request", request)
    yield found
    skinny.has_room.cache_clear()


def call(target, *args, **kwargs):
    values = [Var(f"t{i}", arg) if isinstance(arg, torch.Tensor) else arg for i, arg in enumerate(args)]
    return Op(target, tuple(values), kwargs, None)


def on_gpu(*shapes):
    with _torch_compat.fake_tensor_mode():
        return [torch.empty(shape, dtype=BF16, device="cuda") for shape in shapes]


def test_kernels_of_operations_are_compiled_ahead(asked):
    x, weight = on_gpu((1, 10, 256), (512, 256))
    product = call(gemv.GEMV, x, weight)
    compile_ahead([product, product, call(torch.ops.aten.relu.default, x), call(GATED, x, x, "gelu")])
    assert [source.name for source, _ in asked] == ["_skinny_kernel", "_gated_kernel"]
    source, future = asked[0]
    assert dict(source.signature)["x_ptr"] == "*bf16"
    chosen = {"K": 256, "EARLY": True, "ACTIVATION": "none"}
    assert {name: dict(source.constants)[name] for name in chosen} == chosen
    assert source.stages == 3
    binary = future.result()
    assert binary.name == "_skinny_kernel"
    assert binary.shared_bytes > 0
    assert asked[1][1].result().warps == 4


def test_what_an_implementation_cannot_do_without_values_is_left_for_later(asked, monkeypatch):
    monkeypatch.setattr(gemv, "launch", lambda *arguments, **options: 1 / 0)
    x, weight = on_gpu((1, 10, 256), (512, 256))
    compile_ahead([call(gemv.GEMV, x, weight)])
    assert asked == []


def test_arguments_reach_the_driver(monkeypatch):
    taken = {}

    def driver(configuration, function, pointers, _extra):
        config = ctypes.cast(configuration, ctypes.POINTER(machine_code._Configuration)).contents
        places = ctypes.cast(pointers, ctypes.POINTER(ctypes.c_uint64))
        taken["grid"], taken["block"] = tuple(config.grid), tuple(config.block)
        taken["stream"], taken["shared"], taken["function"] = config.stream, config.shared_bytes, function
        taken["attributes"] = [
            (config.attributes[i].id, config.attributes[i].value[0]) for i in range(config.attribute_count)
        ]
        read = zip((ctypes.c_uint64, ctypes.c_int32, ctypes.c_float, ctypes.c_int64, ctypes.c_uint64), range(5))
        taken["arguments"] = [kind.from_address(places[i]).value for kind, i in read]
        return taken.get("answer", 0)

    monkeypatch.setattr(machine_code, "_launch_function", lambda: driver)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    x = torch.zeros(4)
    arguments = (x, -7, 0.5, 1, 1 << 40)
    kinds = tuple(map(machine_code._kind, arguments))
    fixed = tuple(kind == 1 for kind in kinds)
    assert fixed == (False, False, False, True, False)
    ready = machine_code._Ready("kernel", 5, 4, 100, fixed, 1, 0, lambda device: 77)
    ready.launch((3, 2), arguments, True)
    assert taken["arguments"] == [x.data_ptr(), -7, 0.5, 1 << 40, 0]
    assert (taken["grid"], taken["block"], taken["shared"]) == ((3, 2, 1), (128, 1, 1), 100)
    assert (taken["stream"], taken["function"], taken["attributes"]) == (77, 5, [(6, 1)])
    ready.launch((1,), arguments, False)
    assert taken["attributes"] == []
    taken["answer"] = 701
    with pytest.raises(machine_code.KernelLaunchError, match="kernel was not launched.*701"):
        ready.launch((1,), arguments, False)


def test_structures_are_laid_out_as_the_driver_has_them():
    assert ctypes.sizeof(machine_code._Attribute) == 72
    assert machine_code._Attribute.value.offset == 8
    assert ctypes.sizeof(machine_code._Configuration) == 56
    assert machine_code._Configuration.stream.offset == 32
