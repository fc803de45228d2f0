"""The intermediate representation of programs; knows nothing of how they are acquired, changed or executed."""

from thunder.trace.op import Op, Region, delete
from thunder.trace.passes import disabled_passes, run_pass, trace_pass
from thunder.trace.printer import compile_source, print_trace, public_path, run_source, trace_constants
from thunder.trace.trace import Namer, Trace
from thunder.trace.var import Var, describe_value, iterate_vars, map_vars
from thunder.trace.verify import verify

__all__ = [
    "Namer",
    "Op",
    "Region",
    "Trace",
    "Var",
    "compile_source",
    "delete",
    "describe_value",
    "disabled_passes",
    "iterate_vars",
    "map_vars",
    "print_trace",
    "public_path",
    "run_pass",
    "run_source",
    "trace_constants",
    "trace_pass",
    "verify",
]
