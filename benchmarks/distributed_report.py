"""Sets the figures of `gpu_distributed.py` beside one another, as Markdown tables.

    python benchmarks/distributed_report.py benchmarks/results/h200/distributed-1b.json

Input: the JSON file.  Output: for every strategy a line for each contender (of ranks, the slowest and the fullest),
thunder's ratio to the best of the others, whether the losses agree, and what `thunder plan` predicted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LOSS_TOLERANCE = 0.02
"""Relative: ten steps in bfloat16, whose sums are taken in different orders."""


def report(written: dict[str, Any]) -> str:
    """The tables, with device and versions beneath."""
    results = {name: merged(entry["ranks"]) for name, entry in written["results"].items()}
    strategies = [name.removesuffix(" planned") for name in results if name.endswith(" planned")]
    lines = [
        "| strategy | by | batch | ms a step | tokens/s/GPU | exposed communication, ms | peak GiB | losses |",
        "|---|---|---|---|---|---|---|---|",
    ]
    verdicts = []
    for strategy in strategies:
        of_strategy = {
            name.removeprefix(f"{strategy} "): found
            for name, found in results.items()
            if name.startswith(f"{strategy} ") and not name.endswith("planned") and ", batch" not in name
        }
        reference = next((found["losses"] for name, found in of_strategy.items() if name == "torch"), None)
        lines += [line_of(strategy, name, found, reference) for name, found in of_strategy.items()]
        verdicts += compared(strategy, of_strategy, results[f"{strategy} planned"])
    for name in ("pp", "fp8", "offload"):
        if name in results:
            lines.append(line_of("pp" if name == "pp" else "fsdp-zero3", f"thunder, {name}", results[name], None))
    decode = results.get("decode", {})
    if "tp_ms_per_token" in decode and "alone_ms_per_token" in decode:
        for way in ("tp", "tp_graphs"):
            if f"{way}_ms_per_token" in decode:
                ratio = decode[f"{way}_ms_per_token"] / decode["alone_ms_per_token"]
                same = decode[f"{way}_tokens"] == decode["alone_tokens"]
                verdicts.append(
                    f"- decode, {way}: {decode[f'{way}_ms_per_token']:.2f} ms a token, alone "
                    f"{decode['alone_ms_per_token']:.2f} ({ratio:.2f}); tokens {'equal' if same else 'differ'}"
                )
    errors = [f"- {name} failed: {found['error'][:300]}" for name, found in results.items() if "error" in found]
    errors += [f"- {key}: {value[:300]}" for key, value in decode.items() if key.endswith("_error")]
    arguments = written["arguments"]
    below = (
        f"{written['world']} x {written['device']}, {arguments['model']}, sequences of {arguments['sequence']} tokens; "
        f"torch {written['torch']}, transformers {written['transformers']}."
    )
    return "\n".join([*lines, "", *verdicts, *errors, "", below, ""])


def merged(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """The ranks' figures as one: the slowest, the fullest, the mean loss; an error of any."""
    failed = next((found for found in ranks if "error" in found), None)
    if failed is not None:
        return {"error": failed["error"], "batch": failed["batch"]}
    found = dict(ranks[0])
    for key in ("step_ms", "peak_gib", "exposed_communication_ms", "communication_ms"):
        if key in found:
            found[key] = max(other[key] for other in ranks)
    if "tokens_per_second_per_gpu" in found:
        found["tokens_per_second_per_gpu"] = min(other["tokens_per_second_per_gpu"] for other in ranks)
    if "losses" in found:
        found["losses"] = [sum(values) / len(ranks) for values in zip(*(other["losses"] for other in ranks))]
    return found


def line_of(strategy: str, name: str, found: dict[str, Any], reference: list[float] | None) -> str:
    """One contender's line."""
    if "error" in found:
        return f"| {strategy} | {name} | {found['batch']} | failed | | | | |"
    losses = f"{found['losses'][0]:.3f} to {found['losses'][-1]:.3f}"
    if reference is not None:
        losses += f" ({'agree' if agree(found['losses'], reference) else 'DIFFER'})"
    peak = f"{found['peak_gib']:.1f}" if "peak_gib" in found else ""
    return (
        f"| {strategy} | {name} | {found['batch']} | {found['step_ms']:.1f} | "
        f"{found['tokens_per_second_per_gpu']:,.0f} | {found['exposed_communication_ms']:.2f} | {peak} | {losses} |"
    )


def agree(losses: list[float], reference: list[float]) -> bool:
    """Whether all losses are within the tolerance of the reference's."""
    return all(abs(a - b) <= LOSS_TOLERANCE * abs(b) for a, b in zip(losses, reference))


def compared(strategy: str, of_strategy: dict[str, dict[str, Any]], plan: dict[str, Any]) -> list[str]:
    """Thunder beside the best of the others, and beside what was planned."""
    ours = of_strategy.get("thunder", {"error": ""})
    others = [found for name, found in of_strategy.items() if "thunder" not in name and "error" not in found]
    if "error" in ours:
        return []
    lines = []
    if others:
        rate = ours["tokens_per_second_per_gpu"] / max(found["tokens_per_second_per_gpu"] for found in others)
        shown = min(found["exposed_communication_ms"] for found in others)
        text = f"- {strategy}: tokens/s {rate:.2f} of the best other's (aim 1.05); exposed communication "
        text += f"{ours['exposed_communication_ms']:.2f} ms, least of the others {shown:.2f}"
        if "peak_gib" in ours:
            text += f"; peak {ours['peak_gib']:.1f} GiB, least {min(found['peak_gib'] for found in others):.1f}"
        lines.append(text)
    if "error" not in plan:
        ratio = plan["step_ms"] / ours["step_ms"]
        text = f"- {strategy}: planned {plan['step_ms']:.1f} ms, {ratio:.2f} of the measured"
        if "peak_gib" in ours:
            text += f"; memory {plan['peak_gib']:.1f} GiB, {plan['peak_gib'] / ours['peak_gib']:.2f}"
        lines.append(text)
    return lines


if __name__ == "__main__":
    print(report(json.loads(Path(sys.argv[1]).read_text())))
