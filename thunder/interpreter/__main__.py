"""Runs a program under the interpreter; see `command`."""

from __future__ import annotations

import sys

from .command import main

main(sys.argv[1:])
