"""C++ kernels of a region, compiled together.

Inductor compiles each kernel by itself: parsing the header of vector types takes a second or more, compiling the
kernel a twentieth of that.  Here the kernels of a region become one file and one library.

Input: (argument types, source) of each kernel as Inductor generates it; each source defines one function `kernel`.
Output: for each kernel a callable that takes tensors and numbers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from thunder import _torch_compat

_MODULE_NAME = "thunder_kernels"

_BINDINGS = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdexcept>
#include <type_traits>

static void* (*tensor_data_pointer)(PyObject*);

template <typename T> static inline T argument(PyObject* value) {
    static_assert(std::is_pointer_v<T>, "a pointer or a number");
    return static_cast<T>(tensor_data_pointer(value));
}
template <> inline int64_t argument<int64_t>(PyObject* value) {
    int64_t result = PyLong_AsLongLong(value);
    if (result == -1 && PyErr_Occurred()) throw std::invalid_argument("expected an int");
    return result;
}
template <> inline double argument<double>(PyObject* value) {
    double result = PyFloat_AsDouble(value);
    if (result == -1.0 && PyErr_Occurred()) throw std::invalid_argument("expected a float");
    return result;
}
template <> inline float argument<float>(PyObject* value) { return static_cast<float>(argument<double>(value)); }

static PyObject* set_data_pointer_function(PyObject*, PyObject* address) {
    tensor_data_pointer = reinterpret_cast<void* (*)(PyObject*)>(PyLong_AsVoidPtr(address));
    Py_RETURN_NONE;
}
"""

_BINDING = """
static PyObject* call_{name}(PyObject*, PyObject* const* arguments, Py_ssize_t count) {{
    if (count != {count}) {{
        PyErr_SetString(PyExc_TypeError, "{name} takes {count} arguments");
        return nullptr;
    }}
    try {{
        {call}({arguments});
    }} catch (std::exception const& error) {{
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, error.what());
        return nullptr;
    }}
    Py_RETURN_NONE;
}}
"""

_MODULE = """
static PyMethodDef methods[] = {{
    {{"set_data_pointer_function", set_data_pointer_function, METH_O, nullptr}},
{entries}
    {{nullptr, nullptr, 0, nullptr}}}};
static PyModuleDef module_definition = {{PyModuleDef_HEAD_INIT, "{module}", nullptr, -1, methods}};
PyMODINIT_FUNC PyInit_{module}(void) {{ return PyModule_Create(&module_definition); }}
"""


class CppKernel:
    """A kernel that is not compiled yet: a placeholder in the module that calls it."""

    def __init__(self, argument_types: list[str], source: str) -> None:
        self.argument_types = argument_types
        self.source = source

    def __call__(self, *arguments: Any) -> None:
        raise RuntimeError("the kernel is called before it is compiled")


class KernelLibrary:
    """The kernels of one region: `start` begins to compile them, `finish` waits and gives them.

    Libraries are kept in Inductor's cache folder, by a hash of their source and of the compiler's flags.
    """

    def __init__(self, kernels: list[CppKernel]) -> None:
        self.kernels = kernels
        self._process: subprocess.Popen[bytes] | None = None
        self._library = ""
        self._temporary = ""

    def start(self) -> None:
        """Starts the compiler, unless the library is there from an earlier run."""
        source = library_source(self.kernels)
        flags, _ = _torch_compat.cpp_build("kernels.cpp", precompiled_header=None)
        key = hashlib.sha256(" ".join([source, *flags]).encode()).hexdigest()[:40]
        directory = os.path.join(_torch_compat.inductor_cache_directory(), "thunder", key[:2])
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, f"{key}.cpp")
        command, self._library = _torch_compat.cpp_build(path, precompiled_header=precompiled_header.path())
        if os.path.exists(self._library):
            return
        # Other processes may be at the same file: everything is written aside and moved into place.
        self._temporary = f"{self._library}.{os.getpid()}.{threading.get_ident()}"
        with open(f"{self._temporary}.cpp", "w") as file:
            file.write(source)
        os.replace(f"{self._temporary}.cpp", path)
        command[command.index("-o") + 1] = self._temporary
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def finish(self) -> list[Callable[..., None]]:
        """Waits for the compiler and loads the kernels, in order.

        Raises:
            CppCompileError: the compiler's message.
        """
        if self._process is not None:
            output, _ = self._process.communicate()
            if self._process.returncode != 0:
                raise CppCompileError(output.decode(errors="replace"))
            os.replace(self._temporary, self._library)
        spec = importlib.util.spec_from_file_location(_MODULE_NAME, self._library)
        if spec is None or spec.loader is None:
            raise CppCompileError(f"{self._library} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.set_data_pointer_function(_torch_compat.tensor_data_pointer_function())
        return [getattr(module, f"kernel_{number}") for number in range(len(self.kernels))]


class CppCompileError(Exception):
    """The C++ compiler refused a generated source."""


def library_source(kernels: list[CppKernel]) -> str:
    """One C++ file with every kernel and its Python binding."""
    includes: dict[str, None] = {}
    bodies: list[str] = []
    bindings: list[str] = []
    for number, kernel in enumerate(kernels):
        name = f"kernel_{number}"
        lines = kernel.source.splitlines()
        includes.update({line: None for line in lines if line.startswith("#include")})
        body = "\n".join(line for line in lines if not line.startswith("#include"))
        renamed = re.sub(r"(?<![A-Za-z0-9_])kernel(?![A-Za-z0-9_])", name, body)
        bodies.append(f"namespace {name}_scope {{\n{renamed}\n}}")
        arguments = ", ".join(
            f"argument<{_argument_type(kind)}>(arguments[{position}])"
            for position, kind in enumerate(kernel.argument_types)
        )
        call = f"{name}_scope::{name}"
        bindings.append(_BINDING.format(name=name, call=call, count=len(kernel.argument_types), arguments=arguments))
    entries = "\n".join(
        f'    {{"kernel_{number}", (PyCFunction)(void (*)(void))call_kernel_{number}, METH_FASTCALL, nullptr}},'
        for number in range(len(kernels))
    )
    module = _MODULE.format(entries=entries, module=_MODULE_NAME)
    return "\n".join([*includes, *bodies, _BINDINGS, *bindings, module])


def _argument_type(kind: str) -> str:
    return kind.replace("const ", "").replace("long", "int64_t") if "*" not in kind else kind.replace("const ", "")


class _PrecompiledHeader:
    """Inductor's precompiled header, looked for (and made, when it is missing) in the background.

    Making it takes several seconds: whoever cannot wait compiles without it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._path: str | None = None

    def prepare(self) -> None:
        """Starts looking, once a process; called as Inductor is configured for the kernels."""
        with self._lock:
            if self._thread is None:
                arguments = (_torch_compat.cpp_vector_extension(),)
                self._thread = threading.Thread(target=self._find, args=arguments, name="thunder-header", daemon=True)
                self._thread.start()

    def path(self, patience: float = 0.3) -> str | None:
        """The header's path if it is ready, or is within `patience` seconds."""
        self.prepare()
        if self._thread is not None:
            self._thread.join(patience)
        return self._path

    def _find(self, vector_extension: Any) -> None:
        try:
            self._path = _torch_compat.cpp_precompiled_header(vector_extension)
        except Exception as error:  # a compiler without precompiled headers, a full disk: the header is a convenience
            logging.getLogger(__name__).debug("no precompiled header: %s", error)


precompiled_header = _PrecompiledHeader()
