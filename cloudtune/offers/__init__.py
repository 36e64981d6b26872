"""Machines for rent as dated data."""
