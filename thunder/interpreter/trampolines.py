"""Trampolines: Python functions that run interpreted whoever calls them.

C code calls back Python functions that the interpreter cannot see (a `__hash__` while a dictionary grows, a weak
reference's callback, the target of a thread).  When a whole program is interpreted (`interprets_everything`), each
function that the program makes gets a *trampoline* as its code object: native code with the same signature and the
same free variables, whose body hands its arguments to the interpreter.  Interpreted code that reads `__code__` gets
the original; nothing else of a function shows the difference.

Input: a code object.  Output: its trampoline.  Invariant: `original_code(trampoline(code)) is code`.
"""

from __future__ import annotations

import sys
from types import CodeType, FunctionType
from typing import Any

from .program import CO_VARARGS, CO_VARKEYWORDS

_SIGNATURE_FLAGS = CO_VARARGS | CO_VARKEYWORDS

_models: dict[tuple[int, int, int, int, int], CodeType] = {}


def _entry(code: CodeType, enter: Any) -> FunctionType:
    """What a trampoline of `code` calls. A function, because C code between two Python calls uses up the C stack."""

    def entry(*arguments: Any) -> Any:
        *values, get_cells = arguments
        native = sys._getframe(1)
        closure = get_cells.__closure__ if get_cells is not None else None
        return enter(code, native.f_globals, closure, values)

    return entry  # type: ignore[return-value]


def _model(positional_only: int, positional: int, keyword_only: int, flags: int, free: int) -> CodeType:
    """A trampoline for any function of this shape, under made-up names."""
    names = [f"a{index:04}" for index in range(positional + keyword_only)]
    parameters = names[:positional]
    if positional_only:
        parameters.insert(positional_only, "/")
    arguments = list(names)
    if flags & CO_VARARGS:
        parameters.append("*more")
        arguments.append("more")
    elif keyword_only:
        parameters.append("*")
    parameters += names[positional:]
    if flags & CO_VARKEYWORDS:
        parameters.append("**others")
        arguments.append("others")
    cells = [f"c{index:04}" for index in range(free)]
    get_cells = f"lambda: ({', '.join(cells)},)" if free else "None"
    source = (
        f"def make({', '.join(cells)}):\n"
        f" def trampoline({', '.join(parameters)}):\n"
        f"  entry = 'entry'\n"
        f"  return entry({', '.join([*arguments, get_cells])})\n"
        " return trampoline\n"
    )
    namespace: dict[str, Any] = {}
    # The text holds nothing of the program's: only numbered names.
    exec(compile(source, __file__, "exec", dont_inherit=True), namespace)
    function = namespace["make"](*cells)
    return function.__code__


def trampoline(code: CodeType, enter: Any) -> CodeType:
    """The trampoline of `code`; `enter(code, globals, closure, argument values)` executes the call."""
    shape = (
        code.co_posonlyargcount,
        code.co_argcount,
        code.co_kwonlyargcount,
        code.co_flags & _SIGNATURE_FLAGS,
        len(code.co_freevars),
    )
    model = _models.get(shape)
    if model is None:
        model = _models[shape] = _model(*shape)
    count = model.co_nlocals - 1  # all but `entry`
    changes: dict[str, Any] = {
        "co_name": code.co_name,
        "co_varnames": (*code.co_varnames[:count], ".entry"),
        "co_freevars": code.co_freevars,
        "co_firstlineno": code.co_firstlineno,
        # The last constant is for `original_code`.
        "co_consts": (
            *(_entry(code, enter) if constant == "entry" else constant for constant in model.co_consts),
            code,
        ),
    }
    if sys.version_info >= (3, 11):
        changes["co_qualname"] = code.co_qualname
    return model.replace(**changes)


def original_code(code: CodeType) -> CodeType:
    """The code object behind a trampoline, or `code` itself if it is none."""
    if code.co_filename == __file__ and type(code.co_consts[-1]) is CodeType:
        return code.co_consts[-1]
    return code


def is_trampoline(function: FunctionType) -> bool:
    return function.__code__.co_filename == __file__
