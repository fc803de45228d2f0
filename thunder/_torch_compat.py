"""Every private torch API that thunder uses, one function each, with the versions it was tested on.

Importing this module touches nothing private: an attribute that a version of torch lacks is missed
only by the function that needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def set_grad_enabled_statement() -> Callable[..., Any]:
    """`torch._C._set_grad_enabled(flag)`: how a `with torch.no_grad()` shows in a trace.  Tested: 2.13."""
    return torch._C._set_grad_enabled


def context_statements() -> dict[Callable[..., Any], Callable[[Any], Any]]:
    """Functions that enter a context and return it, with the function that leaves it.  Tested: 2.13.

    They are how `with torch.autocast(...)` and `with torch.inference_mode()` show in a trace.
    """
    return {
        torch.amp.autocast_mode._enter_autocast: torch.amp.autocast_mode._exit_autocast,
        torch.autograd.grad_mode._enter_inference_mode: torch.autograd.grad_mode._exit_inference_mode,
    }
