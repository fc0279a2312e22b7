"""Writer and reader of `.ear` files: what is written is what the engine finds."""

import json
import os
import struct
import zlib

import numpy as np
import pytest

from earshot.core.errors import ModelFileError
from earshot.modelfile.codecs import decode_tensor, encode_f32
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_model
from tests.tiny_model import PIECES, SEARCH, tiny_parts, write_tiny_model


@pytest.fixture(params=["f32_r16", "i8_r16x4"])
def codec(request):
    return request.param


def test_every_tensor_comes_back(tmp_path, codec):
    parts = tiny_parts(codec=codec)
    write_model(tmp_path / "tiny.ear", **parts)
    model = ModelFile(tmp_path / "tiny.ear")
    assert [t.name for t in model.tensors] == list(parts["tensors"])
    for info in model.tensors:
        sent = parts["tensors"][info.name]
        assert (info.codec, info.shape) == (sent.codec, sent.shape)
        assert model.tensor_bytes(info.name) == sent.data
        if info.codec != "u8":
            # Two readings of one layout: the engine's and numpy's.
            np.testing.assert_array_equal(model.dequantise(info.name), decode_tensor(sent))


def test_the_file_is_laid_out_as_specified(tmp_path):
    """Oracle: the table of section 1, read with struct alone."""
    path = write_tiny_model(tmp_path / "tiny.ear")
    data = path.read_bytes()
    magic, version, header_size, size, check, reserved = struct.unpack_from("<8sIIQII", data)
    assert (magic, version, size, reserved) == (b"\x89EAR\r\n\x1a\n", 1, len(data), 0)
    text = data[32 : 32 + header_size]
    assert check == zlib.crc32(data[:24] + text)
    header = json.loads(text)
    end = 32 + header_size
    for row in header["tensors"]:
        assert row["offset"] == -(-end // 64) * 64
        assert not any(data[end : row["offset"]])
        end = row["offset"] + row["bytes"]
        assert row["crc32"] == zlib.crc32(data[row["offset"] : end])
    assert len(data) == -(-end // 64) * 64
    assert not any(data[end:])
    assert header["pieces"] == PIECES
    assert header["search"] == SEARCH


@pytest.mark.parametrize("count", [1, 7, 60])
def test_offsets_settle_whatever_the_size_of_the_header(tmp_path, count):
    parts = tiny_parts()
    parts["tensors"] |= {f"more{i}": encode_f32(np.ones(i + 1)) for i in range(count)}
    for padding in range(0, 70, 3):
        parts["metadata"] = {"note": "x" * padding}
        write_model(tmp_path / "a.ear", **parts)  # opened by the reader before it is renamed


def test_summary_is_json_and_adds_up(tmp_path):
    path = write_tiny_model(tmp_path / "tiny.ear", codec="i8_r16x4")
    summary = ModelFile(path).summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["name"] == "tiny"
    assert summary["size_bytes"] == path.stat().st_size
    assert summary["num_pieces"] == len(PIECES)
    assert summary["graphs"]["encoder"]["ops"] == {
        "normalize": 1,
        "stack": 1,
        "linear": 2,
        "lstm": 1,
        "add": 1,
        "layer_norm": 1,
    }
    assert sum(summary["bytes_by_codec"].values()) == sum(t["bytes"] for t in summary["tensors"])
    assert set(summary["bytes_by_codec"]) == {"f32", "i8_r16x4", "u8"}


def test_unknown_tensors_are_named(tmp_path):
    model = ModelFile(write_tiny_model(tmp_path / "tiny.ear"))
    with pytest.raises(KeyError, match="no tensor 'q'; there are mean, inv_std, proj"):
        model.tensor_bytes("q")
    with pytest.raises(KeyError, match="no tensor 'q'; there are"):
        model.dequantise("q")


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # which would keep who opens it waiting
    for path, message in (
        (tmp_path / "pipe", "this is not a regular file. Name a `.ear` file."),
        (tmp_path / "no.ear", "there is no such file. Check the path."),
        (tmp_path, "this is a folder. Name a `.ear` file inside it."),
    ):
        with pytest.raises(ModelFileError) as caught:
            ModelFile(path)
        assert str(caught.value) == f"{path}: {message}"
        assert caught.value.path == str(path)


def test_a_name_that_is_no_text(tmp_path):
    path = write_tiny_model(tmp_path / "tiny.ear")
    odd = path.rename(tmp_path / "t\udcff.ear")
    with pytest.raises(ModelFileError) as caught:
        ModelFile(odd)
    assert str(caught.value) == f"{odd}: the file's name is not UTF-8. Rename the file."


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write_tiny_model(tmp_path / "tiny.ear")

    def refusing(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refusing)
    with pytest.raises(ModelFileError) as caught:
        ModelFile(path)
    assert str(caught.value) == f"{path}: the file may not be read. Change its permissions."


@pytest.mark.parametrize("data", [b"", b"RIFF" + bytes(60), b"\x89EAR\r\n\x1a\n"])
def test_other_files_are_refused_with_one_line(tmp_path, data):
    path = tmp_path / "other.ear"
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        ModelFile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_one_flipped_bit_anywhere_is_found(tmp_path):
    data = write_tiny_model(tmp_path / "tiny.ear").read_bytes()
    path = tmp_path / "flipped.ear"
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), 200):
        broken = bytearray(data)
        broken[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        with pytest.raises(ModelFileError):
            ModelFile(path)


def broken(**changes):
    return tiny_parts() | changes


@pytest.mark.parametrize(
    "parts",
    [
        broken(search=SEARCH | {"blank_id": 99}),
        broken(pieces=PIECES[:-1]),
        broken(name="n" * 200),
        broken(num_bins=21),
        broken(graphs=tiny_parts()["graphs"] | {"odd": {"inputs": [], "outputs": ["x"]}}),
        broken(metadata={"note": "x" * (1 << 20)}),
    ],
    ids=["blank", "pieces", "name", "bins", "graph", "header"],
)
def test_parts_that_do_not_fit_leave_no_file(tmp_path, parts):
    path = tmp_path / "bad.ear"
    path.write_bytes(b"old")
    with pytest.raises(ModelFileError) as caught:
        write_model(path, **parts)
    assert str(caught.value).startswith(f"{path}: ")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.ear"]
    assert path.read_bytes() == b"old"


def test_a_header_too_large_says_so(tmp_path):
    with pytest.raises(ModelFileError) as caught:
        write_model(tmp_path / "a.ear", **broken(metadata={"note": "x" * (1 << 20)}))
    message = str(caught.value)
    assert " bytes and may take 1048576. Use fewer pieces, shorter names or less metadata." in (
        message
    )
