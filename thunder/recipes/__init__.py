"""Recipes and `thunder.compile`: what to do for a model, chosen by name."""

from thunder.recipes.compile import compile
from thunder.recipes.recipe import Recipe, get_recipe, recipe_names, register_recipe

__all__ = ["Recipe", "compile", "get_recipe", "recipe_names", "register_recipe"]
