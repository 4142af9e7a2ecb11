"""A cluster in simulated time: a trace of jobs goes through the very scheduler that the live system calls."""
