"""The front end of torch.compile: `torch.compile(model, backend="thunder")`."""

from thunder.dynamo.backend import backend, compiled_graphs

__all__ = ["backend", "compiled_graphs"]
