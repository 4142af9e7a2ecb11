"""The gateway against nginx and other gateways; `python -m bench.gateway --help`."""
