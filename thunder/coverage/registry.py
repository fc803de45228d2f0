"""Names of the suites and the modules that hold them.

A suite's module imports the model library that it covers, so it is imported only by the process that runs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from thunder.errors import unknown_name

if TYPE_CHECKING:
    from thunder.coverage.suite import Suite

SUITE_NAMES = ("transformers", "ops", "litgpt", "vision", "diffusers", "programs")


def check_suite_name(name: str) -> str:
    """The name, if a suite has it."""
    if name not in SUITE_NAMES:
        raise unknown_name("suite", name, list(SUITE_NAMES))
    return name


def suite_named(name: str) -> Suite:
    """Import a suite's module and return its suite."""
    module = importlib.import_module(f"thunder.coverage.suites.{check_suite_name(name)}")
    return module.SUITE
