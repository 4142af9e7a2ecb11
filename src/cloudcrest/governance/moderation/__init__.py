"""Moderation: a small lexicon of our own, and what guard models say, in OpenAI's categories."""
