"""Tool calls where an engine leaves them to us: told to the model, forced by a grammar, and found in its text."""
