"""What of the engines for sound needs no weights: cutting at silences, transcripts, texts in pieces, tokens."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from cloudcrest.serving.engines.moonshine_model import read_tokenizer
from cloudcrest.serving.engines.piper_server import MAX_PIECE_CHARACTERS, pieces_of
from cloudcrest.serving.engines.silences import MAX_SECONDS, Cutter, Piece
from cloudcrest.serving.engines.sound import HEARING_RATE, Samples
from cloudcrest.serving.engines.transcripts import Segment, Transcript, TranscriptFormat

SEGMENTS = [
    Segment(0.5, 3.25, "Well then.", (1, 2), -0.1),
    Segment(3_725.0, 3_726.5, "Good night.", (3,), -0.2),
]


def speech(seconds: float, loudness: float = 0.3) -> Samples:
    time = np.arange(int(seconds * HEARING_RATE)) / HEARING_RATE
    return (loudness * np.sin(2 * np.pi * 220 * time)).astype(np.float32)


def pause(seconds: float) -> Samples:
    return np.zeros(int(seconds * HEARING_RATE), np.float32)


def pieces(sound: Samples, block: int = 1_000) -> list[Piece]:
    cutter = Cutter()
    found = [piece for at in range(0, len(sound), block) for piece in cutter.add(sound[at : at + block])]
    return [*found, *cutter.end()]


@pytest.mark.parametrize("block", [1_000, 10**7])
def test_speech_is_cut_at_its_pauses_and_keeps_its_times(block: int) -> None:
    sound = np.concatenate([pause(2), speech(4), pause(1), speech(5), pause(3), speech(3.5)])
    found = pieces(sound, block)
    starts = [piece.start / HEARING_RATE for piece in found]
    ends = [piece.end / HEARING_RATE for piece in found]
    assert starts == pytest.approx([2.0, 7.0, 15.0], abs=0.25)
    assert ends == pytest.approx([6.0, 12.0, 18.5], abs=0.25)
    for piece in found:
        assert np.array_equal(piece.samples, sound[piece.start : piece.end])


def test_speech_without_a_pause_is_cut_where_it_is_quietest() -> None:
    sound = np.concatenate([speech(15), speech(0.3, 0.05), speech(20)])
    found = pieces(sound)
    assert all(len(piece.samples) <= MAX_SECONDS * HEARING_RATE for piece in found)
    assert found[0].end / HEARING_RATE == pytest.approx(15.15, abs=0.2)
    assert sum(len(piece.samples) for piece in found) >= len(sound) - HEARING_RATE // 4


def test_silence_and_what_is_far_below_speech_is_no_speech() -> None:
    assert pieces(pause(50)) == []
    assert pieces(np.zeros(0, np.float32)) == []
    [only] = pieces(np.concatenate([speech(4), pause(1), speech(0.3, 0.005), pause(1)]))
    assert only.end / HEARING_RATE == pytest.approx(4, abs=0.25)
    assert len(pieces(speech(0.01))) == 1


def test_transcripts_have_the_shapes_that_are_asked_for() -> None:
    def made(shape: TranscriptFormat, segments: Sequence[Segment] = SEGMENTS) -> str:
        written = Transcript(shape, "english")
        pieces = [written.begin(), *(written.add(segment) for segment in segments), written.end(3_800_001)]
        return b"".join(pieces).decode()

    assert made("text") == "Well then. Good night.\n"
    assert made("srt").startswith("1\n00:00:00,500 --> 00:00:03,250\nWell then.\n\n2\n01:02:05,000 --> 01:02:06,500\n")
    assert made("vtt").startswith("WEBVTT\n\n00:00:00.500 --> 00:00:03.250\nWell then.\n\n01:02:05.000")
    assert json.loads(made("json"))["usage"] == {"type": "duration", "seconds": 3801}
    verbose = json.loads(made("verbose_json"))
    assert verbose["duration"] == 3800.001
    assert verbose["segments"][1]["text"] == "Good night."
    assert "no_speech_prob" not in verbose["segments"][0]
    assert json.loads(made("json", []))["text"] == ""


def test_a_text_is_spoken_sentence_by_sentence_and_long_ones_in_parts() -> None:
    assert pieces_of("One. Two!  Three?\nFour") == ["One.", "Two!", "Three?", "Four"]
    assert pieces_of("Version 3.5 is out.") == ["Version 3.5 is out."]
    assert pieces_of(" \n ") == []
    long = "word " * 300
    parts = pieces_of(long)
    assert " ".join(parts) == long.strip()
    assert max(map(len, parts)) <= MAX_PIECE_CHARACTERS
    assert pieces_of("x" * 500) == ["x" * 200, "x" * 200, "x" * 100]


def test_a_tokenizer_is_read_with_lengths_of_one_and_two_bytes() -> None:
    long = b"y" * 300
    data = b"\x02ab" + b"\x00" + bytes([128 + 300 % 128, 300 // 128]) + long
    assert read_tokenizer(data) == [b"ab", b"", long]
