"""API tokens: who is let in. Knows the file of tokens; knows nothing of requests.

A token is kept and compared as its SHA-256, and every one is compared every time, so that the
time an answer takes says nothing about how much of a guess was right.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from earshot.core.errors import ConfigError

_HASHED = re.compile(r"sha256:([0-9a-f]{64})", re.IGNORECASE)
SHORT_TOKEN_CHARS = 16  # shorter ones can be guessed; they are allowed, and said to be short


class Tokens:
    """The tokens that open a server.

    Args:
        digests: SHA-256 of each, 32 bytes.
        num_short: How many were written down in plain and are shorter than they should be.
    """

    def __init__(self, digests: Iterable[bytes], *, num_short: int = 0) -> None:
        self._digests = tuple(digests)
        self.num_short = num_short

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Read a file of tokens.

        Args:
            path: One token a line, in plain or as `sha256:` and 64 hexadecimal digits; empty lines
                and lines that start with `#` do not count.

        Returns:
            The tokens.

        Raises:
            ConfigError: The file cannot be read, holds none, or one has white space in it.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as err:
            raise ConfigError(
                f"{path}: the token file cannot be read ({err.strerror}). Check the path and its "
                "permissions."
            ) from None
        except UnicodeDecodeError:
            raise ConfigError(
                f"{path}: the token file is not text. Write one token a line."
            ) from None
        digests, num_short = [], 0
        for number, line in enumerate(lines, start=1):
            token = line.strip()
            if not token or token.startswith("#"):
                continue
            if len(token.split()) > 1:
                raise ConfigError(
                    f"{path}:{number}: there is white space inside the token. Write one token a "
                    "line, and comments on lines that start with #."
                )
            if hashed := _HASHED.fullmatch(token):
                digests.append(bytes.fromhex(hashed[1]))
                continue
            if token.lower().startswith("sha256:"):
                raise ConfigError(
                    f"{path}:{number}: a hashed token needs 64 hexadecimal digits after sha256:, "
                    f"here are {len(token) - 7} characters. Make one with `printf %s TOKEN | "
                    "sha256sum`."
                )
            num_short += len(token) < SHORT_TOKEN_CHARS
            digests.append(_digest(token))
        if not digests:
            raise ConfigError(
                f"{path}: there is no token in it. Write one a line, such as the output of "
                "`openssl rand -hex 32`."
            )
        return cls(digests, num_short=num_short)

    def __len__(self) -> int:
        return len(self._digests)

    def owner(self, token: str | None) -> str | None:
        """Whose token this is.

        Args:
            token: What the client sent.

        Returns:
            A name for the token that does not give it away, or None where it is none of them.
        """
        digest = _digest(token or "")
        found: str | None = None
        for number, known in enumerate(self._digests):
            if hmac.compare_digest(digest, known):  # all of them, also after a hit
                found = f"token-{number}"
        return found if token else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
