"""Reads what a recipe points at: data files, model configs."""
