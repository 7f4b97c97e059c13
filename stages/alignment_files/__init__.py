"""Readers of files that hold word times: one module per format, an index over them, and the matching with a text."""
