"""Detectors, a family in each file; hits.py says what they have in common, registry.py lists them."""
