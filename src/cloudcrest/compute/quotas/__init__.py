"""Quotas: how much of a region's accelerators organizations and projects are guaranteed, and may have."""
