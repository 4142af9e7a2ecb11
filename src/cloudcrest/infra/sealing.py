"""Secrets that must be read again (upstream keys, kept answers) are stored sealed with the cloud's master key."""

from cryptography.fernet import Fernet, InvalidToken

from cloudcrest.kernel.errors import SetupError


class Sealer:
    """Seals and opens short texts (Fernet: AES-128-CBC with HMAC-SHA256).

    `master_key` is 32 bytes in URL-safe base64.
    """

    def __init__(self, master_key: str) -> None:
        try:
            self._fernet = Fernet(master_key)
        except ValueError as error:
            raise SetupError(
                "the master key is not 32 bytes in URL-safe base64", hint="restore secrets.json in the data folder"
            ) from error

    @staticmethod
    def new_master_key() -> str:
        """A fresh master key."""
        return Fernet.generate_key().decode()

    def seal(self, text: str) -> str:
        """The text, unreadable and tamper-proof without the master key."""
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """The text again. Raises `SetupError` when it was sealed with another master key, or altered."""
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken:
            raise SetupError(
                "a stored secret was sealed with another master key",
                hint="restore the secrets.json that belongs to this database, or enter the secret again",
            ) from None
