"""Energies of label sets: the multi-label data, methods and comparisons."""
