"""Files: whole or not at all, and no code from pickles."""

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from minigslora import files
from minigslora.errors import DataError, ModelError, OutputError


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_text_json_and_tensors_round_trip(tmp_path):
    files.write_text(tmp_path / "a" / "note.txt", "grüße\n")
    assert (tmp_path / "a" / "note.txt").read_text(encoding="utf-8") == "grüße\n"
    value = {"x": [1, 2.5, None], "ü": "é"}
    files.write_json(tmp_path / "v.json", value)
    assert files.read_json(tmp_path / "v.json") == value
    tensors = {"w": torch.randn(3, 4).T, "n": torch.tensor(7)}
    files.save_tensors(tmp_path / "w.safetensors", tensors, {"card": {"a": 1}, "text": "plain"})
    loaded, notes = files.load_tensors(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[k], v) for k, v in tensors.items())
    assert notes == {"card": {"a": 1}, "text": "plain"}
    assert names(tmp_path) == ["a", "v.json", "w.safetensors"]


def test_foreign_headers_are_read_as_text(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors", metadata={"format": "pt"})
    assert files.load_tensors(tmp_path / "w.safetensors")[1] == {"format": "pt"}


def test_text_in_a_header_is_as_others_expect_it_and_comes_back_as_text(tmp_path):
    notes = {"format": "pt", "number": "12", "quoted": '"x"', "value": 12}
    files.save_tensors(tmp_path / "w.safetensors", {"w": torch.zeros(1)}, notes)
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"
    assert files.load_tensors(tmp_path / "w.safetensors")[1] == notes


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "result.json"
    files.write_json(path, {"good": 1})

    def stop_halfway():
        with files.written_whole(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_halfway()
    assert files.read_json(path) == {"good": 1}
    assert names(tmp_path) == ["result.json"]


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    files.save_tensors(path, {"w": torch.ones(2)}, {})

    def full(*_arguments, **_keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OutputError, match=r"cannot write .*w\.safetensors: No space left.*free some space"):
        files.save_tensors(path, {"w": torch.zeros(2)}, {})
    assert torch.equal(files.load_tensors(path)[0]["w"], torch.ones(2))
    assert names(tmp_path) == ["w.safetensors"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    for act in (lambda p: files.write_json(p / "x.json", 1), files.require_writable):
        with pytest.raises(OutputError, match=r"cannot write .*file.*choose another folder"):
            act(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    files.require_writable(tmp_path / "new" / "folder")
    assert names(tmp_path / "new" / "folder") == []


class Trap:
    """A pickle that makes a file when it is loaded as code."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))]
)
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path, write):
    mark, path = tmp_path / "it-ran", tmp_path / "weights.pth"
    write({"w": Trap(mark)}, path)
    with pytest.raises(ModelError, match=r"was refused: .*code, which is never run here.*safetensors"):
        files.load_tensors(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists(), "the trap was meant to work where code is run"


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}]
)
def test_plain_pickles_of_tensors_are_read(tmp_path, wrap):
    torch.save(wrap({"w": torch.ones(2)}), tmp_path / "w.pth")
    tensors, notes = files.load_tensors(tmp_path / "w.pth")
    assert torch.equal(tensors["w"], torch.ones(2))
    assert notes == {}


@given(st.binary(max_size=200), st.sampled_from([".pth", ".safetensors"]))
def test_any_other_file_is_refused_as_a_model(tmp_path_factory, content, ending):
    path = tmp_path_factory.mktemp("bytes") / f"w{ending}"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        files.load_tensors(path)


@pytest.mark.parametrize("value", [[torch.ones(1)], {"epoch": 3}, torch.ones(2)])
def test_a_pickle_without_state_dict_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"holds no state dict; expected tensors by parameter name"):
        files.load_tensors(tmp_path / "w.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no weight file at .*none\.safetensors; check the path"):
        files.load_tensors(tmp_path / "none.safetensors")


def test_sha256_and_roots(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256(tmp_path / "x").startswith("ba7816bf8f01cfea")
    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path))
    assert files.data_root() == tmp_path
    monkeypatch.delenv("MINIGSLORA_DATA")
    assert files.data_root().name == "minigslora"
    assert (files.shipped_root() / "mini-faces.safetensors").is_file()


def test_what_ships_has_the_recorded_hash():
    record = files.read_json(files.shipped_root() / "mini-faces.json")
    assert files.sha256(files.shipped_root() / record["file"]) == record["sha256"]
    with safe_open(files.shipped_root() / record["file"], framework="pt") as file:
        assert "card" in (file.metadata() or {})


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices")
def test_a_list_of_names_is_no_device_that_never_ends():
    with pytest.raises(DataError, match=r"/dev/zero is no file; write one name a line into one"):
        files.read_lines(Path("/dev/zero"))


def test_bytes_of_a_file_name_that_are_no_character_are_written_as_their_codes(tmp_path):
    files.write_json(tmp_path / "names.json", {"class": "ant\udcff"})
    assert files.read_json(tmp_path / "names.json") == {"class": "ant\udcff"}
    files.write_text(tmp_path / "names.txt", "ant\udcff")
    assert (tmp_path / "names.txt").read_text() == "ant\\udcff"
