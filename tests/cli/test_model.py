"""`earshot model`: reports on sound files, one line for every other kind."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from earshot.modelfile.codecs import encode_sparse, encode_u8
from earshot.modelfile.writer import write_model
from earshot.session.recognizer import embedded_model_path
from tests.tiny_model import write_tiny_model

Earshot = Callable[..., Result]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The embedded model with one byte of a weight changed."""
    data = bytearray(embedded_model_path().read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "broken.ear"
    path.write_bytes(data)
    return path


def test_the_embedded_model_is_sound(earshot: Earshot) -> None:
    result = earshot("model", "verify")
    assert result.exit_code == 0
    assert "sound" in result.stdout
    assert embedded_model_path().stat().st_size <= 4_000_000


def test_verify_checks_every_file(earshot: Earshot, broken: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.ear"
    result = earshot("model", "verify", broken, missing, embedded_model_path())
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {broken}: ")
    assert second.startswith(f"error: {missing}: ")
    assert result.stdout.startswith(f"{embedded_model_path()}: sound")


def test_verify_json_has_an_object_for_every_file(earshot: Earshot, broken: Path) -> None:
    result = earshot("model", "verify", "--json", broken, embedded_model_path())
    assert result.exit_code == 1
    bad, good = map(json.loads, result.stdout.splitlines())
    assert bad["sound"] is False
    assert str(broken) in bad["error"]
    assert good["sound"] is True
    assert good["size_bytes"] == embedded_model_path().stat().st_size


def test_inspect_shows_graphs_and_the_card(earshot: Earshot) -> None:
    summary = json.loads(earshot("model", "inspect", "--json").stdout)
    assert {"encoder", "predictor", "joiner"} <= set(summary["graphs"])
    text = earshot("model", "inspect", "--tensors").stdout
    for name in summary["graphs"]:
        assert name in text
    assert all(tensor["name"].split(".")[0] in text for tensor in summary["tensors"])
    assert "licence" in summary["metadata"]


def test_inspect_counts_bits_and_zeros(earshot: Earshot, tmp_path: Path) -> None:
    weights = np.ones((32, 64), np.float32)
    weights[:16, 16:] = 0
    node = {"op": "linear", "in": ["x"], "out": "y1", "tensors": {"weight": "w"}}
    path = tmp_path / "sparse.ear"
    write_model(
        path,
        name="sparse",
        graphs={"net": {"inputs": ["x"], "outputs": ["y1"], "nodes": [node]}},
        tensors={"w": encode_sparse(weights, block=(16, 4), bits=8), "t": encode_u8(b"text")},
    )
    summary = json.loads(earshot("model", "inspect", "--json", path).stdout)
    # 16 + 64 columns of 16 bytes, two masks of 8 bytes and 32 scales of 2: 1360, at 64 bytes.
    assert summary["version"] == 2
    assert [tensor["bytes"] for tensor in summary["tensors"]] == [128 + 1280, 4]
    matrix, text = summary["tensors"]
    assert (matrix["bits_per_weight"], matrix["zeros"]) == (8 * 1408 / 2048, 0.375)
    assert (text["bits_per_weight"], text["zeros"]) == (None, None)
    assert summary["weights"] == {"count": 2048, "bits_per_weight": 5.5, "zeros": 0.375}
    shown = earshot("model", "inspect", "--tensors", path).stdout
    assert "2,048 weights, 5.50 bits each, 37.5% of them zero" in shown


@pytest.mark.parametrize("command", [("model", "inspect"), ("transcribe", "a.wav", "--model")])
def test_not_a_model_is_one_line(
    earshot: Earshot, tmp_path: Path, command: tuple[str, ...]
) -> None:
    audio = tmp_path / "sound.ear"
    audio.write_bytes(b"RIFF" + bytes(100))
    for path in (audio, tmp_path / "missing.ear", tmp_path):
        result = earshot(*command, path)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {path}: ")
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""


@pytest.fixture
def two_models(tmp_path: Path) -> tuple[Path, Path]:
    """An old model and a new one."""
    return (
        write_tiny_model(tmp_path / "old.ear"),
        write_tiny_model(tmp_path / "new.ear", seed=7),
    )


def test_an_update_goes_there_and_back(
    earshot: Earshot, tmp_path: Path, two_models: tuple[Path, Path]
) -> None:
    old, new = two_models
    update, made = tmp_path / "u.eard", tmp_path / "made.ear"
    report = json.loads(earshot("model", "diff", old, new, "--output", update, "--json").stdout)
    assert report["size_bytes"] == update.stat().st_size
    assert report["share"] == report["size_bytes"] / new.stat().st_size
    assert report["changed_blocks"] == sum(row["changed_blocks"] for row in report["tensors"]) > 0
    assert not report["signed"] and report["output"] == str(update)
    result = earshot("model", "patch", old, update, "--output", made, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "output": str(made),
        "size_bytes": new.stat().st_size,
        "sha256": report["result"]["sha256"],
        "signature": "none",
        "was_current": False,
    }
    assert made.read_bytes() == new.read_bytes()
    assert "written and sound" in earshot("model", "patch", old, update, "--in-place").stdout
    assert old.read_bytes() == new.read_bytes()
    again = earshot("model", "patch", old, update, "--in-place")
    assert again.exit_code == 0 and "has this update already" in again.stdout


def test_diff_shows_what_changed(earshot: Earshot, two_models: tuple[Path, Path]) -> None:
    old, new = two_models
    text = earshot("model", "diff", old, new).stdout
    assert "lstm_x" in text and "tokenizer" not in text
    assert "an update would have" in text
    assert "0 of " in earshot("model", "diff", old, old).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("diff", "old.ear", "new.ear", "--sign", "key.pem"), "nothing to sign without --output"),
        (("diff", "old.ear", "new.ear", "--output", "new.ear"), "is also an input"),
        (("patch", "old.ear", "u.eard"), "give either --output or --in-place"),
        (("patch", "old.ear", "u.eard", "--in-place", "-o", "a.ear"), "give either --output or"),
        (("patch", "old.ear", "u.eard", "-o", "u.eard"), "is also an input"),
    ],
)
def test_updates_used_wrongly(
    earshot: Earshot,
    two_models: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    folder = two_models[0].parent
    (folder / "u.eard").write_bytes(b"an update")
    monkeypatch.chdir(folder)
    result = earshot("model", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_updates_that_fail_are_one_line(
    earshot: Earshot, tmp_path: Path, two_models: tuple[Path, Path], broken: Path
) -> None:
    old, new = two_models
    update, made = tmp_path / "u.eard", tmp_path / "made.ear"
    assert earshot("model", "diff", old, new, "-o", update).exit_code == 0
    for arguments in (
        ("diff", old, broken),
        ("diff", tmp_path / "missing.ear", new),
        ("diff", old, new, "-o", tmp_path / "no-folder" / "u.eard"),
        ("diff", old, new, "-o", made, "--sign", tmp_path / "missing.pem"),
        ("patch", new, update, "-o", made),
        ("patch", old, tmp_path / "missing.eard", "-o", made),
        ("patch", old, old, "-o", made),
        ("patch", old, update, "-o", tmp_path / "no-folder" / "made.ear"),
    ):
        result = earshot("model", *arguments)
        assert result.exit_code == 1, arguments
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
        assert result.stdout == "" and not made.exists()


def test_signatures_name_their_extra(
    earshot: Earshot,
    tmp_path: Path,
    two_models: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new = two_models
    update = tmp_path / "u.eard"
    earshot("model", "diff", old, new, "-o", update)
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for arguments in (
        ("patch", old, update, "-o", tmp_path / "a.ear", "--require-key", tmp_path / "pub.pem"),
        ("diff", old, new, "-o", tmp_path / "b.eard", "--sign", tmp_path / "key.pem"),
    ):
        result = earshot("model", *arguments)
        assert result.exit_code == 1
        assert "pip install 'earshot[sign]'" in result.stderr
    assert not (tmp_path / "a.ear").exists() and not (tmp_path / "b.eard").exists()


def test_a_signed_update(earshot: Earshot, tmp_path: Path, two_models: tuple[Path, Path]) -> None:
    pytest.importorskip("cryptography", reason="signatures need the extra [sign]")
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    old, new = two_models
    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "key.pem", tmp_path / "pub.pem"
    private.write_bytes(
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )
    update, made = tmp_path / "u.eard", tmp_path / "made.ear"
    written = earshot("model", "diff", old, new, "-o", update, "--sign", private, "--json")
    assert json.loads(written.stdout)["signed"] is True
    assert json.loads(written.stdout)["size_bytes"] == update.stat().st_size
    result = earshot("model", "patch", old, update, "-o", made, "--require-key", public)
    assert result.exit_code == 0 and "signature checked" in result.stdout
    earshot("model", "diff", old, new, "-o", update)
    result = earshot("model", "patch", old, update, "--in-place", "--require-key", public)
    assert result.exit_code == 1 and "is not signed" in result.stderr
