"""Experiments on the library: each asks a question, and writes its figures into a folder."""
