"""Opening files, running them, refusing what is not one."""

import random

import numpy as np
import pytest
import torch

import pintsize.deploy.pint.seal as seal
from pintsize import errors
from pintsize.deploy import Runtime, export, open_runtime


@pytest.fixture
def file(residual, tmp_path):
    return export(residual, tmp_path / "net.onnx", example=torch.zeros(1, 3, 16, 16)).path


def test_arrays_give_arrays_and_tensors_tensors(file, images):
    with open_runtime(file, threads=1) as runtime:
        assert isinstance(runtime, Runtime)
        assert (runtime.backend, runtime.threads, runtime.input_shape) == (
            "onnxruntime",
            1,
            (None, 3, 16, 16),
        )
        tensor, array = runtime(images), runtime(images.numpy())
        assert isinstance(tensor, torch.Tensor)
        assert isinstance(array, np.ndarray)
        assert array.shape == (64, 10)
        assert np.array_equal(tensor.numpy(), array)
        strided = np.asfortranarray(images.numpy())
        assert np.array_equal(runtime(strided), array)
    with pytest.raises(errors.InputError, match="has been closed"):
        runtime(images)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            torch.zeros(1, 3, 15, 16),
            r"takes float32 of shape \[any, 3, 16, 16\], float32 of shape \[1, 3, 15, 16\]",
        ),
        (np.zeros((1, 3, 16, 16)), "float64 of shape"),
        (torch.zeros(3, 16, 16), r"float32 of shape \[3, 16, 16\] was given"),
    ],
)
def test_unfit_input_names_both_shapes(file, given, message):
    with pytest.raises(errors.InputError, match=message):
        open_runtime(file)(given)


def test_input_that_is_no_array(file):
    with pytest.raises(errors.InputTypeError, match="type list"):
        open_runtime(file)([1.0])


def test_module_as_runtime(residual, images):
    residual.train()
    runtime = open_runtime(residual, threads=1)
    with torch.no_grad():
        expected = residual.eval()(images)
    residual.train()
    assert torch.equal(runtime(images), expected)
    assert np.array_equal(runtime(images.numpy()), expected.numpy())
    assert residual.training


def test_what_cannot_be_opened(file, tmp_path):
    with pytest.raises(errors.InputError, match="no such file"):
        open_runtime(tmp_path / "none.onnx")
    with pytest.raises(errors.InputError, match="did you mean 'onnxruntime'"):
        open_runtime(file, backend="onnxruntim")
    with pytest.raises(errors.InputError, match=r"does not run \.onnx"):
        open_runtime(file, backend="torch")
    with pytest.raises(errors.InputError, match="threads=0"):
        open_runtime(file, threads=0)
    (tmp_path / "net.txt").write_text("")
    with pytest.raises(errors.InputError, match="file format"):
        open_runtime(tmp_path / "net.txt")


def test_damaged_files_are_refused(file, tmp_path):
    whole = file.read_bytes()
    broken = tmp_path / "broken.onnx"
    generator = random.Random(0)
    for _ in range(200):
        content = bytearray(whole)
        kind = generator.randrange(4)
        if kind == 0:
            content = content[: generator.randrange(len(whole))]
        elif kind == 1:
            content[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        elif kind == 2:
            content += generator.randbytes(generator.randrange(1, 300))
        else:
            at = generator.randrange(len(whole))
            content[at : at + 64] = generator.randbytes(64)
        broken.write_bytes(content)
        with pytest.raises(errors.CorruptFile):
            open_runtime(broken)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b"\xff" * 1000, b"<html></html>"])
def test_what_is_no_onnx_file(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(errors.CorruptFile):
        open_runtime(tmp_path / "net.onnx")


def test_files_of_other_tools_have_no_checksum_and_open(file, images, tmp_path):
    import onnx

    model = onnx.load(file)
    model.producer_name = "somebody"
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    expected = open_runtime(file)(images)
    assert torch.equal(open_runtime(tmp_path / "other.onnx")(images), expected)


def test_seal_is_one_more_metadata_entry(file):
    import onnx

    model = onnx.load(file)
    assert model.metadata_props[-1].key == "pintsize.sha256"
    assert len(model.metadata_props[-1].value) == 64
    seal.check(file)
