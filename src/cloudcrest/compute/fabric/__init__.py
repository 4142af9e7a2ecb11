"""The fabric's adapters: where processes run. `local` is this machine, `ray` those of a Ray cluster."""
