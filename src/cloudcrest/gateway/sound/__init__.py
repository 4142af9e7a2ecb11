"""Speech and transcription: fields.py what the endpoints take, request.py the way in, relay.py the way out."""
