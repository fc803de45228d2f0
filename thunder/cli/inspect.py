"""`thunder inspect`: compiles something of the user's and prints every stage of its program.

Input: a Python file or module, an expression for what to compile, an expression for its arguments.
Output: the guards and the traces, on the terminal.

    thunder inspect model.py "Net(64)" "torch.randn(4, 64)"
    thunder inspect torch.nn.functional gelu "torch.randn(8)" --backward
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch.utils import _pytree as pytree

import thunder
from thunder.cli.inspection import listings, show_listings
from thunder.errors import OptionError


def load_module(source: str) -> ModuleType:
    """A Python file by its path, or a module by its dotted name (the current directory counts)."""
    if not source.endswith(".py"):
        sys.path.insert(0, os.getcwd())
        return importlib.import_module(source)
    path = Path(source)
    if not path.exists():
        raise OptionError(f"there is no file {source}")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise OptionError(f"{source} is no Python file")
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    specification.loader.exec_module(module)
    return module


def evaluate(expression: str, module: ModuleType) -> Any:
    """The value of an expression of the user's, in which the module's names and `torch` are known."""
    return eval(expression, {"torch": torch, **vars(module)})


def differentiate(result: Any) -> None:
    """Backward from the sum of every floating-point tensor in the result that needs a gradient."""
    tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    if not tensors:
        raise OptionError("--backward: no tensor in the result requires a gradient")
    total = torch.stack([tensor.sum() for tensor in tensors]).sum()
    total.backward()


def command(
    source: Annotated[str, typer.Argument(help="A Python file, or the name of a module.")],
    target: Annotated[str, typer.Argument(help="An expression for what to compile: `Net(64)`, `step`.")],
    arguments: Annotated[str, typer.Argument(help="The arguments of the call: `torch.randn(4, 64)`.")] = "",
    executor: Annotated[
        list[str] | None, typer.Option(help="An executor to use; may be given several times, best first.")
    ] = None,
    backward: Annotated[bool, typer.Option(help="Run backward too, from the sum of the results.")] = False,
) -> None:
    """Print the guards and every trace of a model or function."""
    module = load_module(source)
    compiled = thunder.jit(evaluate(target, module), executors=executor or None)
    args, kwargs = evaluate(f"(lambda *args, **kwargs: (args, kwargs))({arguments})", module)
    result = compiled(*args, **kwargs)
    if backward:
        differentiate(result)
    show_listings(Console(), listings(compiled))
