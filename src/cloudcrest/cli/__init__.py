"""The command line: a client of the public API like any other, and what starts and stops a cloud on this machine."""
