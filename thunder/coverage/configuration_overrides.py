"""What the general rules cannot know about single model types.

`CONFIGURATIONS`: field values that win over the rules, by model type. `CLASSES`: the class to build where the
general preference picks one that cannot run alone. Every entry says what it repairs.
"""

from __future__ import annotations

from typing import Any

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    # The inner width of a state-space layer is heads times head width.
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1, "expand": 2, "state_size": 16},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_ssm": 128, "mamba_d_state": 16},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16},
    # The list of attention kinds must have one entry a layer.
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
}

CLASSES: dict[str, str] = {}
