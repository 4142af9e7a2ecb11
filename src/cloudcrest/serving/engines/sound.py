"""Sound in and out through PyAV (FFmpeg), which lies in the runtime of an engine that works on sound.

Decoding gives blocks, so that hours take no more memory than seconds. The format is that of the file's first bytes:
FFmpeg is never left to guess, as some of what it would recognise opens other files.
"""

import io
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.kernel.sound import SoundFormat, format_of

Samples = NDArray[np.float32]
OutputFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]

HEARING_RATE = 16_000
"""Samples a second that speech is recognised from."""
MIN_RATE, MAX_RATE = 2_000, 384_000
"""Of what is decoded: below, a few bytes would become minutes."""
PCM_RATE = 24_000
"""Of `pcm`, which has no head to say so: what clients of OpenAI expect."""
MEDIA_TYPES: dict[OutputFormat, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_DEMUXERS: dict[SoundFormat, str] = {
    "wav": "wav", "mp3": "mp3", "flac": "flac", "ogg": "ogg", "aac": "aac", "webm": "matroska", "mp4": "mov",
}  # fmt: skip
_ENCODERS: dict[OutputFormat, tuple[str, str, int | None, int | None]] = {
    "mp3": ("mp3", "libmp3lame", None, 64_000),
    "opus": ("ogg", "libopus", 48_000, 32_000),
    "aac": ("adts", "aac", None, 64_000),
    "flac": ("flac", "flac", None, None),
    "wav": ("wav", "pcm_s16le", None, None),
}
"""Container, codec, rate (None: as it is made) and bits a second."""
_MAX_BAD_PACKETS = 50


class UnreadableSound(InvalidInput):
    """A file that is no sound, or of a kind that is not decoded here."""

    default_code = "unsupported_media"


class SoundTooLong(InvalidInput):
    default_code = "audio_too_long"


def decoded(data: bytes) -> Iterator[Samples]:
    """The file's first track of sound: blocks of mono samples between -1 and 1, at `HEARING_RATE`.

    Raises `UnreadableSound`, at the first block or in the middle.
    """
    import av

    if not data:
        raise UnreadableSound("the file is empty", param="file")
    name = format_of(data)
    if name is None:
        raise UnreadableSound(
            "the file is in no format that is known here",
            param="file",
            hint="send wav, mp3, flac, ogg (Opus or Vorbis), aac, webm or m4a",
        )
    bad_packets, has_sound = 0, False
    try:
        with av.open(io.BytesIO(data), format=_DEMUXERS[name]) as container:
            track = next(iter(container.streams.audio), None)
            if track is None:
                raise UnreadableSound("there is no sound in the file", param="file")
            resampler = av.AudioResampler(format="flt", layout="mono", rate=HEARING_RATE)
            for packet in container.demux(track):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:  # one that is damaged; a whole file of them is refused
                    bad_packets += 1
                    if bad_packets > _MAX_BAD_PACKETS:
                        raise
                    continue
                for frame in frames:
                    if not MIN_RATE <= frame.sample_rate <= MAX_RATE:
                        raise UnreadableSound(f"it has {frame.sample_rate} samples a second", param="file")
                    for block in _blocks(resampler, frame):
                        has_sound = True
                        yield block
            yield from _blocks(resampler, None)
    except (av.error.FFmpegError, ValueError) as error:
        raise UnreadableSound(f"the {name} file is damaged or cut off: {_words(error)}", param="file") from None
    if not has_sound:
        raise UnreadableSound(f"nothing could be read from the {name} file", param="file")


def measured(data: bytes, most_milliseconds: int, is_cancelled: Callable[[], bool] = lambda: False) -> int:
    """How many milliseconds the file holds, by decoding it. Raises `UnreadableSound`, `SoundTooLong`.

    Cancelled, those counted until then.
    """
    samples = 0
    for block in decoded(data):
        if is_cancelled():
            break
        samples += len(block)
        if samples > most_milliseconds * HEARING_RATE // 1000:
            raise SoundTooLong(
                f"the recording is longer than {most_milliseconds / 1000:g} s", param="file", hint="send it in parts"
            )
    return samples * 1000 // HEARING_RATE


def _blocks(resampler: Any, frame: Any) -> Iterator[Samples]:
    """A frame's samples as they come out of the resampler; None: what is left in it."""
    if frame is None and resampler.format is None:  # nothing was ever put in
        return
    for block in resampler.resample(frame):
        yield block.to_ndarray()[0]


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)[:100]


class Encoder:
    """Writes one file from mono samples as they are made: what `add` and `end` return, one after the other.

    `wav` has its length in its head, so all of it comes at the end.
    """

    def __init__(self, output: OutputFormat, rate: int) -> None:
        import av

        self._av: Any = av
        self._rate = rate
        self._position = 0
        self._resampler: Any = None
        self._container: Any = None
        self._is_whole = output == "wav"
        if output == "pcm":
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=PCM_RATE)
            return
        container, codec, codec_rate, bits_per_second = _ENCODERS[output]
        self._file: io.BytesIO = io.BytesIO() if self._is_whole else _Forward()
        options = {"write_xing": "0"} if output == "mp3" else {}
        self._container = av.open(self._file, "w", format=container, options=options)
        self._stream = self._container.add_stream(codec, rate=codec_rate or rate, layout="mono")
        if bits_per_second is not None:
            self._stream.bit_rate = bits_per_second

    def add(self, samples: Samples) -> bytes:
        """What can be written now, perhaps nothing."""
        whole = np.clip(samples * 32767.0, -32768, 32767).astype(np.int16).reshape(1, -1)
        frame = self._av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
        frame.sample_rate = self._rate
        frame.pts = self._position
        self._position += whole.shape[1]
        if self._container is None:
            return self._resampled(frame)
        self._container.mux(self._stream.encode(frame))
        return b"" if self._is_whole else self._taken()

    def end(self) -> bytes:
        """The rest."""
        if self._container is None:
            return self._resampled(None)
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._taken()

    def _resampled(self, frame: Any) -> bytes:
        return b"".join(block.to_ndarray().tobytes() for block in self._resampler.resample(frame))

    def _taken(self) -> bytes:
        written = self._file.getvalue()
        self._file.seek(0)
        self._file.truncate()
        return written


class _Forward(io.BytesIO):
    """A file that is only ever written forward: a muxer that knows leaves its head as it is."""

    def seekable(self) -> bool:
        return False
