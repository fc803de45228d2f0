"""Generation with Hugging Face models: their interface, with a decoding loop that runs on the device."""

from thunder.generate.methods import GenerationMethods

__all__ = ["GenerationMethods"]
