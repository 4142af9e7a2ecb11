"""Prefix-aware routing replayed on a trace of real conversations; see `python -m bench.routing --help`."""
