"""Which layers bear which format: measures each alone, and proposes a mix.

Input: a model, batches, formats.  Output: `Sensitivity`: a row for each layer and format with the error that the
model's outputs get when only that layer has that format, and a choice of one format (or none) for each layer within
a budget of memory or of error.  The model is as before afterwards: weights are exchanged one at a time and put back.

Errors are against the unquantised model on the same batches: the mean Kullback-Leibler divergence of the outputs as
logits over their last dimension, in nats (`divergence`), the mean cosine of the outputs (`cosine`), and, for batches
with `labels` or when `targets` are given, the perplexity.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from thunder.errors import OptionError
from thunder.precision.formats import dequantize, get_format, quantize
from thunder.precision.layer import is_transposed, layer_shape
from thunder.precision.quantize_model import GROUPED, Layerwise, quantize_model
from thunder.precision.selection import Patterns, select_layers


@dataclass(frozen=True)
class Error:
    """How far outputs are from those of the unquantised model; `perplexity` is NaN without targets."""

    divergence: float
    cosine: float
    perplexity: float = math.nan


@dataclass(frozen=True)
class Row:
    """One layer in one format: the error of the model, and bytes of the layer's weight now and in the format."""

    layer: str
    format: str
    error: Error
    bytes_before: int
    bytes_after: int


@dataclass
class Sensitivity:
    """What `sensitivity` found.

    Attributes:
        rows: a measurement for each layer and format.
        reference: the unquantised model's own error: divergence 0, cosine 1, its perplexity.
        mix: the proposed format of each layer; layers that are not in it stay as they are.
        mix_error: the measured error of the model with the whole mix.
        memory: bytes of the measured layers' weights in the mix, over those before.
    """

    rows: list[Row]
    reference: Error
    mix: dict[str, str] = field(default_factory=dict)
    mix_error: Error = field(default_factory=lambda: Error(0.0, 1.0))
    memory: float = 1.0

    def apply(self, model: nn.Module) -> nn.Module:
        """Quantises the model, in place, as proposed."""
        for format in dict.fromkeys(self.mix.values()):
            names = frozenset(name for name, chosen in self.mix.items() if chosen == format)
            quantize_model(model, format, include=lambda name, module, names=names: name in names)
        return model

    def table(self) -> str:
        """A Markdown table of divergences, layers by formats; the proposed format of a layer is marked with *."""
        formats = list(dict.fromkeys(row.format for row in self.rows))
        lines = ["| layer | " + " | ".join(formats) + " |", "|---" * (len(formats) + 1) + "|"]
        for layer in dict.fromkeys(row.layer for row in self.rows):
            cells = []
            for format in formats:
                found = next((row for row in self.rows if (row.layer, row.format) == (layer, format)), None)
                mark = "*" if self.mix.get(layer) == format else ""
                cells.append("" if found is None else f"{found.error.divergence:.3g}{mark}")
            lines.append(f"| {layer} | " + " | ".join(cells) + " |")
        lines.append("")
        lines.append(
            f"mix: {self.memory:.3f} of the memory, divergence {self.mix_error.divergence:.3g}, "
            f"cosine {self.mix_error.cosine:.5f}"
            + ("" if math.isnan(self.mix_error.perplexity) else
               f", perplexity {self.mix_error.perplexity:.4g} (before: {self.reference.perplexity:.4g})")
        )  # fmt: skip
        return "\n".join(lines)

    def plot(self, path: str | Path) -> None:
        """Writes a picture of the divergences, a line for each format; needs matplotlib."""
        if importlib.util.find_spec("matplotlib") is None:
            raise OptionError("matplotlib is not installed", remedy="pip install 'thunder[plot]'")
        figure_module = importlib.import_module("matplotlib.figure")
        layers = list(dict.fromkeys(row.layer for row in self.rows))
        figure = figure_module.Figure(figsize=(max(6.0, 0.28 * len(layers)), 4.5), layout="constrained")
        axes = figure.subplots()
        for format in dict.fromkeys(row.format for row in self.rows):
            points = {row.layer: row.error.divergence for row in self.rows if row.format == format}
            axes.plot([layers.index(layer) for layer in points], list(points.values()), marker="o", label=format)
        axes.set_yscale("log")
        axes.set_ylabel("divergence of the outputs, nats")
        axes.set_xticks(range(len(layers)), layers, rotation=90, fontsize=6)
        axes.legend()
        figure.savefig(path)


def sensitivity(
    model: nn.Module,
    batches: Iterable[Any],
    formats: Sequence[str] = ("int8", "fp8", "fp6", "nvfp4", "int4"),
    *,
    memory: float | None = None,
    error: float | None = None,
    targets: Sequence[torch.Tensor] | None = None,
    include: Patterns = None,
    exclude: Patterns = None,
) -> Sensitivity:
    """Measures how much each layer's weight in each format changes the model's outputs, and proposes a mix.

    Args:
        model: any module, in evaluation mode, not quantised.
        batches: inputs: tensors, tuples of arguments, or dicts of keyword arguments.
        formats: names (`thunder.precision.formats.format_names()`); those that do not fit a layer's shape are left
            out for it.
        memory: budget: bytes of the measured weights in the mix, over those before (such as 0.3).
        error: budget: the sum of the layers' divergences, in nats. Without either, every layer gets the smallest
            format whose divergence is not above the median of all measurements.
        targets: int64 class numbers for each batch, of the outputs' shape without the last dimension, for
            perplexities; by default `labels` of batches that have them.
        include, exclude: patterns of module names (`thunder.precision.selection`).

    Returns:
        The measurements and the mix: `table()`, `plot(path)`, `apply(model)`.

    Raises:
        OptionError: for a model in training mode, no batches, no formats, both budgets, and a budget that no mix meets.
        QuantizationError: for patterns that fit nothing.
    """
    if memory is not None and error is not None:
        raise OptionError("both a budget of memory and one of error", remedy="give one")
    if model.training:
        raise OptionError("the model is in training mode: dropout would be measured", remedy="call model.eval() first")
    listed = list(batches)
    if not listed or not formats:
        raise OptionError("nothing to measure", remedy="give batches and formats")
    chosen = {name: Layerwise(get_format(name), name in GROUPED) for name in formats}
    layers = select_layers(model, include, exclude)
    outputs = [_logits(model, batch) for batch in listed]
    known = [_targets(batch, targets, number) for number, batch in enumerate(listed)]
    measure = _Measure(model, listed, outputs, known)
    rows = []
    for name, layer in layers.items():
        for format, layerwise in chosen.items():
            stored = layerwise.for_shape(layer_shape(layer))
            if stored.why_unsuitable(layer_shape(layer)) is None:
                with _exchanged({name: layer}, {name: stored}):
                    found = measure()
                weight: Any = layer.weight
                after = round(stored.bits_per_weight(layer_shape(layer)) * weight.numel() / 8)
                rows.append(Row(name, format, found, weight.nbytes, after))
    result = Sensitivity(rows, measure())
    result.mix = _propose(rows, memory, error)
    formats_of = {name: chosen[format].for_shape(layer_shape(layers[name])) for name, format in result.mix.items()}
    with _exchanged({name: layers[name] for name in result.mix}, formats_of):
        result.mix_error = measure()
    before = {row.layer: row.bytes_before for row in rows}
    after_mix = {row.layer: row.bytes_after for row in rows if result.mix.get(row.layer) == row.format}
    result.memory = sum({**before, **after_mix}.values()) / max(sum(before.values()), 1)
    return result


class _exchanged:
    """Within the block, layers have the weights that formats make of them."""

    def __init__(self, layers: Mapping[str, nn.Module], formats: Mapping[str, Any]) -> None:
        self._layers, self._formats = layers, formats
        self._kept: list[tuple[Any, torch.Tensor]] = []

    def __enter__(self) -> None:
        for name, layer in self._layers.items():
            parameter: Any = layer.weight
            matrix = parameter.detach().t() if is_transposed(layer) else parameter.detach()
            numbers = dequantize(quantize(matrix, self._formats[name]), parameter.dtype)
            self._kept.append((parameter, parameter.data))
            parameter.data = numbers.t().contiguous() if is_transposed(layer) else numbers

    def __exit__(self, *_exception: Any) -> None:
        for parameter, data in self._kept:
            parameter.data = data


class _Measure:
    """The model's error on all batches, as it is now."""

    def __init__(self, model: nn.Module, batches: list[Any], outputs: list[Any], targets: list[Any]) -> None:
        self._model, self._batches, self._outputs, self._targets = model, batches, outputs, targets

    def __call__(self) -> Error:
        divergence = cosine = loss = 0.0
        rows = predicted = 0
        for batch, exact, target in zip(self._batches, self._outputs, self._targets):
            found = _logits(self._model, batch)
            flat, flat_exact = found.float().flatten(0, -2), exact.float().flatten(0, -2)
            mine, its = torch.log_softmax(flat, -1), torch.log_softmax(flat_exact, -1)
            divergence += float(F.kl_div(mine, its, reduction="sum", log_target=True))
            cosine += float(F.cosine_similarity(flat, flat_exact, dim=-1).sum())
            rows += mine.shape[0]
            if target is not None:
                loss += float(F.nll_loss(mine, target.flatten(), reduction="sum", ignore_index=-100))
                predicted += int((target != -100).sum())
        perplexity = math.exp(min(loss / predicted, 700.0)) if predicted else math.nan
        return Error(max(divergence / rows, 0.0), cosine / rows, perplexity)


@torch.no_grad()
def _logits(model: nn.Module, batch: Any) -> torch.Tensor:
    """The model's output that is measured: logits, or the first tensor."""
    if isinstance(batch, Mapping):
        output = model(**{name: value for name, value in batch.items() if name != "labels"})
    else:
        output = model(*batch) if isinstance(batch, (tuple, list)) else model(batch)
    for name in ("logits", "last_hidden_state"):
        if isinstance(getattr(output, name, None), torch.Tensor):
            found: torch.Tensor = getattr(output, name)
            return found.detach().clone()
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        output = output[0]
    if not isinstance(output, torch.Tensor) or output.dim() == 0:
        raise OptionError(
            f"the model returns a {type(output).__name__}, of which no error is known",
            remedy="wrap it so that it returns a tensor",
        )
    return output.detach().clone()


def _targets(batch: Any, targets: Sequence[torch.Tensor] | None, number: int) -> torch.Tensor | None:
    """Targets of a batch: given, or the labels of a language model, shifted."""
    if targets is not None:
        return targets[number]
    if isinstance(batch, Mapping) and isinstance(batch.get("labels"), torch.Tensor):
        return F.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    return None


def _propose(rows: list[Row], memory: float | None, error: float | None) -> dict[str, str]:
    """Greedy: while the budget asks for it, the step that saves the most bytes for the divergence it adds."""
    if memory is None and error is None:
        limit = sorted(row.error.divergence for row in rows)[len(rows) // 2] if rows else 0.0
        mix: dict[str, str] = {}
        for row in sorted(rows, key=lambda row: (-row.bytes_after, -row.error.divergence)):
            if row.error.divergence <= limit:
                mix[row.layer] = row.format
        return mix
    size = {row.layer: row.bytes_before for row in rows}
    added = dict.fromkeys(size, 0.0)
    mix, wanted = {}, (memory or 0.0) * sum(size.values())
    while memory is None or sum(size.values()) > wanted:
        steps = [row for row in rows if row.bytes_after < size[row.layer]]
        if error is not None:
            total = sum(added.values())
            steps = [row for row in steps if total - added[row.layer] + row.error.divergence <= error]
        if not steps:
            if memory is not None:
                raise OptionError(
                    f"no mix of these formats takes {memory:.3f} of the memory; the smallest takes "
                    f"{sum(size.values()) / sum({row.layer: row.bytes_before for row in rows}.values()):.3f}",
                    remedy="add a smaller format, or raise the budget",
                )
            return mix
        best = max(
            steps,
            key=lambda row: (size[row.layer] - row.bytes_after)
            / max(row.error.divergence - added[row.layer], 1e-12),
        )  # fmt: skip
        mix[best.layer], size[best.layer], added[best.layer] = best.format, best.bytes_after, best.error.divergence
    return mix
