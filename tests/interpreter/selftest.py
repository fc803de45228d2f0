"""Runs every program natively and interpreted and compares; needs nothing but the standard library.

`python selftest.py` prints the names of the programs whose results differ and exits with 1 if there are any.
"""

import os
import sys
import traceback

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from programs import PROGRAMS

from thunder.interpreter import Interpreter, Tracker


def run_natively(source, name):
    """The value of `result` after executing the program."""
    namespace = {"__name__": "program", "__builtins__": __builtins__}
    exec(compile(source, f"<{name}>", "exec"), namespace)
    return namespace["result"]


def execute(code, namespace):
    exec(code, namespace)
    return namespace["result"]


def run_interpreted(source, name, interpreter):
    """As `run_natively`, under an interpreter."""
    namespace = {"__name__": "program", "__builtins__": __builtins__}
    return interpreter.call(execute, compile(source, f"<{name}>", "exec"), namespace)


FLAVOURS = {
    "plain": lambda: Interpreter(),
    "tracked": lambda: Interpreter(Tracker()),
    "everything": lambda: Interpreter(interprets_everything=True),
}


def differences(name, source):
    """(flavour, native, interpreted) for each flavour whose result differs."""
    native = repr(run_natively(source, name))
    found = []
    for flavour, make in FLAVOURS.items():
        try:
            interpreted = repr(run_interpreted(source, name, make()))
        except Exception:
            interpreted = traceback.format_exc()
        if interpreted != native:
            found.append((flavour, native, interpreted))
    return found


def main():
    failed = 0
    for name, version, source in PROGRAMS:
        if sys.version_info < version:
            continue
        for flavour, native, interpreted in differences(name, source):
            failed += 1
            print(f"{name} ({flavour}):\n  native      {native}\n  interpreted {interpreted}")
    print(f"Python {sys.version.split()[0]}: {len(PROGRAMS)} programs, {failed} differences")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
