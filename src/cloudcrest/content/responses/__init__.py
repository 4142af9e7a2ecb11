"""OpenAI's Responses, translated to chat completions and back. Pure: fields.py, request.py, answer.py."""
