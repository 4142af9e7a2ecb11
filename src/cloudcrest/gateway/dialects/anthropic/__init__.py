"""Anthropic's Messages: fields.py what a body takes, request.py the way in, answer.py and stream.py the way out."""
