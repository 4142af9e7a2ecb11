"""Programs that nobody here wrote, run against a cloud: `make conformance`."""
