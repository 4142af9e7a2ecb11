"""Families of chips: what a node has of them, and how a process is shown some and no others."""
