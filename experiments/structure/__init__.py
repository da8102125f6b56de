"""Experiments on sequences and trees."""
