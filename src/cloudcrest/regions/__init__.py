"""Regions: the cells that run inference, and their link to the control plane."""
