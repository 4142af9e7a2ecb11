"""Files of sound made by hand."""

import io
import struct
import wave


def wav(seconds: float, rate: int = 8_000, sample: bytes = b"\x00\x00") -> bytes:
    """A wav file of one value: of silence, unless told otherwise."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(sample * int(seconds * rate))
    return file.getvalue()


def ogg_opus(position: int) -> bytes:
    """The heads of an Opus file whose last page ends at this sample."""
    first = b"OggS\x00\x02" + bytes(8) + bytes(12) + b"\x01\x13" + b"OpusHead" + bytes(11)
    return first + b"OggS\x00\x04" + struct.pack("<q", position) + bytes(13)
