"""Engines: what turns a model's weights into an inference server, one file each, behind the protocol in api.py."""
