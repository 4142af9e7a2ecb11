"""Dialects beside OpenAI's, each a thin translation to the canonical request and back (api.py)."""
