"""Recipes, data preparation, training loop: what needs torch and the `[train]` extra."""
