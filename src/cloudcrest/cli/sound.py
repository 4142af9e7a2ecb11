"""`speak` and `transcribe`: text as sound in a file, and what a recording says."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from cloudcrest.cli.choose import first_model
from cloudcrest.cli.client import Client
from cloudcrest.cli.connection import inference
from cloudcrest.cli.errors import WrongUsage
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import note, print_json, show_done, show_text
from cloudcrest.kernel.errors import EngineFault
from cloudcrest.kernel.units import format_bytes

SPEECH, TRANSCRIPTIONS = "/v1/audio/speech", "/v1/audio/transcriptions"
TIMEOUT_SECONDS = 1800.0
"""Hours of sound are worked on for minutes before the first word."""
_FORMATS = {
    ".mp3": "mp3",
    ".opus": "opus",
    ".ogg": "opus",
    ".aac": "aac",
    ".flac": "flac",
    ".wav": "wav",
    ".pcm": "pcm",
}


def speak(
    text: Annotated[str | None, Parameter(help="What to say; else from a pipe.")] = None,
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="The file; its suffix says the format.")],
    model: Annotated[str | None, Parameter(help="Which model; else the first for speech.")] = None,
    voice: Annotated[str | None, Parameter(help="Which of the model's voices; else its first.")] = None,
    speed: Annotated[float | None, Parameter(help="From 0.25 to 4; 1: as it is.")] = None,
    options: Options = DEFAULTS,
) -> None:
    """Says a text: writes it to a file as sound, as it is made."""
    shape = _FORMATS.get(output.suffix.lower())
    if shape is None:
        known = ", ".join(_FORMATS)
        raise WrongUsage(f"'{output.name}' ends in no format of sound", hint=f"end it in one of {known}")
    said = text if text is not None else _from_pipe()
    with Client(inference(options), timeout_seconds=TIMEOUT_SECONDS) as cloud:
        given = {"model": model or first_model(cloud, "speech"), "input": said, "voice": voice, "speed": speed}
        body = {name: value for name, value in given.items() if value is not None}
        with cloud.stream(SPEECH, {**body, "response_format": shape}) as response:
            size_bytes = _save(response.iter_bytes(), output)
    done = {"file": str(output), "format": shape, "bytes": size_bytes, "characters": len(said)}
    show_done(done, f"{output}: {format_bytes(size_bytes)}", options.format)


def transcribe(
    file: Path,
    /,
    *,
    model: Annotated[str | None, Parameter(help="Which model; else the first for transcription.")] = None,
    language: Annotated[str | None, Parameter(help="What is spoken, as in en; else what the model knows.")] = None,
    subtitles: Annotated[Literal["srt", "vtt"] | None, Parameter(help="Print subtitles in place of the text.")] = None,
    options: Options = DEFAULTS,
) -> None:
    """Prints what a recording says, as it is heard. With `--format json`: with the times of its segments."""
    if not file.is_file():
        raise WrongUsage(f"there is no file '{file}'")
    fields = {} if language is None else {"language": language}
    with Client(inference(options), timeout_seconds=TIMEOUT_SECONDS) as cloud:
        fields["model"] = model or first_model(cloud, "transcription")
        if sys.stderr.isatty():
            note(f"sends {format_bytes(file.stat().st_size)} to {fields['model']}")
        shape = subtitles or ("verbose_json" if options.format == "json" else None)
        if shape is not None:
            with cloud.stream(TRANSCRIPTIONS, fields={**fields, "response_format": shape}, file=file) as response:
                whole = response.read().decode()
            if subtitles is None:
                print_json(json.loads(whole))
            else:
                show_text(whole)
            return
        with cloud.stream(TRANSCRIPTIONS, fields={**fields, "stream": "true"}, file=file) as response:
            for part in _deltas(response.iter_lines()):
                show_text(part)
        show_text("\n")


def _deltas(lines: Iterator[str]) -> Iterator[str]:
    """The pieces of a transcript. Raises `EngineFault` for an error or an early end."""
    for line in lines:
        if not line.startswith("data:"):
            continue
        event: dict[str, Any] = json.loads(line[5:])
        if "error" in event:
            raise EngineFault(str(event["error"].get("message", "the transcript broke off")), hint="try again")
        if event.get("type") == "transcript.text.delta":
            yield str(event.get("delta", ""))
        elif event.get("type") == "transcript.text.done":
            return
    raise EngineFault("the transcript broke off", hint="try again")


def _save(pieces: Iterator[bytes], output: Path) -> int:
    """Writes the file whole or not at all; returns its size in bytes. Shows how far it is to who watches."""
    partial = output.with_name(f".{output.name}.partial")
    size_bytes = 0
    try:
        with partial.open("wb") as file:
            for piece in pieces:
                file.write(piece)
                size_bytes += len(piece)
                if sys.stderr.isatty():
                    print(f"\r{format_bytes(size_bytes)} ", end="", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            print("\r", end="", file=sys.stderr)
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)
    return size_bytes


def _from_pipe() -> str:
    said = "" if sys.stdin.isatty() else sys.stdin.read().strip()
    if not said:
        raise WrongUsage("there is nothing to say", hint='write for example `cloudcrest speak "Hello." -o hello.mp3`')
    return said
