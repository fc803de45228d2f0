"""`python -m thunder.interpreter [-m MODULE | -c CODE | FILE | -] [ARGS...]`: runs a program as `python` does.

Exit status, `sys.argv`, `sys.path[0]`, `__main__` and tracebacks are those of a native run.  The program gets modules
of its own: of those that the interpreter has imported for itself, it sees only what Python loads at its start.
"""

from __future__ import annotations

import _frozen_importlib  # type: ignore[import-not-found]
import _frozen_importlib_external  # type: ignore[import-not-found]
import atexit
import builtins
import linecache
import os
import resource
import runpy
import signal
import sys
import types
from typing import Any

from .calling import run_code
from .interpreter import Interpreter
from .recursion import set_limit
from .tracebacks import without_internal_frames

_USAGE = "usage: python -m thunder.interpreter [OPTIONS] [-m MODULE | -c CODE | FILE | -] [ARGS...]"
_OPTIONS = "OPTIONS are Python's own: -b -B -d -E -I -O -P -q -s -S -u -v -W ARG -x -X ARG"
_FLAGS = frozenset("bBdEIOPqsSuvx")
_OPTIONS_WITH_ARGUMENT = ("-W", "-X")
STACK_BYTES = 512 * 2**20
# What Python has imported when a program starts (and `threading`, which must exist once).
_MODULES_OF_THE_START = {
    "__main__", "_bootlocale", "_collections_abc", "_distutils_hack", "_frozen_importlib",
    "_frozen_importlib_external", "_sitebuiltins", "abc", "codecs", "encodings", "genericpath",
    "importlib", "io", "ntpath", "os", "posixpath", "site", "stat", "threading", "zipimport",
}  # fmt: skip
if sys.version_info >= (3, 13):
    _MODULES_OF_THE_START.add("linecache")


class UsageError(Exception):
    """The command line cannot be carried out; the text is what Python would print."""


def raise_native_limits(interp: Interpreter) -> None:
    """Makes room for the native calls that interpreted calls are made of."""
    set_limit(interp, sys.getrecursionlimit())
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


def separate_modules() -> None:
    """Leaves the program to import its own copies of the standard modules that the interpreter uses.

    The copies are executed by the interpreter, so that their functions are interpreted also where C code calls them.
    """
    library = os.path.dirname(os.__file__) + os.sep
    used = set()
    for name, module in sys.modules.items():
        path = getattr(module, "__file__", None) or ""
        if "." not in name and path.startswith(library) and path.endswith(".py") and "site-packages" not in path:
            used.add(name)
    used -= _MODULES_OF_THE_START
    for name in list(sys.modules):
        if name.partition(".")[0] in used:
            del sys.modules[name]


def _fresh_main() -> types.ModuleType:
    """A new `__main__`, in the place of the interpreter's own."""
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = module
    return module


def _run_source(interp: Interpreter, source: str | bytes, filename: str, module: types.ModuleType) -> None:
    code = compile(source, filename, "exec", dont_inherit=True)
    run_code(interp, code, module.__dict__, builtins.__dict__, module.__dict__)


def _run_text(interp: Interpreter, source: str, filename: str, module: types.ModuleType) -> None:
    """Runs code that lies in no file."""
    if sys.version_info >= (3, 13):
        linecache._register_code(filename, source, filename)  # type: ignore[attr-defined]
    _run_source(interp, source, filename, module)


def run_program(interp: Interpreter, arguments: list[str]) -> None:
    """Runs what the command line asks for."""
    first = arguments[0] if arguments else "-"
    if first.startswith(("-m", "-c")):
        # The argument may be attached: `-mtimeit`.
        arguments = [*filter(None, (first[:2], first[2:])), *arguments[1:]]
        first = first[:2]
        if len(arguments) < 2:
            raise UsageError(f"Argument expected for the {first} option\n{_USAGE}")
    elif first.startswith("-") and first != "-":
        raise UsageError(f"Unknown option: {first[:2]}\n{_USAGE}\n{_OPTIONS}")
    if first == "-m":
        sys.argv[:] = ["-m", *arguments[2:]]
        sys.path.insert(0, os.getcwd())
        _fresh_main()
        interp.call(runpy._run_module_as_main, arguments[1])  # type: ignore[attr-defined]
        return
    module = _fresh_main()
    module.__dict__.update(__spec__=None, __package__=None, __loader__=_frozen_importlib.BuiltinImporter)
    if first == "-c":
        sys.argv[:] = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        _run_text(interp, arguments[1], "<string>", module)
    elif first == "-":
        sys.argv[:] = arguments or [""]
        sys.path.insert(0, "")
        module.__dict__.update(__file__="<stdin>", __cached__=None)
        _run_source(interp, sys.stdin.read(), "<stdin>", module)
    else:
        sys.argv[:] = arguments
        _run_path(interp, first, module)


def _run_path(interp: Interpreter, path: str, module: types.ModuleType) -> None:
    """Runs a file, or the `__main__` of a directory or an archive."""
    if os.path.isdir(path) or _is_archive(path):
        sys.path.insert(0, os.path.abspath(path))
        interp.call(runpy._run_module_as_main, "__main__", False)  # type: ignore[attr-defined]
        return
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        text = f"can't open file {os.path.abspath(path)!r}: [Errno {error.errno}] {error.strerror}"
        raise UsageError(f"{sys.executable}: {text}") from None
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    loader = _frozen_importlib_external.SourceFileLoader("__main__", os.path.abspath(path))
    module.__dict__.update(__file__=os.path.abspath(path), __cached__=None, __loader__=loader)
    _run_source(interp, source, os.path.abspath(path), module)


def _is_archive(path: str) -> bool:
    """Whether a file is a zip archive, which ends in a directory that starts with this mark."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def _split_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Python's own options in front, and the rest."""
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument[:2] in _OPTIONS_WITH_ARGUMENT:
            position += 2 if len(argument) == 2 else 1
        elif argument[:1] == "-" and len(argument) > 1 and _FLAGS.issuperset(argument[1:]):
            position += 1
        else:
            break
    return arguments[:position], arguments[position:]


def _die_of_interrupt() -> None:
    """Ends the process as an uncaught KeyboardInterrupt does: by the signal, after the program has cleaned up."""
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def _hide_interpreter_from_reports() -> None:
    """Exceptions that nobody can catch (of `__del__`, say) are reported by C code, with native tracebacks."""
    report = sys.unraisablehook

    def report_program(unraisable: Any) -> None:
        traceback = without_internal_frames(unraisable.exc_traceback)
        report(
            type(unraisable)(
                (unraisable.exc_type, unraisable.exc_value, traceback, unraisable.err_msg, unraisable.object)
            )
        )

    sys.unraisablehook = sys.__unraisablehook__ = report_program  # type: ignore[misc]
    threading = sys.modules.get("threading")
    if threading is not None:  # imported before the program starts, so its threads end in native code
        report_of_thread = threading.excepthook

        def report_thread(arguments: Any) -> None:
            if arguments.exc_value is not None:
                arguments.exc_value.__traceback__ = without_internal_frames(arguments.exc_traceback)
            report_of_thread(arguments)

        threading.excepthook = threading.__excepthook__ = report_thread  # type: ignore[attr-defined]


def _hide_interpreter_from_arguments() -> None:
    """`sys.orig_argv` becomes that of a native run."""
    original = sys.orig_argv
    for index in range(len(original) - 1):
        if original[index] == "-m" and original[index + 1] == __name__.rpartition(".")[0]:
            del original[index : index + 2]
            return


def main(arguments: list[str]) -> None:
    """Runs a program and ends the process as the program would."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(_USAGE, _OPTIONS, sep="\n")
        return
    if arguments[:1] in (["-V"], ["--version"]):
        print("Python", sys.version.split()[0])
        return
    options, arguments = _split_options(arguments)
    if options:  # they concern a whole process: this one starts again with them
        package = __name__.rpartition(".")[0]
        os.execv(sys.executable, [sys.executable, *options, "-m", package, *arguments])
    if sys.path and not os.environ.get("PYTHONSAFEPATH"):
        del sys.path[0]  # where `python -m` looked for the interpreter
    keep_builtins()
    _hide_interpreter_from_reports()
    _hide_interpreter_from_arguments()
    interp = Interpreter(interprets_everything=True)
    raise_native_limits(interp)
    separate_modules()
    try:
        run_program(interp, arguments)
    except SystemExit:
        raise
    except UsageError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    except BaseException as error:  # a boundary: reported as Python reports it
        error.__traceback__ = without_internal_frames(error.__traceback__)
        interp.call(sys.excepthook, type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            _die_of_interrupt()
        raise SystemExit(1) from None
