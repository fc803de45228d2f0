"""What the figures were measured on: processor, system, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

REPORTED_PACKAGES = ("thunder", "torch", "triton", "transformers", "litgpt", "numpy")


def processor_name() -> str:
    """The processor's model name, or its architecture where the system does not tell."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """The number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_machine() -> str:
    """One line: accelerator, processor, cores, PyTorch's threads, system."""
    accelerator = f"{torch.cuda.get_device_name()}; " if torch.cuda.is_available() else ""
    return (
        f"{accelerator}{processor_name()}, {usable_cores()} cores, {torch.get_num_threads()} PyTorch threads, "
        f"{platform.system()} {platform.machine()}"
    )


def installed_version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_versions() -> dict[str, str]:
    """Python and the installed packages that matter here."""
    versions = {"python": platform.python_version()}
    for package in REPORTED_PACKAGES:
        version = installed_version(package)
        if version is not None:
            versions[package] = version
    return versions
