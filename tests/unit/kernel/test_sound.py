"""Files of sound by their heads."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.kernel.sound import (
    MARGIN_MILLISECONDS,
    MAX_MILLISECONDS,
    format_of,
    least_milliseconds,
    most_milliseconds,
)
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
    assert 3000 <= most_milliseconds(data) - MARGIN_MILLISECONDS <= 3010
    assert least_milliseconds(data) == most_milliseconds(data) - MARGIN_MILLISECONDS
    at = data.index(b"data") + 4
    assert most_milliseconds(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]) == most_milliseconds(data)
    assert most_milliseconds(data[:30]) == 60


def test_a_flac_and_an_opus_file_say_how_long_they_are() -> None:
    streaminfo = struct.pack(">HH", 4096, 4096) + bytes(6) + (48_000 << 44 | 1 << 41 | 15 << 36 | 96_000).to_bytes(8)
    flac = b"fLaC" + bytes([0x80, 0, 0, 34]) + streaminfo + bytes(16)
    assert most_milliseconds(flac) == 2_000 + MARGIN_MILLISECONDS
    assert most_milliseconds(flac[:20]) == 40
    assert most_milliseconds(ogg_opus(48_000 * 5)) == 5_000 + MARGIN_MILLISECONDS
    assert most_milliseconds(ogg_opus(-1)) == 2 * len(ogg_opus(-1))
    vorbis = b"OggS\x00\x02" + bytes(22) + b"\x01vorbis" + bytes(5) + (44_100).to_bytes(4, "little") + bytes(14)
    assert most_milliseconds(vorbis + b"OggS\x00\x04" + (44_100 * 3).to_bytes(8, "little") + bytes(13)) == 3_100


@pytest.mark.parametrize(("second", "third", "expected"), [(0xFB, 0x90, 26_123), (0xF3, 0x84, 24_000)])
def test_an_mp3_says_how_many_frames_it_has(second: int, third: int, expected: int) -> None:
    frame = bytes([0xFF, second, third, 0]) + bytes(32) + b"Xing" + (1).to_bytes(4) + (1_000).to_bytes(4) + bytes(400)
    tag = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)
    assert most_milliseconds(tag + frame) == most_milliseconds(frame) == expected + MARGIN_MILLISECONDS
    unknown = frame.replace(b"Xing", b"Data")
    assert most_milliseconds(unknown) == 2 * len(unknown)


def test_a_length_that_so_many_bytes_do_not_have_is_not_believed() -> None:
    first, last = ogg_opus(48_000).rsplit(b"OggS", 1)
    long = first + bytes(200_000) + b"OggS" + last
    assert most_milliseconds(long) == 2 * len(long)


def test_what_does_not_say_is_as_long_as_can_be_and_no_shorter_than_its_bytes() -> None:
    mp3 = b"ID3" + bytes(400_000)
    assert most_milliseconds(mp3) == 800_006
    assert most_milliseconds(mp3 * 10) == MAX_MILLISECONDS
    assert least_milliseconds(mp3) == 10_000
    assert least_milliseconds(wav(1.0) + bytes(10**7)) <= MAX_MILLISECONDS


@given(
    st.sampled_from(
        [b"RIFF\0\0\0\0WAVEfmt ", b"fLaC", b"OggS\0\x02OpusHead", b"OggS\x01vorbis", b"ID3", b"\xff\xfbXing"]
    ),
    st.binary(max_size=200),
)
def test_no_head_is_too_strange(magic: bytes, rest: bytes) -> None:
    assert 0 <= least_milliseconds(magic + rest) <= MAX_MILLISECONDS
    assert 0 < most_milliseconds(magic + rest) <= MAX_MILLISECONDS
