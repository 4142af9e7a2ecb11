"""Cutting speech at its pauses: what is recognised at once is a few seconds long, whatever the recording is. Pure."""

from collections.abc import Iterator

import msgspec
import numpy as np

from cloudcrest.serving.engines.sound import HEARING_RATE, Samples

FRAME_SAMPLES = HEARING_RATE // 50
MIN_SECONDS, MAX_SECONDS = 3.0, 20.0
"""A piece is cut at its first pause after the least, and at its quietest place before the most."""
_PAUSE_FRAMES = 18
"""0.36 s."""
_BELOW_SPEECH = 0.06
"""A pause is below this part of the loudest in the piece: about 24 dB."""
_SILENCE = 0.002
"""What is nowhere louder than this is silence: -54 dB."""
_FAR_BELOW = 0.03
"""A piece that is nowhere louder than this part of the loudest before is a breath or a chair: about 30 dB."""
_MARGIN_FRAMES = 8


class Piece(msgspec.Struct, frozen=True):
    """Speech between two cuts, without the silence around it. `start` and `end` are samples of the recording."""

    start: int
    end: int
    samples: Samples


class Cutter:
    """Takes a recording block by block and gives its pieces. Holds `MAX_SECONDS` of it and a block."""

    def __init__(self) -> None:
        self._held: Samples = np.zeros(0, np.float32)
        self._position = 0
        self._loudest = 0.0

    def add(self, block: Samples) -> Iterator[Piece]:
        """The pieces that are whole now."""
        self._held = np.concatenate((self._held, block))
        most = int(MAX_SECONDS * HEARING_RATE)
        while len(self._held) >= most:
            yield from self._take(_cut(self._held[:most]))

    def end(self) -> Iterator[Piece]:
        """The rest, cut at its pauses too."""
        while len(self._held):
            yield from self._take(_cut(self._held))

    def _take(self, size: int) -> Iterator[Piece]:
        samples, start = self._held[:size], self._position
        self._held = self._held[size:]
        self._position += size
        loudness = _loudness(samples)
        most = float(loudness.max(initial=0.0))
        self._loudest = max(self._loudest, most)
        if most <= max(_SILENCE, self._loudest * _FAR_BELOW):
            return
        loud = np.flatnonzero(loudness > max(_SILENCE, most * _BELOW_SPEECH))
        first = max(0, int(loud[0]) - _MARGIN_FRAMES) * FRAME_SAMPLES
        last = min(len(samples), (int(loud[-1]) + 1 + _MARGIN_FRAMES) * FRAME_SAMPLES)
        yield Piece(start + first, start + last, samples[first:last])


def _cut(samples: Samples) -> int:
    """Where the first piece ends, in samples: all of it where it is short and has no pause."""
    loudness = _loudness(samples)
    least = int(MIN_SECONDS * HEARING_RATE) // FRAME_SAMPLES
    quiet = loudness < max(_SILENCE, float(loudness.max(initial=0.0)) * _BELOW_SPEECH)
    run = 0
    for index, is_quiet in enumerate(quiet):
        run = run + 1 if is_quiet else 0
        if run == _PAUSE_FRAMES and index - run // 2 >= least:
            return (index - run // 2) * FRAME_SAMPLES
    if len(samples) < int(MAX_SECONDS * HEARING_RATE):
        return len(samples)
    width = _PAUSE_FRAMES // 2
    smooth = np.convolve(loudness[least:], np.ones(width) / width, mode="valid")
    return (least + int(smooth.argmin()) + width // 2) * FRAME_SAMPLES


def _loudness(samples: Samples) -> Samples:
    """The root mean square of each frame; what does not fill one at the end belongs to the last."""
    frames = len(samples) // FRAME_SAMPLES
    if frames == 0:
        return np.sqrt(np.mean(np.square(samples), keepdims=True)) if len(samples) else np.zeros(0, np.float32)
    whole = samples[: frames * FRAME_SAMPLES].reshape(frames, FRAME_SAMPLES)
    loudness: Samples = np.sqrt(np.mean(np.square(whole), axis=1))
    return loudness
