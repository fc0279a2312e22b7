"""Ed25519 signatures of updates: keys from PEM files, and section 5 of `docs/formats/eard.md`.

Needs the extra `[sign]`, and only when a key is used. Knows nothing of what is signed but its hash.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from earshot.core.errors import MissingExtraError, ModelUpdateError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

_CONTEXT = b"earshot .eard version 1\n"
_MAX_KEY_BYTES = 1 << 16
_MAKE_PRIVATE = "Make one with `openssl genpkey -algorithm ed25519 -out key.pem`"
_MAKE_PUBLIC = "Take it from the private key with `openssl pkey -in key.pem -pubout -out pub.pem`"


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Read the key that signs.

    Args:
        path: PEM file of an Ed25519 private key without a password.

    Returns:
        The key.

    Raises:
        MissingExtraError: The package cryptography is not installed.
        ModelUpdateError: The file holds no such key.
        OSError: The file cannot be read.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ModuleNotFoundError:
        raise _missing() from None

    try:
        key = load_pem_private_key(_pem(path), None)
    except TypeError:
        raise ModelUpdateError(
            path,
            "the key is protected by a password",
            remedy="Write it without with `openssl pkey -in KEY.pem -out key.pem`",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ModelUpdateError(
            path, "this is no private key in PEM form", remedy=_MAKE_PRIVATE
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ModelUpdateError(path, "the key is not of kind Ed25519", remedy=_MAKE_PRIVATE)
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Read the key that a signature is checked with.

    Args:
        path: PEM file of an Ed25519 public key.

    Returns:
        The key.

    Raises:
        MissingExtraError: The package cryptography is not installed.
        ModelUpdateError: The file holds no such key.
        OSError: The file cannot be read.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ModuleNotFoundError:
        raise _missing() from None

    try:
        key = load_pem_public_key(_pem(path))
    except (ValueError, UnsupportedAlgorithm):
        raise ModelUpdateError(
            path, "this is no public key in PEM form", remedy=_MAKE_PUBLIC
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ModelUpdateError(path, "the key is not of kind Ed25519", remedy=_MAKE_PUBLIC)
    return key


def signature_of(check: bytes, *, key: Ed25519PrivateKey) -> bytes:
    """Sign an update.

    Args:
        check: SHA-256 of its bytes.
        key: The key that signs.

    Returns:
        64 bytes.
    """
    return key.sign(_CONTEXT + check)


def is_signed_by(key: Ed25519PublicKey, check: bytes, *, signature: bytes) -> bool:
    """Whether a signature is that of a key.

    Args:
        key: Whose signature it must be.
        check: SHA-256 of the update's bytes.
        signature: 64 bytes.
    """
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, _CONTEXT + check)
    except InvalidSignature:
        return False
    return True


def _pem(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_KEY_BYTES)


def _missing() -> MissingExtraError:
    return MissingExtraError("signatures of updates", package="cryptography", extra="sign")
