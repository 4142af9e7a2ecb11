"""Files of sound by their heads."""

import struct

import pytest

from cloudcrest.kernel.sound import MAX_MILLISECONDS, format_of, least_milliseconds, most_milliseconds
from tests.support.sound_files import ogg_opus, wav


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "wav"),
        (b"RIFF\x00\x00\x00\x00AVI fmt ", None),
        (b"fLaC\x00\x00\x00\x22", "flac"),
        (b"OggS\x00\x02", "ogg"),
        (b"ID3\x04\x00", "mp3"),
        (b"\xff\xfb\x90\x00", "mp3"),
        (b"\xff\xf1\x50\x80", "aac"),
        (b"\x1aE\xdf\xa3\x9f", "webm"),
        (b"\x00\x00\x00\x20ftypM4A ", "mp4"),
        (b"%PDF-1.7", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_a_format_is_known_by_its_first_bytes(head: bytes, expected: str | None) -> None:
    assert format_of(head) == expected


def test_a_wav_is_as_long_as_its_bytes_say_whatever_its_head_does() -> None:
    data = wav(3.0)
    assert 3000 <= most_milliseconds(data) <= 3010
    assert least_milliseconds(data) == most_milliseconds(data)
    at = data.index(b"data") + 4
    assert most_milliseconds(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]) == most_milliseconds(data)
    assert most_milliseconds(data[:30]) == MAX_MILLISECONDS


def test_a_flac_and_an_opus_file_say_how_long_they_are() -> None:
    streaminfo = struct.pack(">HH", 4096, 4096) + bytes(6) + (48_000 << 44 | 1 << 41 | 15 << 36 | 96_000).to_bytes(8)
    flac = b"fLaC" + bytes([0x80, 0, 0, 34]) + streaminfo + bytes(16)
    assert most_milliseconds(flac) == 2_000
    assert most_milliseconds(flac[:20]) == MAX_MILLISECONDS
    assert most_milliseconds(ogg_opus(48_000 * 5)) == 5_000
    assert most_milliseconds(ogg_opus(-1)) == MAX_MILLISECONDS


def test_what_does_not_say_is_as_long_as_can_be_and_no_shorter_than_its_bytes() -> None:
    mp3 = b"ID3" + bytes(400_000)
    assert most_milliseconds(mp3) == MAX_MILLISECONDS
    assert least_milliseconds(mp3) == 10_000
    assert least_milliseconds(wav(1.0) + bytes(10**7)) <= MAX_MILLISECONDS
