"""What may be said: guardrails over requests and answers, and moderation."""
