"""`earshot serve rescore` and `--rescorer`: what is refused before anything is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Earshot = Callable[..., Result]
CLIP = str(Path(__file__).resolve().parents[2] / "examples" / "turn-on-the-lights.flac")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs --model or --hf"),
        (("--model", "a.ear", "--hf", "b"), "needs --model or --hf"),
        (("--model", "a.ear", "--cluster", "auto"), "needs --replicas"),
        (("--model", "a.ear", "--replicas", "2", "--tls-cert", "c"), "plain HTTP"),
        (("--model", "a.ear", "--weight", "11"), "--weight"),
    ],
)
def test_wrong_usage(earshot: Earshot, arguments: tuple[str, ...], message: str) -> None:
    result = earshot("serve", "rescore", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_model_that_is_not_there(earshot: Earshot, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the server needs the extra [serve]")
    result = earshot("serve", "rescore", "--model", str(tmp_path / "none.ear"))
    assert result.exit_code == 1
    assert "no such file" in result.stderr


def test_a_token_for_nobody(earshot: Earshot) -> None:
    result = earshot("transcribe", "--rescorer-token-file", "tokens", CLIP)
    assert result.exit_code == 2
    assert "needs --rescorer" in result.stderr


def test_addresses_and_tokens_that_cannot_be_used(earshot: Earshot, tmp_path: Path) -> None:
    result = earshot("transcribe", "--rescorer", "localhost:8090", CLIP)
    assert result.exit_code == 1
    assert "must read http://host:port" in result.stderr
    empty = tmp_path / "tokens"
    empty.write_text("\n")
    result = earshot(
        "transcribe", "--rescorer", "http://a", "--rescorer-token-file", str(empty), CLIP
    )
    assert result.exit_code == 1
    assert "first line is empty" in result.stderr


def test_nobody_at_the_address_leaves_the_first_pass(earshot: Earshot) -> None:
    import json
    import socket

    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    plain = json.loads(earshot("transcribe", "--json", CLIP).stdout)
    result = earshot("transcribe", "--json", "--rescorer", url, CLIP)
    got = json.loads(result.stdout)
    assert result.exit_code == 0
    assert got["text"] == plain["text"]
    assert got["rescoring"]["status"] == "kept"
    assert got["rescoring"]["reason"] in ("unreachable", "timeout", "certain")
    assert "first pass kept: 1" in result.stderr
