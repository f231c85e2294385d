"""Files that are damaged, hostile, too old or not understood: an error that names what, never a crash or a hang."""

import os
import random
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnx_graphs
import pintsize as ps
from onnx_graphs import ints, write
from pintsize import errors

node = helper.make_node
MUTATIONS = int(os.environ.get("PINTSIZE_MUTATIONS", "200"))


@pytest.fixture
def small(tmp_path):
    """A file with many ways to reckon with shapes."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]), node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2]), node("Shape", ["m"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]), node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Concat", ["n1", "minus"], ["to"], axis=0), node("Resize", ["m", "", "scale"], ["z"], mode="nearest"),
        node("Pad", ["z", "pads"], ["p"]), node("Expand", ["one", "big"], ["e"]), node("Tile", ["e", "reps"], ["t"]),
        node("Range", ["zero", "limit", "step"], ["ra"]), node("ConstantOfShape", ["big"], ["cs"]),
        node("Reshape", ["p", "to"], ["f"]), node("Gemm", ["f", "l"], ["y"], transB=1), node("Softmax", ["y"], ["o"]),
    ]  # fmt: skip
    weights = {
        "w": onnx_graphs.random(4, 3, 3, 3), "zero": np.int64(0), "axis": ints(0), "minus": ints(-1),
        "scale": np.array([1, 1, 2, 2], np.float32), "pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "one": np.float32([[1]]),
        "big": ints(3, 4), "reps": ints(2, 2), "limit": np.int64(9), "step": np.int64(1),
        "l": onnx_graphs.random(5, 576),
    }  # fmt: skip
    ends = {"o": None, "t": None, "ra": (None, TensorProto.INT64), "cs": None}
    return write(tmp_path / "small.onnx", nodes, {"x": ["n", 3, 12, 12]}, ends, weights)


def damaged(content, chance):
    found = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(found))
        kind = chance.random()
        if kind < 0.7:
            found[at] = chance.choice(
                (chance.randrange(256), found[at] ^ (1 << chance.randrange(8)), 0, 255, 127)
            )
        elif kind < 0.85:
            del found[at : at + chance.randrange(1, 20)]
        else:
            found[at:at] = chance.randbytes(chance.randrange(1, 12))
    return bytes(found)


def test_a_damaged_file_is_refused_or_read(small):
    """Most bytes of this file are graph, not weights."""
    content, ended = small.read_bytes(), set()
    for number in range(MUTATIONS):
        small.write_bytes(damaged(content, random.Random(number)))
        began = time.monotonic()
        try:
            ps.models.from_onnx(small)
            ended.add("read")
        except errors.PintsizeError as error:
            ended.add(type(error))
        assert time.monotonic() - began < 10, number
    assert {"read", errors.CorruptFile} <= ended


def test_no_onnx_file_at_all(tmp_path):
    for content in (b"", b"PK\x03\x04 a zip", b"\x00" * 4096, b"\xff" * 4096):
        (tmp_path / "net.onnx").write_bytes(content)
        with pytest.raises(errors.CorruptFile):
            ps.models.from_onnx(tmp_path / "net.onnx")
    with pytest.raises(errors.InputError, match="no such file"):
        ps.models.from_onnx(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("ConstantOfShape", ["huge"], ["h"])], {"huge": ints(10**6, 10**6)}),
        ([node("Expand", ["one", "huge"], ["h"])], {"huge": ints(10**6, 10**6), "one": np.float32([[1]])}),
        ([node("Tile", ["one", "huge"], ["h"])], {"huge": ints(10**6, 10**6), "one": np.float32([[1]])}),
        ([node("Range", ["from", "huge", "by"], ["h"])],
         {"from": np.int64(0), "huge": np.int64(10**13), "by": np.int64(1)}),
        ([node("Tile", ["x", "huge"], ["h"])], {"huge": ints(1, 1, 10**6, 10**6)}),
    ],
    ids=["ConstantOfShape", "Expand", "Tile", "Range", "Tile of the image"],
)  # fmt: skip
@pytest.mark.parametrize("check", [True, False])
def test_a_value_that_fills_the_memory_is_refused_by_its_node(nodes, weights, check, tmp_path):
    nodes[0].name = "/far/too/Big"
    kind = TensorProto.INT64 if nodes[0].op_type == "Range" else TensorProto.FLOAT
    write(tmp_path / "a.onnx", [*nodes, node("Relu", ["x"], ["y"])], {"x": ["n", 3, 8, 8]},
          {"y": None, "h": (None, kind)}, weights)  # fmt: skip
    with pytest.raises(errors.PintsizeError, match="/far/too/Big"):
        ps.models.from_onnx(tmp_path / "a.onnx", check=check)


def test_an_operator_of_ones_own_is_named_with_its_node(tmp_path):
    nodes = [node("Warp", ["x"], ["y"], name="/neck/Warp_3", domain="com.example")]
    write(tmp_path / "a.onnx", nodes, {"x": ["n", 3, 8, 8]}, {"y": None}, other=[("com.example", 1)])
    with pytest.raises(errors.UnsupportedOp) as told:
        ps.models.from_onnx(tmp_path / "a.onnx")
    assert "/neck/Warp_3" in str(told.value)
    assert "Warp" in str(told.value)


def test_boxes_that_are_sorted_out_in_the_file_are_named(tmp_path):
    nodes = [node("NonMaxSuppression", ["boxes", "scores"], ["y"], name="/nms")]
    write(
        tmp_path / "a.onnx",
        nodes,
        {"boxes": [1, 6, 4], "scores": [1, 2, 6]},
        {"y": (None, TensorProto.INT64)},
    )
    with pytest.raises(errors.UnsupportedOp, match="/nms"):
        ps.models.from_onnx(tmp_path / "a.onnx")


def test_an_old_opset_is_to_be_raised(tmp_path):
    write(tmp_path / "a.onnx", [node("Relu", ["x"], ["y"])], {"x": ["n", 3, 8, 8]}, {"y": None}, opset=6)
    with pytest.raises(errors.InputError, match="opset is 6"):
        ps.models.from_onnx(tmp_path / "a.onnx")
    raised = onnx.version_converter.convert_version(onnx.load(tmp_path / "a.onnx"), 7)  # as the error says
    onnx.save(raised, tmp_path / "a.onnx")
    assert ps.models.from_onnx(tmp_path / "a.onnx").program.told["opset"] == 7


@pytest.fixture
def beside(tmp_path):
    """A file in a folder, its weights in another file there."""
    folder = tmp_path / "inside"
    folder.mkdir()
    path = write(
        folder / "a.onnx", [node("Conv", ["x", "w"], ["y"], name="/c/Conv")], {"x": ["n", 3, 8, 8]}, {"y": None},
        {"w": onnx_graphs.random(8, 3, 3, 3)},
    )  # fmt: skip
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


def placed(path, location):
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    path.write_bytes(model.SerializeToString())


def test_weights_lie_beside_the_file_or_nowhere(beside):
    assert ps.models.from_onnx(beside).c.weight.shape == (8, 3, 3, 3)
    weights = beside.with_name("w.bin")
    outside = beside.parent.parent / "x.bin"
    outside.write_bytes(weights.read_bytes())
    for location in ("../x.bin", str(outside), "sub/../../x.bin"):
        placed(beside, location)
        with pytest.raises(errors.InputError, match="not in the file's own folder"):
            ps.models.from_onnx(beside)
    (beside.parent / "link.bin").symlink_to(outside)
    placed(beside, "link.bin")
    with pytest.raises(errors.InputError, match="not in the file's own folder"):
        ps.models.from_onnx(beside)
    placed(beside, "gone.bin")
    with pytest.raises(errors.InputError, match=r"gone\.bin"):
        ps.models.from_onnx(beside)


def test_weights_that_were_cut_off(beside):
    weights = beside.with_name("w.bin")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(errors.CorruptFile, match="too short"):
        ps.models.from_onnx(beside)


def test_training_leaves_the_file_of_weights_as_it_was(beside):
    weights = beside.with_name("w.bin")
    before = weights.read_bytes()
    net = ps.models.from_onnx(beside)
    net.c.weight.data.zero_()
    assert weights.read_bytes() == before
    assert ps.models.from_onnx(beside).c.weight.any()
