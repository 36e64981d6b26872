"""Reckoning of GPU memory: pure arithmetic over recipe, shape and layout."""
