"""Sending mail: one short seam, over SMTP or into a folder."""

import re
import smtplib
import ssl
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Protocol

import msgspec
from anyio import to_thread

from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Unavailable
from cloudcrest.kernel.ids import NewId

SMTP_TIMEOUT_SECONDS = 20
FOLDER_MAILS_MAX = 500


class Mail(msgspec.Struct, frozen=True):
    """A plain-text mail to one person."""

    to: str
    subject: str
    body: str


class Mailer(Protocol):
    """Hands mails on. Raises `Unavailable` where it cannot; the job that sends tries again later."""

    async def send(self, mail: Mail) -> None: ...


class SmtpMailer:
    """Over SMTP, in a thread. `starttls` encrypts and verifies before anything is sent."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        username: str | None,
        password: str | None,
        starttls: bool,
        sender: str,
        clock: Clock,
    ) -> None:
        self._host = host
        self._port = port
        self._username = username
        self._password = password
        self._starttls = starttls
        self._sender = sender
        self._clock = clock

    async def send(self, mail: Mail) -> None:
        message = _message(mail, self._sender, self._clock.now())
        try:
            await to_thread.run_sync(self._send, message)
        except (OSError, smtplib.SMTPException) as error:
            raise Unavailable(f"the mail server {self._host} did not take a mail: {type(error).__name__}") from error

    def _send(self, message: EmailMessage) -> None:
        with smtplib.SMTP(self._host, self._port, timeout=SMTP_TIMEOUT_SECONDS) as server:
            if self._starttls:
                server.starttls(context=ssl.create_default_context())
            if self._username is not None:
                server.login(self._username, self._password or "")
            server.send_message(message)


class FolderMailer:
    """Writes each mail as an .eml file, readable by this user alone: for a laptop, which has no mail server.

    Keeps the newest 500.
    """

    def __init__(self, folder: Path, *, sender: str, clock: Clock, new_id: NewId) -> None:
        self._folder = folder
        self._sender = sender
        self._clock = clock
        self._new_id = new_id

    async def send(self, mail: Mail) -> None:
        message = _message(mail, self._sender, self._clock.now())
        try:
            await to_thread.run_sync(self._write, message)
        except OSError as error:
            raise Unavailable(f"cannot write a mail into {self._folder}: {error.strerror}") from error

    def _write(self, message: EmailMessage) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{self._new_id('mail')}.eml"
        path.touch(mode=0o600)
        path.write_bytes(message.as_bytes())
        for old in sorted(self._folder.glob("mail_*.eml"))[:-FOLDER_MAILS_MAX]:
            old.unlink(missing_ok=True)


def password_reset_mail(to: str, link: str, lifetime_seconds: int) -> Mail:
    """Says how to choose a new password."""
    return Mail(
        to=to,
        subject="Choose a new password for Cloudcrest",
        body=(
            "Someone, hopefully you, asked for a new password for this address.\n\n"
            f"Choose one here within {_duration(lifetime_seconds)}:\n\n{link}\n\n"
            "If it was not you, there is nothing to do: your password stays as it is.\n"
        ),
    )


def verification_mail(to: str, link: str, lifetime_seconds: int) -> Mail:
    """Says how to confirm an address."""
    return Mail(
        to=to,
        subject="Confirm your e-mail address for Cloudcrest",
        body=(
            "Someone, hopefully you, made a Cloudcrest account with this address.\n\n"
            f"Confirm here within {_duration(lifetime_seconds)}, signed in to that account:\n\n{link}\n\n"
            "If it was not you, do not confirm it. You can make the account yours by asking for a new password.\n"
        ),
    )


def invitation_mail(to: str, organization_name: str, role: str, link: str, lifetime_seconds: int) -> Mail:
    """Says who invites to what."""
    name = re.sub(r"\s+", " ", organization_name).strip()
    return Mail(
        to=to,
        subject=f"You are invited to {name} on Cloudcrest",
        body=(
            f"You are invited to the organization {name} as {role}.\n\n"
            f"Accept here within {_duration(lifetime_seconds)}:\n\n{link}\n"
        ),
    )


def _duration(seconds: int) -> str:
    hours = max(1, seconds // 3600)
    if hours >= 48:
        return f"{hours // 24} days"
    return "one hour" if hours == 1 else f"{hours} hours"


def _message(mail: Mail, sender: str, now: datetime) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    message["To"] = mail.to
    message["Subject"] = mail.subject
    message["Date"] = format_datetime(now)
    # As it stands: quoted-printable would break links for who reads the file.
    message.set_content(mail.body, cte="7bit" if mail.body.isascii() else "8bit")
    return message
