"""Every row of the paper's tables 1, 2, 3 and 9–23 as a run: what the paper says of it, and what is ours."""

from propulsion_tools.recipes.catalogue import Recipe, find_recipes, recipe, recipes

__all__ = ["Recipe", "find_recipes", "recipe", "recipes"]
