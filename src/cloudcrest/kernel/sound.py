"""Files of sound by their first bytes: which format one is, and how long it can be. Pure; nothing is decoded here.

A length is a promise of the file's own head: whoever counts on it has the decoder hold the file to it.
"""

from typing import Literal

SoundFormat = Literal["wav", "mp3", "flac", "ogg", "aac", "webm", "mp4"]

MAX_MILLISECONDS = 2 * 60 * 60 * 1000
"""The longest recording that is taken at all."""
MARGIN_MILLISECONDS = 100
"""What decoding may make longer: a codec's delay, a resampler's ends."""
_HEAD_BYTES = 4_096
_MAX_BITS_PER_SECOND: dict[SoundFormat, int] = {
    "wav": 1_536_000, "mp3": 320_000, "flac": 1_536_000, "ogg": 512_000, "aac": 512_000, "webm": 512_000,
    "mp4": 512_000,
}  # fmt: skip
"""What a stereo recording of each is at most in practice: no file of so many bytes is likely to be shorter."""


_MIN_BITS_PER_SECOND = 4_000
"""What no recording of speech is below, whatever packs it: a bound for heads that do not tell."""
_XING_WITHIN_BYTES = 200


def format_of(data: bytes) -> SoundFormat | None:
    """The format by its first bytes; None: it is none that is known here."""
    head = data[:16]
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[4:8] == b"ftyp":
        return "mp4"
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:  # a frame of MPEG audio; layer 0 is AAC's
        return "aac" if head[1] & 0xF6 == 0xF0 else "mp3"
    return None


_MAGICS: tuple[tuple[bytes, SoundFormat], ...] = (
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"\x1aE\xdf\xa3", "webm"),
    (b"ID3", "mp3"),
)


def most_milliseconds(data: bytes) -> int:
    """How long a file says that it is, where its head tells, else what so many bytes can hold at most."""
    told = _told_milliseconds(data)
    if told is not None and told < _shortest_milliseconds(data):  # no recording of that length has so many bytes
        told = None
    most = -(-len(data) * 8_000 // _MIN_BITS_PER_SECOND) if told is None else told + MARGIN_MILLISECONDS
    return min(most, MAX_MILLISECONDS)


def least_milliseconds(data: bytes) -> int:
    """About the shortest that a file of this size is."""
    told = _told_milliseconds(data)
    return min(_shortest_milliseconds(data) if told is None else told, MAX_MILLISECONDS)


def _shortest_milliseconds(data: bytes) -> int:
    name = format_of(data)
    return len(data) * 8_000 // _MAX_BITS_PER_SECOND["wav" if name is None else name]


def _told_milliseconds(data: bytes) -> int | None:
    match format_of(data):
        case "wav":
            return _wav_milliseconds(data)
        case "flac":
            return _flac_milliseconds(data)
        case "ogg":
            return _ogg_milliseconds(data)
        case "mp3":
            return _mp3_milliseconds(data)
    return None


def _wav_milliseconds(data: bytes) -> int | None:
    """By the bytes that are there and the bytes a second that its format says, whatever the lengths in its head."""
    at = data.find(b"fmt ", 12, _HEAD_BYTES)
    if at < 0 or len(data) < at + 24:
        return None
    channels = int.from_bytes(data[at + 10 : at + 12], "little")
    rate = int.from_bytes(data[at + 12 : at + 16], "little")
    bytes_per_second = int.from_bytes(data[at + 16 : at + 20], "little")
    if channels == 0 or rate == 0 or bytes_per_second == 0:
        return None
    return -(-len(data) * 1000 // bytes_per_second)


def _flac_milliseconds(data: bytes) -> int | None:
    """By STREAMINFO, which is first: 20 bits of rate, 36 of samples (0: unknown)."""
    if len(data) < 26:
        return None
    rate = int.from_bytes(data[18:21], "big") >> 4
    samples = int.from_bytes(data[21:26], "big") & 0xF_FFFF_FFFF
    return -(-samples * 1000 // rate) if rate and samples else None


def _ogg_milliseconds(data: bytes) -> int | None:
    """By the last page's position: of Opus in samples of 48 kHz (RFC 7845), of Vorbis at the rate in its first page."""
    head = data[:_HEAD_BYTES]
    rate = 48_000
    if b"OpusHead" not in head:
        at = head.find(b"\x01vorbis")
        if at < 0:
            return None
        rate = int.from_bytes(head[at + 12 : at + 16], "little")
    last = data.rfind(b"OggS")
    if last < 0 or len(data) < last + 14 or rate == 0:
        return None
    position = int.from_bytes(data[last + 6 : last + 14], "little", signed=True)
    return -(-position * 1000 // rate) if position > 0 else None


def _mp3_milliseconds(data: bytes) -> int | None:
    """By the count of frames that most encoders leave in the first one ("Xing", "Info")."""
    at = 0
    if data[:3] == b"ID3" and len(data) > 10:
        size = 0
        for byte in data[6:10]:
            size = size << 7 | byte & 0x7F
        at = 10 + size
    frame = data[at : at + _XING_WITHIN_BYTES]
    found = max(frame.find(b"Xing"), frame.find(b"Info"))
    if len(frame) < 4 or found < 4 or frame[0] != 0xFF or not frame[found + 7] & 1:
        return None
    version, rate_index = frame[1] >> 3 & 3, frame[2] >> 2 & 3
    if version == 1 or rate_index == 3:
        return None
    rate = (44_100, 48_000, 32_000)[rate_index] >> (0 if version == 3 else 1 if version == 2 else 2)
    frames = int.from_bytes(frame[found + 8 : found + 12], "big")
    samples = frames * (1_152 if version == 3 else 576)
    return -(-samples * 1000 // rate) if frames else None
