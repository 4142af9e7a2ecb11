"""Nodes: what regions report of them, and what operators set."""
