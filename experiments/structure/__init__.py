"""Sequences and trees: tags of words, handwritten words, and parses, each with and without an energy."""
