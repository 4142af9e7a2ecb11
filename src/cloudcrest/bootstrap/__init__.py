"""The composition root: every process of a cloud starts here, and only here do slices meet their adapters."""
