"""The form that an engine gets a recording in: written anew, between lines that nobody outside can know."""

import secrets

BOUNDARY = secrets.token_hex(32).encode()
"""Of this process. A recording that held it would be cut there; nobody outside has ever seen it."""
TRANSCRIPTIONS = "/v1/audio/transcriptions"
CONTENT_TYPES: dict[str, bytes] = {TRANSCRIPTIONS: b"multipart/form-data; boundary=" + BOUNDARY}
"""What bodies are sent to engines as, by path, where that is not JSON."""
