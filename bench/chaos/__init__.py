"""A whole cloud under load while its processes are killed at random, held to what the gateway promises."""
