"""The live placer of a region: one queue for replicas and jobs, decided by the pure scheduler."""
