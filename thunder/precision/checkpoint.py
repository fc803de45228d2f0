"""Files of quantised models: safetensors, whose header says what is in them.

    save_quantized   a quantised model -> a file
    load_quantized   a model as it was made (also on device "meta"), a file -> the quantised model
    load_original    a quantised model without memory, files of original weights -> its weights, layer by layer

The header's metadata: `format` is "thunder-quantized", `version` the version of the layout, `layers` a JSON object from
layer names to formats, `shared` one from names of tensors to those that they are the same as, and `checksums` one from
names to CRC-32 of the bytes.  A file is read and checked before the model is touched.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thunder.errors import CheckpointError, QuantizationError
from thunder.precision.formats import Format, empty_quantized, get_format
from thunder.precision.layer import PARTS, QuantizedLinear, is_linear, layer_shape, quantize_layer
from thunder.precision.materialise import fill_buffers, prepare_for_loading
from thunder.precision.quantize_model import quantized_layers
from thunder.precision.selection import linear_layers

KIND = "thunder-quantized"
VERSION = "1"


def _safetensors() -> Any:
    if importlib.util.find_spec("safetensors") is None:
        raise CheckpointError(
            "files of weights are read and written by safetensors, which is not installed",
            remedy="pip install 'thunder[checkpoints]', or keep model.state_dict() with torch.save",
        )
    return importlib.import_module("safetensors")


def save_quantized(model: nn.Module, path: str | Path) -> None:
    """Writes a quantised model's state to a safetensors file.

    Args:
        model: a model with quantised layers, compiled or not.
        path: of the file.

    Raises:
        QuantizationError: when no layer is quantised, or some have no memory yet.
        CheckpointError: when safetensors is not installed, or the file cannot be written.
    """
    safetensors = _safetensors()
    layers = quantized_layers(model)
    if not layers:
        raise QuantizationError("no layer of the model is quantised", remedy="quantise it first")
    tensors: dict[str, torch.Tensor] = {}
    shared: dict[str, str] = {}
    known: dict[Any, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            raise QuantizationError(f"the state {name!r} is a {type(tensor).__name__}; files hold tensors only")
        if tensor.is_meta:
            raise QuantizationError(f"{name!r} has no memory (device meta)", remedy="load weights before saving")
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and place in known:
            shared[name] = known[place]
        else:
            known[place] = name
            tensors[name] = tensor.detach().contiguous()
    described = {
        name: {
            "format": layer.format_text,
            "activation": layer.activation_text,
            "dtype": str(layer.weight_dtype).removeprefix("torch."),
        }
        for name, layer in layers.items()
    }
    metadata = {
        "format": KIND,
        "version": VERSION,
        "layers": json.dumps(described),
        "shared": json.dumps(shared),
        "checksums": json.dumps({name: checksum(tensor) for name, tensor in tensors.items()}),
    }
    try:
        importlib.import_module("safetensors.torch").save_file(_apart(tensors), str(path), metadata=metadata)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be written: {error}", remedy="name a file in a folder that exists"
        ) from error


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that share memory without being the same get memory of their own, as the file wants it."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()._cdata
        result[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return result


def checksum(tensor: torch.Tensor) -> int:
    """CRC-32 of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return zlib.crc32(flat.numpy().data)


class _File:
    """An open file of quantised weights, its header checked."""

    def __init__(self, path: str | Path) -> None:
        safetensors = _safetensors()
        self.path = Path(path)
        if not self.path.is_file():
            raise CheckpointError(f"there is no file {self.path}")
        try:
            self.file = safetensors.safe_open(str(self.path), "pt")
            metadata = dict(self.file.metadata() or {})
            self.names = list(self.file.keys())
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"{self.path} is no safetensors file, or a damaged one: {error}") from error
        if metadata.get("format") != KIND:
            raise CheckpointError(
                f"{self.path} holds no quantised model of thunder (its format: {metadata.get('format', 'not given')})",
                remedy="load_original(model, path) reads files of original weights",
            )
        if metadata.get("version") != VERSION:
            raise CheckpointError(
                f"{self.path} has version {metadata.get('version')!r}; this thunder reads version {VERSION!r}",
                remedy="use the thunder that wrote it, or quantise the original weights again",
            )
        try:
            self.layers: dict[str, dict[str, str | None]] = json.loads(metadata["layers"])
            self.shared: dict[str, str] = json.loads(metadata["shared"])
            self.checksums: dict[str, int] = json.loads(metadata["checksums"])
            self.formats = {name: Format.parse(str(entry["format"])) for name, entry in self.layers.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the header of {self.path} is damaged: {error!r}") from error

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor, its checksum compared."""
        tensor: torch.Tensor = self.file.get_tensor(self.shared.get(name, name))
        if checksum(tensor) != self.checksums.get(self.shared.get(name, name)):
            raise CheckpointError(f"{self.path} is damaged: the bytes of {name!r} do not have their checksum")
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.file.get_slice(self.shared.get(name, name)).get_shape())


def load_quantized(
    model: nn.Module, path: str | Path, *, device: torch.device | str | None = None, strict: bool = True
) -> nn.Module:
    """Loads a file that `save_quantized` wrote; original weights are not needed.

    Args:
        model: the model as its class makes it, not quantised or quantised alike, with memory or on device "meta"
            (`with torch.device("meta"): model = ...`).
        path: of the file.
        device: where tensors without memory are made; the CPU by default.
        strict: whether the names must be the same.

    Returns:
        The model, quantised.

    Raises:
        CheckpointError: for a file that is foreign, damaged, of another version, or of another model. Except for
            damage to the tensors' bytes, all is found before the model is changed.
    """
    file = _File(path)
    present = linear_layers(model)
    for name, format in file.formats.items():
        layer = present.get(name)
        if layer is None:
            raise CheckpointError(f"{file.path} has a quantised layer {name!r} that the model does not have")
        if isinstance(layer, QuantizedLinear) and layer.format != format:
            raise CheckpointError(f"{name!r} is stored as {format} in {file.path}, and as {layer.format} in the model")
        _check_parts(file, name, layer, format)
    _check_names(file, model, strict)
    for name, format in file.formats.items():
        layer, entry = present[name], file.layers[name]
        if is_linear(layer):
            empty = empty_quantized(layer_shape(layer), format, "meta")
            activation = entry.get("activation")
            inputs = get_format(activation) if activation else None
            layer = quantize_layer(layer, format, activation=inputs, stored=empty)
        assert isinstance(layer, QuantizedLinear)
        dtype = getattr(torch, str(entry.get("dtype")), None)
        if isinstance(dtype, torch.dtype):
            layer.weight_dtype = dtype
    target = torch.device(device) if device is not None else torch.device("cpu")
    prepare_for_loading(model)
    for prefix, module in model.named_modules():
        start = f"{prefix}." if prefix else ""
        own = [name for name in (*file.names, *file.shared) if name.rpartition(".")[0] == prefix]
        if own:
            state = {name: file.tensor(name).to(target) for name in own}
            errors: list[str] = []
            for hook in module._load_state_dict_pre_hooks.values():
                hook(state, start, {}, False, [], [], errors)
            module._load_from_state_dict(state, start, {}, False, [], [], errors)
            if errors:
                raise CheckpointError(f"{file.path} does not fit the model: {errors[0]}")
    for hook in model._load_state_dict_post_hooks.values():
        hook(model, None)
    fill_buffers(model, target)
    return model


def _check_parts(file: _File, name: str, layer: nn.Module, format: Format) -> None:
    shape = layer_shape(layer)
    reason = format.why_unsuitable(shape)
    if reason is not None:
        raise CheckpointError(f"{file.path} does not fit the model: {name!r} as {format}: {reason}")
    expected = empty_quantized(shape, format, "meta")
    for part in PARTS:
        memory = getattr(expected, part)
        full = f"{name}.{part}".lstrip(".")
        if memory is None:
            continue
        if full not in file.names and full not in file.shared:
            raise CheckpointError(f"{file.path} is damaged: {full!r} is missing")
        if file.shape(full) != tuple(memory.shape):
            raise CheckpointError(
                f"{file.path} does not fit the model: {full!r} is {list(file.shape(full))}, "
                f"expected {list(memory.shape)}"
            )


def _check_names(file: _File, model: nn.Module, strict: bool) -> None:
    """Whether the model and the file have the same tensors beside those of quantised layers."""
    inner = tuple(f"{name}.{part}".lstrip(".") for name in file.formats for part in (*PARTS, "format", "weight"))
    mine = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in inner}
    its = {name for name in (*file.names, *file.shared) if name not in inner}
    if strict and (missing := sorted(mine.keys() - its)):
        raise CheckpointError(f"{file.path} does not fit the model: it has no {missing[0]!r}")
    if strict and (unknown := sorted(its - mine.keys())):
        raise CheckpointError(f"{file.path} does not fit the model, which has no {unknown[0]!r}")
    for name in its & mine.keys():
        if file.shape(name) != mine[name]:
            raise CheckpointError(
                f"{file.path} does not fit the model: {name!r} is {list(file.shape(name))}, expected {list(mine[name])}"
            )


def load_original(
    model: nn.Module,
    source: Mapping[str, torch.Tensor] | str | Path | Iterable[str | Path],
    *,
    device: torch.device | str | None = None,
) -> nn.Module:
    """Loads original weights into a model whose layers are quantised, usually one made on device "meta".

    Args:
        model: a model after `quantize_model`.
        source: a state_dict, or the path of a safetensors file or several: these are read tensor by tensor.
        device: where the model is made; by default where each tensor is.

    Raises:
        CheckpointError: for files that cannot be read, and names that the model or the source lacks.
    """
    read, names = _reader(source)
    expected = set(_original_names(model))
    missing, unknown = sorted(expected - names), sorted(names - expected)
    tied = {name for names_of in _tied(model) if names_of & names for name in names_of}
    missing = [name for name in missing if name not in tied]
    if missing or unknown:
        what = f"has no {missing[0]!r}" if missing else f"has {unknown[0]!r}, which the model has not"
        raise CheckpointError(f"the source of original weights {what}")
    prepare_for_loading(model)
    for prefix, module in model.named_modules():
        start = f"{prefix}." if prefix else ""
        own = [name for name in names if name.rpartition(".")[0] == prefix]
        state = {name: read(name) if device is None else read(name).to(device) for name in own}
        if not state:
            continue
        errors: list[str] = []
        for hook in module._load_state_dict_pre_hooks.values():
            hook(state, start, {}, False, [], [], errors)
        module._load_from_state_dict(state, start, {}, False, [], [], errors)
        if errors:
            raise CheckpointError(f"the weights do not fit the model: {errors[0]}")
    for hook in model._load_state_dict_post_hooks.values():
        hook(model, None)
    return model


def _original_names(model: nn.Module) -> Iterable[str]:
    """Names of the state_dict that the model had before it was quantised."""
    layers = quantized_layers(model)
    inner = {f"{name}.{part}".lstrip(".") for name in layers for part in (*PARTS, "format")}
    yield from (name for name in model.state_dict() if name not in inner)
    yield from (f"{name}.weight".lstrip(".") for name in layers)


def _tied(model: nn.Module) -> list[set[str]]:
    """Names of parameters that are the same, in groups."""
    groups: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(name)
    return [names for names in groups.values() if len(names) > 1]


def _reader(source: Any) -> tuple[Any, set[str]]:
    """(name -> tensor, the names)."""
    if isinstance(source, Mapping):
        return source.__getitem__, set(source)
    safetensors = _safetensors()
    paths = [source] if isinstance(source, (str, Path)) else list(source)
    files: dict[str, Any] = {}
    for path in paths:
        if not Path(path).is_file():
            raise CheckpointError(f"there is no file {path}")
        try:
            file = safetensors.safe_open(str(path), "pt")
            files.update(dict.fromkeys(file.keys(), file))
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"{path} is no safetensors file, or a damaged one: {error}") from error
    return lambda name: files[name].get_tensor(name), set(files)
