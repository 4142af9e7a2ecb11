"""Secrets that must be read again (upstream keys, kept answers) are stored sealed with the cloud's master key."""

import base64
import json

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloudcrest.kernel.errors import SetupError

_BOUND = "bound1."
_KEY_BYTES = 32


class Sealer:
    """Seals and opens short texts (Fernet: AES-128-CBC with HMAC-SHA256).

    `master_key` is 32 bytes in URL-safe base64. What is bound to words (what it is, whose it is) is sealed with a key
    that is derived from the master key and these words (HKDF-SHA256), so that it opens in its own place alone.
    """

    def __init__(self, master_key: str) -> None:
        try:
            self._fernet = Fernet(master_key)
        except ValueError as error:
            raise SetupError(
                "the master key is not 32 bytes in URL-safe base64", hint="restore secrets.json in the data folder"
            ) from error
        self._master_key = base64.urlsafe_b64decode(master_key)

    @staticmethod
    def new_master_key() -> str:
        """A fresh master key."""
        return Fernet.generate_key().decode()

    @staticmethod
    def is_bound(sealed: str) -> bool:
        """Whether it was sealed with words that it is bound to."""
        return sealed.startswith(_BOUND)

    def seal(self, text: str, bound_to: tuple[str, ...] = ()) -> str:
        """The text, unreadable and tamper-proof without the master key, and without the same words."""
        if not bound_to:
            return self._fernet.encrypt(text.encode()).decode()
        return _BOUND + self._bound(bound_to).encrypt(text.encode()).decode()

    def open(self, sealed: str, bound_to: tuple[str, ...] = ()) -> str:
        """The text again. What was sealed without words opens with any: so it was before there were words.

        Raises `SetupError` when it was sealed with another master key, with other words, or altered.
        """
        is_bound = self.is_bound(sealed)
        fernet = self._bound(bound_to) if is_bound else self._fernet
        try:
            return fernet.decrypt(sealed.removeprefix(_BOUND)).decode()
        except InvalidToken:
            raise SetupError(
                "a stored secret was sealed with another master key" + (", or for another place" if is_bound else ""),
                hint="restore the secrets.json that belongs to this database, or enter the secret again",
            ) from None

    def _bound(self, words: tuple[str, ...]) -> Fernet:
        derived = HKDF(SHA256(), _KEY_BYTES, salt=None, info=json.dumps(words).encode()).derive(self._master_key)
        return Fernet(base64.urlsafe_b64encode(derived))
