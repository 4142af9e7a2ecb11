"""What a person sees of `up`: a live line on a terminal, plain lines elsewhere; `cloudcrest logs` has the details."""

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console
from rich.status import Status

from cloudcrest.cli import folders


class Ui(Protocol):
    """Told what goes on."""

    def step(self, text: str) -> None:
        """What is being done now."""
        ...

    def done(self, text: str) -> None:
        """Something that stays on the screen."""
        ...

    def close(self) -> None:
        """Ends the live line."""
        ...


class TerminalUi:
    """One live line that changes, above it what was done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None

    def step(self, text: str) -> None:
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def done(self, text: str) -> None:
        self.close()
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


class PlainUi:
    """A line whenever something changes, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ""

    def step(self, text: str) -> None:
        if text != self._last:
            self._last = text
            self.done(text)

    def done(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more, which is no reason to stop
            self._stream.write(text + "\n")
            self._stream.flush()

    def close(self) -> None:
        return


def make_ui() -> Ui:
    """The one that fits standard output."""
    return TerminalUi(Console()) if sys.stdout.isatty() else PlainUi(sys.stdout)


def welcome(base_url: str, api_key: str, chat_model: str | None, data: str) -> str:
    """What is said once the cloud answers: where it is, the key, and three commands to try."""
    lines = [
        "",
        f"Cloudcrest is ready at {base_url}",
        "",
        f"  key    {api_key}",
        f"  data   {data}",
        f"  docs   {base_url}/api/v1/docs",
        "",
    ]
    if chat_model is None:
        made = f"{command()} deployments create MODEL"
        lines += [f"No models are deployed yet: `{command()} models list`, then `{made}`.", ""]
    else:
        lines += ["Try, from another terminal:", "", *_examples(base_url, api_key, chat_model, data), ""]
    lines.append("Ctrl-C stops it.")
    return "\n".join(lines)


def command() -> str:
    """How to call the command line from here: by its name where the shell finds it, else by its place."""
    if shutil.which("cloudcrest") is not None:
        return "cloudcrest"
    place = Path(sys.executable).parent / "cloudcrest"
    return str(place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place)


def data_flag(data: str) -> str:
    """What a command line needs to find a data folder: nothing for the user's own."""
    default = folders.data_folder(
        None, {name: value for name, value in os.environ.items() if name != "CLOUDCREST_DATA"}
    )
    return "" if Path(data) == default else f" --data {shlex.quote(data)}"


def _examples(base_url: str, api_key: str, model: str, data: str) -> Sequence[str]:
    place = data_flag(data)
    message = '{"role": "user", "content": "What is a cloud?"}'
    return (
        f"  curl {base_url}/v1/chat/completions -H 'Authorization: Bearer {api_key}' \\",
        f'    -H \'Content-Type: application/json\' -d \'{{"model": "{model}", "messages": [{message}]}}\'',
        "",
        "  # with `pip install openai`",
        f"  OPENAI_BASE_URL={base_url}/v1 OPENAI_API_KEY={api_key} python -c \\",
        f'    \'import openai; print(openai.OpenAI().chat.completions.create(model="{model}",'
        f" messages=[{message}]).choices[0].message.content)'",
        "",
        f'  {command()} chat "What is a cloud?"{place}',
    )
