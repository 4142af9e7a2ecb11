"""Placement on mixed accelerators: the experiment of FGD (USENIX ATC'23), with its policies and ours."""
