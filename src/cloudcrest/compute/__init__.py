"""Compute: where processes run."""
