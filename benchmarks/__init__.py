"""Benchmarks: each compares things within one run and prints ratios, because machines are noisy."""
