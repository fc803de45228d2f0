"""`python -m thunder.interpreter [-m MODULE | -c CODE | FILE | -] [ARGS...]`: runs a program as `python` does.

Exit status, `sys.argv`, `sys.path[0]`, `__main__` and tracebacks are those of a native run.
"""

from __future__ import annotations

import builtins
import os
import resource
import runpy
import sys
import types

from .calling import run_code
from .interpreter import Interpreter
from .lookasides.programs import NATIVE_CALLS_PER_CALL
from .tracebacks import without_internal_frames

_USAGE = "usage: python -m thunder.interpreter [-m MODULE | -c CODE | FILE | -] [ARGS...]"
STACK_BYTES = 512 * 2**20


def raise_native_limits() -> None:
    """Makes room for the native calls that interpreted calls are made of."""
    sys.setrecursionlimit(sys.getrecursionlimit() * NATIVE_CALLS_PER_CALL)
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))


def keep_builtins() -> None:
    """Makes the interpreter immune to a program that replaces builtins such as `len`."""
    package = __name__.rpartition(".")[0]
    for name, module in list(sys.modules.items()):
        if name.startswith(package + ".") and not name.startswith(package + ".conformance"):
            for builtin, value in vars(builtins).items():
                if not builtin.startswith("_"):
                    vars(module).setdefault(builtin, value)


def _fresh_main() -> types.ModuleType:
    """A new `__main__`, in the place of the interpreter's own."""
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    return module


def _run_code(interp: Interpreter, code: types.CodeType, module: types.ModuleType) -> None:
    run_code(interp, code, module.__dict__, builtins.__dict__, module.__dict__)


def run_program(interp: Interpreter, arguments: list[str]) -> None:
    """Runs what the command line asks for."""
    if arguments[:1] == ["-m"] and len(arguments) > 1:
        sys.argv[:] = ["-m", *arguments[2:]]
        sys.path.insert(0, os.getcwd())
        _fresh_main()
        interp.call(runpy._run_module_as_main, arguments[1])  # type: ignore[attr-defined]
        return
    module = _fresh_main()
    names = module.__dict__
    names.update(__spec__=None, __package__=None, __loader__=None)
    if arguments[:1] == ["-c"] and len(arguments) > 1:
        sys.argv[:] = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        _run_code(interp, compile(arguments[1], "<string>", "exec", dont_inherit=True), module)
    elif not arguments or arguments[0] == "-":
        sys.argv[:] = arguments or [""]
        sys.path.insert(0, "")
        _run_code(interp, compile(sys.stdin.read(), "<stdin>", "exec", dont_inherit=True), module)
    else:
        path = arguments[0]
        sys.argv[:] = arguments
        sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
        with open(path, "rb") as file:
            source = file.read()
        names["__file__"] = os.path.abspath(path)
        names["__cached__"] = None
        _run_code(interp, compile(source, os.path.abspath(path), "exec", dont_inherit=True), module)


def _without_command(error: BaseException) -> None:
    """Takes what leads from the command line to the program out of the traceback."""
    traceback = without_internal_frames(error.__traceback__)
    runners = (__file__, "<frozen runpy>", runpy.__file__)
    while traceback is not None and traceback.tb_frame.f_code.co_filename in runners:
        traceback = traceback.tb_next
    error.__traceback__ = traceback


def main(arguments: list[str]) -> None:
    """Runs a program and ends the process as the program would."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(_USAGE)
        return
    if sys.path and not os.environ.get("PYTHONSAFEPATH"):
        del sys.path[0]  # where `python -m` looked for the interpreter
    raise_native_limits()
    keep_builtins()
    interp = Interpreter(interprets_everything=True)
    try:
        run_program(interp, arguments)
    except SystemExit:
        raise
    except BaseException as error:  # a boundary: reported as Python reports it
        _without_command(error)
        interp.call(sys.excepthook, type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(130) from None
        raise SystemExit(1) from None
