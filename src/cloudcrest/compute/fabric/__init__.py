"""The fabric's adapters: where processes run. `local` is this machine."""
