"""A whole cloud under load while its processes are killed; and the checks that judge it."""
