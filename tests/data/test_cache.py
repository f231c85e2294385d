import os
from pathlib import Path

import pytest
import torch

from pintsize.data import cache
from pintsize.data.places import Decoded, Labelled


@pytest.fixture
def decoded() -> Decoded:
    images = torch.randint(0, 256, (6, 4, 5, 3), dtype=torch.uint8)
    part = Labelled(images, torch.arange(6))
    return Decoded(
        {"train": part, "test": Labelled(images[:2].clone(), torch.tensor([4, 5]))}, ("ä/b", "c d")
    )


def same(one: Decoded, two: Decoded) -> bool:
    return (
        one.classes == two.classes
        and one.parts.keys() == two.parts.keys()
        and all(
            a.equal(b) for part in one.parts for a, b in zip(one.parts[part], two.parts[part], strict=True)
        )
    )


class Decoder:
    def __init__(self, result: Decoded) -> None:
        self.result, self.calls = result, 0

    def __call__(self) -> Decoded:
        self.calls += 1
        return self.result


def test_decodes_once(decoded):
    decode = Decoder(decoded)
    for _ in range(3):
        assert same(cache.remembered("set", "here", "origin", decode), decoded)
    assert decode.calls == 1


def test_the_second_time_is_memory_mapped(decoded):
    cache.keep("set", "here", "origin", decoded)
    found = cache.recall("set", "here", "origin")
    path = cache.where("set", "here")
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(path) in maps.read_text()
    found.parts["train"].images[0, 0, 0, 0] += 1  # a private mapping: the file is as before
    assert same(cache.recall("set", "here", "origin"), decoded)


def test_another_origin_decodes_anew_into_the_same_file(decoded):
    decode = Decoder(decoded)
    for origin in ("old", "new", "new"):
        cache.remembered("set", "here", origin, decode)
    assert decode.calls == 2
    assert len(list(cache.where("set", "here").parent.iterdir())) == 1


def test_what_was_asked_for_is_kept_apart(decoded):
    decode = Decoder(decoded)
    for identity in ("here", "there", "here"):
        cache.remembered("set", identity, "origin", decode)
    assert decode.calls == 2


def test_damage_at_any_byte_is_found(decoded):
    cache.keep("set", "here", "origin", decoded)
    path = cache.where("set", "here")
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x20
        path.write_bytes(damaged)
        found = cache.recall("set", "here", "origin")
        assert found is None or same(found, decoded)  # a space in the header may change and mean nothing


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, -1])
def test_truncation_is_found_and_repaired(decoded, kept):
    cache.keep("set", "here", "origin", decoded)
    path = cache.where("set", "here")
    path.write_bytes(path.read_bytes()[:kept])
    decode = Decoder(decoded)
    assert same(cache.remembered("set", "here", "origin", decode), decoded)
    assert same(cache.remembered("set", "here", "origin", decode), decoded)
    assert decode.calls == 1


def test_a_foreign_file_is_replaced(decoded):
    from safetensors.torch import save_file

    path = cache.where("set", "here")
    path.parent.mkdir(parents=True)
    save_file({"x": torch.zeros(2)}, path)
    assert cache.recall("set", "here", "origin") is None
    cache.keep("set", "here", "origin", decoded)
    assert same(cache.recall("set", "here", "origin"), decoded)


def test_without_a_writable_folder_everything_works(decoded, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PINTSIZE_CACHE", str(tmp_path / "file" / "below"))
    decode = Decoder(decoded)
    with caplog.at_level("INFO"):
        assert same(cache.remembered("set", "here", "origin", decode), decoded)
    assert "not kept" in caplog.text


def test_fingerprint_follows_size_and_time(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"12")
    first = cache.of_files([path])
    assert first == cache.of_files([path])
    state = path.stat()
    path.write_bytes(b"123")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    second = cache.of_files([path])
    os.utime(path, ns=(1, 1))
    assert len({first, second, cache.of_files([path])}) == 3
