"""Recipes: a starting set of choices for a kind of model or use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thunder.errors import OptionError, unknown_name
from thunder.plugins import Choices


class Recipe:
    """Chooses transforms, executors and options for a model; subclass and override `choices`.

    Attributes:
        name: the name in `thunder.compile(model, recipe=...)`.
    """

    name = ""

    def choices(self, target: Callable[..., Any]) -> Choices:
        """The choices for `target`, a model or function."""
        raise NotImplementedError(f"{type(self).__qualname__} does not override `choices`")


class AutoRecipe(Recipe):
    """The default: the default executors, no transform, CUDA graphs for inference whose calls repeat."""

    name = "auto"

    def choices(self, target: Callable[..., Any]) -> Choices:
        return Choices(options={"cuda_graphs": "inference"})


class EagerRecipe(Recipe):
    """Runs the acquired program with PyTorch's own kernels, operation by operation."""

    name = "eager"

    def choices(self, target: Callable[..., Any]) -> Choices:
        return Choices(executors=["eager"])


class DynamoRecipe(Recipe):
    """Acquires with torch.compile's front end: graph breaks instead of errors."""

    name = "dynamo"

    def choices(self, target: Callable[..., Any]) -> Choices:
        return Choices(front_end="dynamo")


_registry: dict[str, Recipe] = {}


def register_recipe(recipe: Recipe) -> Recipe:
    """Makes a recipe known by its name."""
    if not recipe.name:
        raise OptionError(f"{recipe!r} has no name", remedy="set the class attribute `name`")
    _registry[recipe.name] = recipe
    return recipe


def recipe_names() -> list[str]:
    return sorted(_registry)


def get_recipe(recipe: str | Recipe | type[Recipe]) -> Recipe:
    """The recipe of that name; instances and classes are taken as they are."""
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, type) and issubclass(recipe, Recipe):
        return recipe()
    if recipe not in _registry:
        raise unknown_name("recipe", recipe, recipe_names())
    return _registry[recipe]


for _recipe in (AutoRecipe(), EagerRecipe(), DynamoRecipe()):
    register_recipe(_recipe)
