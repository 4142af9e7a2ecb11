"""Passwords, tokens, documents and mails."""

import asyncio
import smtplib
from datetime import timedelta
from email import message_from_bytes
from pathlib import Path

import msgspec
import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from cloudcrest.identity import tokens
from cloudcrest.identity.api import Limits
from cloudcrest.identity.documents import key_document
from cloudcrest.identity.mail import FolderMailer, Mail, SmtpMailer, invitation_mail, password_reset_mail
from cloudcrest.identity.passwords import Passwords
from cloudcrest.identity.records import ApiKey
from cloudcrest.identity.service.accounts import check_password
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.errors import InvalidInput, Unavailable
from cloudcrest.kernel.ids import id_maker


class CountingHasher(Argon2Hasher):
    """Cheap parameters; counts what it verifies."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified = 0

    def verify(self, password: str | bytes, hash: str | bytes) -> bool:  # noqa: A002 - the interface
        self.verified += 1
        return super().verify(password, hash)


@pytest.mark.anyio
async def test_an_unknown_account_costs_what_a_wrong_password_costs() -> None:
    hasher = CountingHasher()
    passwords = Passwords(PasswordHash((hasher,)))
    kept = await passwords.hash("three unrelated words")
    assert kept.startswith("$argon2id$")
    assert await passwords.verify("three unrelated words", kept)
    assert not await passwords.verify("wrong", kept)
    assert hasher.verified == 2
    assert not await passwords.verify("nobody has this password", None)
    assert hasher.verified == 3


@pytest.mark.parametrize("password", ["ababababab", "ada@example.com", "ADA@example.com"])
def test_easy_passwords_are_refused(password: str) -> None:
    with pytest.raises(InvalidInput):
        check_password(password, "ada@example.com")


def test_tokens() -> None:
    secret = tokens.new_secret()
    assert len(secret) == 43
    assert secret != tokens.new_secret()
    assert tokens.sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert tokens.csrf_token(secret) not in (secret, tokens.sha256_hex(secret))
    assert tokens.same("é", "é")
    assert not tokens.same("a", "b")
    assert tokens.shown_prefix("sk-cc-abcdefghij") == "sk-cc-abcdef"


def test_key_document_holds_no_secret_and_none_once_revoked(clock: ManualClock) -> None:
    key = ApiKey(
        id="key_a",
        organization_id="org_a",
        project_id="proj_a",
        created_by="user_a",
        name="a key",
        prefix="sk-cc-abcdef",
        key_sha256="0" * 64,
        scopes=("inference",),
        models=("m",),
        labels={},
        limits=Limits(requests_per_minute=3),
        organization_wide=False,
        is_operator=False,
        created_at=clock.now(),
        expires_at=clock.now() + timedelta(seconds=1.5),
        revoked_at=None,
    )
    document = key_document(key)
    assert document is not None
    assert document.expires_at_unix_seconds == int(clock.now().timestamp()) + 1
    assert "prefix" not in msgspec.to_builtins(document)
    assert key_document(msgspec.structs.replace(key, revoked_at=clock.now())) is None


@pytest.mark.anyio
async def test_folder_mailer_writes_private_files_and_keeps_the_newest(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudcrest.identity.mail.FOLDER_MAILS_MAX", 5)
    folder = tmp_path / "mail"
    into_folder = FolderMailer(folder, sender="Cloudcrest <no-reply@localhost>", clock=clock, new_id=id_maker(clock))
    for number in range(7):
        clock.advance(1)
        await into_folder.send(Mail(to="ada@example.com", subject=f"Grüße {number}", body="Wörter\n"))
    files = sorted(folder.iterdir())
    assert len(files) == 5
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    newest = message_from_bytes(files[-1].read_bytes())
    assert newest["To"] == "ada@example.com"
    payload = newest.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.decode() == "Wörter\n"


@pytest.mark.anyio
async def test_links_in_written_mails_can_be_copied(tmp_path: Path, clock: ManualClock) -> None:
    """Whoever opens the file with an editor gets the whole link: no line breaks or escapes in it."""
    folder = tmp_path / "mail"
    into_folder = FolderMailer(folder, sender="Cloudcrest <no-reply@localhost>", clock=clock, new_id=id_maker(clock))
    link = f"https://cloud.example.com/invitations#token={'x' * 43}"
    for name in ("Research", "Forschung für Übermorgen"):
        await into_folder.send(invitation_mail("ada@example.com", name, "viewer", link, 3600))
    written = [file.read_text() for file in sorted(folder.iterdir())]
    assert [link in text.splitlines() for text in written] == [True, True]


@pytest.mark.anyio
async def test_smtp_mailer_speaks_to_a_server(clock: ManualClock) -> None:
    heard: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers = {"EHLO": "250 hello", "MAIL": "250 ok", "RCPT": "250 ok", "DATA": "354 go on", "QUIT": "221 bye"}
        writer.write(b"220 test\r\n")
        in_data = False
        async for raw in reader:
            line = raw.decode().rstrip("\r\n")
            heard.append(line)
            if in_data and line == ".":
                in_data = False
                writer.write(b"250 taken\r\n")
            elif not in_data:
                verb = line[:4].upper()
                in_data = verb == "DATA"
                writer.write(answers[verb].encode() + b"\r\n")
                if verb == "QUIT":
                    break
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    over_smtp = SmtpMailer(
        host="127.0.0.1",
        port=server.sockets[0].getsockname()[1],
        username=None,
        password=None,
        starttls=False,
        sender="Cloudcrest <no-reply@cloud.example>",
        clock=clock,
    )
    async with server:
        await over_smtp.send(Mail(to="ada@example.com", subject="s", body="choose a password\n"))
    commands = " ".join(heard).lower()  # how they are written differs between versions of Python
    assert "mail from:<no-reply@cloud.example>" in commands
    assert "rcpt to:<ada@example.com>" in commands
    assert "choose a password" in heard


@pytest.mark.anyio
async def test_mail_server_that_is_away_is_unavailable(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(smtplib, "SMTP", refuse)
    over_smtp = SmtpMailer(
        host="mail.example.com",
        port=587,
        username=None,
        password=None,
        starttls=True,
        sender="a@example.com",
        clock=clock,
    )
    with pytest.raises(Unavailable, match=r"mail\.example\.com"):
        await over_smtp.send(Mail(to="ada@example.com", subject="s", body="b"))


def test_mails_say_what_to_do() -> None:
    reset = password_reset_mail("ada@example.com", "https://c.example/x#token=t", 3600)
    assert "one hour" in reset.body
    assert "https://c.example/x#token=t" in reset.body
    invitation = invitation_mail("ada@example.com", "Evil\r\nBcc: x", "viewer", "https://c.example/", 7 * 24 * 3600)
    assert "\n" not in invitation.subject
    assert "\r" not in invitation.subject
    assert "7 days" in invitation.body
