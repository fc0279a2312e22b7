"""The page's reader of lattices, in node, against the encoder that writes them."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MODULE = Path(__file__).resolve().parents[2] / "src/earshot/serve/page/lattice.js"


def read_by_page(data: bytes) -> dict[str, Any]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = (
        f"import({json.dumps(MODULE.as_uri())}).then(async ({{fromBase64, parseLattice}}) =>"
        f" console.log(JSON.stringify(await parseLattice(fromBase64('"
        f"{base64.b64encode(data).decode()}')))))"
    )
    done = subprocess.run(
        [node, "--input-type=module", "-e", script],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("num_words", [2, 200])  # the larger one is deflated
def test_the_page_reads_what_the_engine_writes(num_words: int) -> None:
    pytest.importorskip("earshot.decode.lattice_wire", reason="this version has no lattices")
    from earshot.decode.lattice import Lattice
    from earshot.decode.lattice_wire import encode_lattice

    # A chain with two words between each pair of states; the second is worse by its number.
    words = tuple(f"word{n}" for n in range(2 * num_words))
    state = np.repeat(np.arange(num_words, dtype=np.int32), 2)
    lattice = Lattice(
        src=state,
        dst=state + 1,
        word=np.arange(2 * num_words, dtype=np.int32),
        start_frame=10 * state,
        end_frame=10 * state + 10,
        acoustic=np.tile(np.array([-1.0, -3.0], np.float32), num_words),
        prior=np.zeros(2 * num_words, np.float32),
        words=words,
    )
    found = read_by_page(encode_lattice(lattice, step=0.25))
    assert found["states"] == num_words + 1
    assert [(a["src"], a["dst"]) for a in found["arcs"]] == [(int(s), int(s) + 1) for s in state]
    assert {arc["word"] for arc in found["arcs"]} == set(words)
    for arc in found["arcs"]:
        expected = 2.0 * (int(arc["word"].removeprefix("word")) % 2)
        assert arc["loss"] == pytest.approx(expected, abs=0.25)
