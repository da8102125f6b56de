"""Benchmarks: one script a claim; README.md prints one run of each."""
