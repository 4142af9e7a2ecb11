"""Dialects beside OpenAI's."""
