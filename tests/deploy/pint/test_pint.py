"""The `.pint` file: the exact network back, small, and safe to open whatever is in it."""

import copy
import hashlib
import json
import lzma
import random
import struct
import zlib

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize import errors
from pintsize.deploy import export
from pintsize.deploy.pint import format as pint
from pintsize.deploy.pint.tensors import Entry, as_entries, restore
from pintsize.storage.record import record


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip


@pytest.fixture
def quantized(images) -> nn.Module:
    model = network()
    ps.quantize(model, weights=4, activations=8, calibration=[images])
    return model


def resealed(content: bytes) -> bytes:
    return content[:-32] + hashlib.sha256(content[:-32]).digest()


FILTERS = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**20, "lc": 3, "lp": 0, "pb": 0}]


def with_header(content: bytes, change) -> bytes:
    """The same file with another header and a right checksum."""
    size = struct.unpack_from("<I", content, 12)[0]
    header = json.loads(lzma.decompress(content[16 : 16 + size], lzma.FORMAT_RAW, filters=FILTERS))
    change(header)
    packed = lzma.compress(json.dumps(header).encode(), lzma.FORMAT_RAW, filters=FILTERS)
    return resealed(content[:12] + struct.pack("<I", len(packed)) + packed + content[16 + size :])


def as_version_1(content: bytes) -> bytes:
    """The same file as pintsize wrote it first."""
    size = struct.unpack_from("<I", content, 12)[0]
    packed = zlib.compress(lzma.decompress(content[16 : 16 + size], lzma.FORMAT_RAW, filters=FILTERS), 9)
    return resealed(content[:8] + struct.pack("<II", 1, len(packed)) + packed + content[16 + size :])


def test_files_of_version_1_are_read(quantized, tmp_path):
    export(quantized, tmp_path / "net.pint", licence="MIT")
    content = (tmp_path / "net.pint").read_bytes()
    old = tmp_path / "old.pint"
    old.write_bytes(as_version_1(content))
    assert (content[8], old.read_bytes()[8]) == (3, 1)
    assert same_state(ps.load(old, model=network()), ps.load(tmp_path / "net.pint", model=network()))
    assert pint.about(old) == {"licence": "MIT"}


def same_state(ours: nn.Module, theirs: nn.Module) -> bool:
    a, b = ours.state_dict(), theirs.state_dict()
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
    )


def test_quantized_network_comes_back_exactly(quantized, images, tmp_path):
    info = export(quantized, tmp_path / "net.pint", licence="MIT")
    again = ps.load(tmp_path / "net.pint", model=network())
    with torch.no_grad():
        assert torch.equal(again(images), quantized(images))
    assert [step.kind for step in record(again)] == [step.kind for step in record(quantized)]
    assert info.bytes == (tmp_path / "net.pint").stat().st_size
    export(again, tmp_path / "again.pint", licence="MIT")
    assert (tmp_path / "again.pint").read_bytes() == (tmp_path / "net.pint").read_bytes()


@pytest.mark.parametrize("weights", [8, 3, 2, 1])
def test_every_width(images, tmp_path, weights):
    model = network()
    ps.quantize(model, weights=weights, activations=8, calibration=[images])
    export(model, tmp_path / "net.pint")
    with torch.no_grad():
        assert torch.equal(ps.load(tmp_path / "net.pint", model=network())(images), model(images))


def test_scales_and_biases_take_two_bytes(images):
    """Scales are quotients of one number, biases whole numbers of what an int32 accumulator counts in."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 512, 1), nn.ReLU(), nn.Conv2d(512, 512, 1, groups=512)).eval()
    ps.quantize(model, calibration=[images])
    entries = {entry.name: entry for entry in as_entries(model)[0]}
    assert entries["0.bias"].kind == entries["2.bias"].kind == "multiples"
    assert entries["0.weight_quantizer.scale"].kind == "quotients"
    assert entries["2.weight_quantizer.scale"].kind == "plain"  # of the last layer: 8 significant bits
    _, sizes = pint.pack(model)
    channels, activations = 2 * 512, 2
    assert sizes["planes"] < 4.2 * channels + 20 * activations  # zlib adds its tables


def test_scales_come_back_bit_for_bit_as_quotients(images, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 70, 1), nn.ReLU(), nn.Conv2d(70, 2, 1)).eval()
    with torch.no_grad():
        model[0].weight.mul_(torch.logspace(-3, 1, 70).view(-1, 1, 1, 1))
    plain = copy.deepcopy(model)
    ps.quantize(model, calibration=[images])
    (entry,) = (e for e in as_entries(model)[0] if e.name == "0.weight_quantizer.scale")
    assert entry.kind == "quotients"
    assert (entry.plain >> 24).unique().numel() > 2  # each channel has a p of its own
    export(model, tmp_path / "net.pint")
    again = ps.load(tmp_path / "net.pint", model=plain)
    assert torch.equal(again[0].weight_quantizer.scale, model[0].weight_quantizer.scale)


@pytest.mark.parametrize(
    "names", [("s", "i"), ("o", "s"), ("o", "missing"), ("o", "zero"), ("o", "wide"), ("o", None)]
)
def test_quotients_of_what_is_no_scale_are_refused(names):
    def plain(name, values):
        return Entry(name, "float32", tuple(values.shape), "plain", plain=values)

    extra = {"scale": names[0], "input": names[1]}
    entry = Entry(
        "s", "float32", (3,), "quotients", extra, plain=torch.tensor([(2 << 24) + 150, 128, 255]).int()
    )
    others = [
        plain("o", torch.tensor(0.5)), plain("i", torch.tensor(0.25)), plain("zero", torch.tensor(0.0)),
        plain("wide", torch.ones(2)),
    ]  # fmt: skip
    with pytest.raises((ValueError, KeyError)):
        restore([entry, *others])
    entry.extra = {"scale": "o", "input": "i"}
    assert restore([entry, *others])["s"].tolist() == pytest.approx([8 / 301, 2 / 257, 2 / 511])


def test_few_different_scales_have_a_codebook_of_their_own(images, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 256, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 9)
    )
    plain = copy.deepcopy(model.eval())
    ps.quantize(model, calibration=[images])
    model[0].weight_quantizer.scale.copy_(torch.tensor([0.5, 0.25]).repeat(128))
    assert {e.name: e.kind for e in as_entries(model)[0]}["0.weight_quantizer.scale"] == "codebook"
    export(model, tmp_path / "net.pint")
    assert torch.equal(ps.load(tmp_path / "net.pint", model=plain)(images), model(images))


@pytest.mark.parametrize("seed", range(4))
def test_biases_that_round_to_nothing_are_multiples_too(seed, images):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 128, 3), nn.ReLU(), nn.Conv2d(128, 4, 1)).eval()
    ps.quantize(model, weights=2, edges=None, calibration=[images])
    assert {entry.name: entry.kind for entry in as_entries(model)[0]}["0.bias"] == "multiples"


def test_a_bias_that_is_no_multiple_is_kept_as_it_is(quantized, images, tmp_path):
    with torch.no_grad():
        quantized[0].bias.add_(1e-4)
        quantized[3].bias[0] = -0.0
    export(quantized, tmp_path / "net.pint")
    again = ps.load(tmp_path / "net.pint", model=network())
    for number in (0, 3):
        assert torch.equal(again[number].bias.view(torch.int32), quantized[number].bias.view(torch.int32))
    kinds = {entry.name: entry.kind for entry in as_entries(quantized)[0]}
    assert (kinds["0.bias"], kinds["3.bias"], kinds["7.bias"]) == ("plain", "plain", "multiples")


def test_float_network_comes_back_bit_for_bit(tmp_path):
    model = network()
    model[0].bias.data[0] = -0.0
    model[0].bias.data[1] = float("nan")
    export(model, tmp_path / "net.pint")
    found = ps.load(tmp_path / "net.pint", model=network())
    for name, value in model.state_dict().items():
        assert found.state_dict()[name].numpy().tobytes() == value.numpy().tobytes(), name


def test_network_of_ours_needs_no_model(tmp_path):
    model = ps.models.create("resnet20", num_classes=10).eval()
    export(model, tmp_path / "net.pint")
    assert same_state(ps.load(tmp_path / "net.pint"), model)


def test_clustered_and_sparse_weights_are_small(tmp_path):
    dense, clustered, sparse = network(), network(), network()
    with torch.no_grad():
        w = clustered[3].weight
        w.copy_(torch.tensor([-0.31, -0.1, 0.0, 0.1, 0.27])[torch.randint(0, 5, w.shape)])
        sparse[3].weight.mul_(torch.rand_like(sparse[3].weight) < 0.05)
    sizes = {}
    for name, model in {"dense": dense, "clustered": clustered, "sparse": sparse}.items():
        sizes[name] = export(model, tmp_path / "net.pint").bytes
        assert same_state(ps.load(tmp_path / "net.pint", model=network()), model)
    numbers = 16 * 16 * 9
    assert sizes["dense"] - sizes["clustered"] > numbers * 3.2 - numbers * 2.4 / 8 - 200  # log2 5 bits each
    assert sizes["dense"] - sizes["sparse"] > numbers * 2.9


@pytest.mark.parametrize("options", [{"k": 5}, {"bits": 4}, {"k": 2}, {"k": 5, "scope": "channel"}])
def test_codes_of_clustered_layers_are_coded(tmp_path, options):
    model = network()
    ps.cluster(model, **options)
    ps.save(model, tmp_path / "net.safetensors")
    info = export(model, tmp_path / "net.pint")
    found = ps.load(tmp_path / "net.pint", model=network())
    assert same_state(found, model)
    assert torch.equal(found[3].weight, model[3].weight)
    entries = {entry.name: entry for entry in as_entries(model)[0]}
    assert entries["3.weight_codes"].kind == "codes"
    assert entries["3.weight_codes"].shape == (16, 16, 3, 3)
    if options == {"k": 5}:
        assert info.details["symbols"] < 1.02 * (16 * 16 * 9 + 16 * 27 + 160) * 2.33 / 8 + 300


def test_weights_of_other_types_and_tied_ones(tmp_path):
    model = nn.Module()
    model.register_buffer("sixteen", torch.randn(100).half())
    model.register_buffer("brain", torch.randn(7).bfloat16())
    model.register_buffer("flag", torch.tensor(True))
    model.register_buffer("count", torch.tensor(2**40))
    model.register_buffer("empty", torch.zeros(0, 3))
    model.first, model.second = nn.Linear(3, 3), nn.Linear(3, 3)
    model.second.weight = model.first.weight
    export(model, tmp_path / "net.pint")
    found, _ = pint.read_tensors(tmp_path / "net.pint")
    expected = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(
        torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype
        for name in found
    )


def test_nothing_but_zeros_is_padded_so_that_it_may_be_read(tmp_path):
    model = nn.Linear(2048, 1024, bias=False)
    nn.init.zeros_(model.weight)
    model.weight.data[5, 7] = 1
    info = export(model, tmp_path / "net.pint")
    assert info.bytes == (2048 * 1024 - 2**16) // 256
    assert same_state(ps.load(tmp_path / "net.pint", model=nn.Linear(2048, 1024, bias=False)), model)


def test_unpack(quantized, images, tmp_path):
    export(quantized, tmp_path / "net.pint")
    pint.unpack(tmp_path / "net.pint", tmp_path / "net.safetensors", model=network())
    pint.unpack(tmp_path / "net.pint", tmp_path / "net.onnx", model=network(), example=images[:1])
    export(quantized, tmp_path / "direct.onnx", example=images[:1])
    with torch.no_grad():
        assert torch.equal(ps.load(tmp_path / "net.safetensors", model=network())(images), quantized(images))
    assert ps.open_runtime(tmp_path / "net.onnx")(images).equal(
        ps.open_runtime(tmp_path / "direct.onnx")(images)
    )


def test_unpack_hands_on_what_the_file_says_of_its_network(tmp_path):
    import onnx

    told = {"classes": ["cat", "dog"], "mean": [0.5], "std": [0.25], "licence": "MIT"}
    model = ps.models.create("resnet-demo", num_classes=2, in_channels=1).eval()
    export(model, tmp_path / "net.pint", **told)
    assert pint.about(tmp_path / "net.pint") == told
    pint.unpack(tmp_path / "net.pint", tmp_path / "net.onnx", licence="BSD")
    entries = {p.key: p.value for p in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert json.loads(entries["pintsize.classes"]) == ["cat", "dog"]
    assert json.loads(entries["pintsize.normalization"]) == {"mean": [0.5], "std": [0.25], "included": False}
    assert json.loads(entries["pintsize.licence"]) == "BSD"
    with pytest.raises(errors.InputError, match=r"licence for .*net\.safetensors: .* holds weights alone"):
        pint.unpack(tmp_path / "net.pint", tmp_path / "net.safetensors", licence="BSD")


@pytest.mark.parametrize("told", [5, {"classes": 5}, {"mean": ["a"]}, {"exec": "x"}])
def test_what_a_file_says_is_checked(quantized, tmp_path, told):
    export(quantized, tmp_path / "net.pint")
    changed = with_header((tmp_path / "net.pint").read_bytes(), _set(["about"], told))
    (tmp_path / "net.pint").write_bytes(changed)
    with pytest.raises(errors.CorruptFile, match="what it says of its network"):
        pint.about(tmp_path / "net.pint")


def test_it_runs_in_torch(tmp_path):
    model = ps.models.create("resnet-demo", in_channels=1).eval()
    ps.save(model, tmp_path / "net.pint")
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(ps.open_runtime(tmp_path / "net.pint", threads=1)(x), model(x))


def test_a_file_cannot_ask_for_a_network_beyond_its_tensors(tmp_path):
    ps.save(ps.models.create("resnet-demo", in_channels=1), tmp_path / "net.pint")
    change = _set(["document", "model", "options", "num_classes"], 10**12)
    (tmp_path / "net.pint").write_bytes(with_header((tmp_path / "net.pint").read_bytes(), change))
    with pytest.raises(errors.CorruptFile, match="num_classes=1000000000000 does not fit its tensors"):
        ps.load(tmp_path / "net.pint")


def test_options_of_graphs_are_refused(tmp_path):
    with pytest.raises(errors.InputError, match="holds weights, no graph"):
        export(network(), tmp_path / "net.pint", include_softmax=True)


def test_missing_file_and_newer_format(quantized, tmp_path):
    with pytest.raises(errors.InputError, match="no such file"):
        ps.load(tmp_path / "net.pint")
    export(quantized, tmp_path / "net.pint")
    content = (tmp_path / "net.pint").read_bytes()
    (tmp_path / "net.pint").write_bytes(resealed(content[:8] + struct.pack("<I", 4) + content[12:]))
    with pytest.raises(errors.InputError, match="it has format 4"):
        ps.load(tmp_path / "net.pint", model=network())


def test_damaged_files_are_refused(quantized, tmp_path):
    export(quantized, tmp_path / "net.pint")
    whole = (tmp_path / "net.pint").read_bytes()
    generator = random.Random(0)
    for _ in range(200):
        content = bytearray(whole)
        kind = generator.randrange(3)
        if kind == 0:
            content = content[: generator.randrange(len(whole))]
        elif kind == 1:
            content[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        else:
            content += generator.randbytes(generator.randrange(1, 100))
        (tmp_path / "net.pint").write_bytes(content)
        with pytest.raises(errors.CorruptFile):
            pint.read_tensors(tmp_path / "net.pint")


def test_hostile_files_with_a_right_checksum(quantized, tmp_path):
    export(quantized, tmp_path / "net.pint")
    whole = (tmp_path / "net.pint").read_bytes()
    generator = random.Random(1)
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(generator.randrange(1, 4)):
            content[generator.randrange(8, len(whole) - 32)] = generator.randrange(256)
        (tmp_path / "net.pint").write_bytes(resealed(bytes(content)))
        try:
            tensors, _ = pint.read_tensors(tmp_path / "net.pint")
        except errors.InputError:  # CorruptFile is one
            continue
        assert all(isinstance(value, torch.Tensor) for value in tensors.values())


def _set(path, value):
    def change(header):
        *inner, last = path
        for key in inner:
            header = header[key]
        header[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set(["tensors", 0, 2], [2**30, 2**9]),
        _set(["tensors", 0, 2], [2**39, 0]),
        _set(["tensors", 0, 2], [-1, -864]),
        _set(["tensors", 0, 2], [True]),
        _set(["tensors", 0, 2], "abc"),
        _set(["tensors", 0, 1], "object"),
        _set(["tensors", 0, 3], "code"),
        _set(["tensors", 0, 4], {"scale": "none", "axis": 0}),
        _set(["tensors", 0, 4], {"scale": "0.weight", "axis": 0}),
        _set(["tensors", 0, 4], {}),
        _set(["tensors"], [["x", "float32", [1], "plain", {}]] * 70000),
        _set(
            ["tensors", 0],
            ["0.weight", "uint8", [16, 3, 3, 3], "codes", {"bits": 9, "order": [0], "center": 0}],
        ),
        _set(
            ["tensors", 0],
            ["0.weight", "uint8", [16, 3, 3, 3], "codes", {"bits": 2, "order": [0], "center": 0}],
        ),
        _set(
            ["tensors", 0],
            ["0.weight", "uint8", [16, 3, 3, 3], "codes", {"bits": 2, "order": [0, 999], "center": 0}],
        ),
        _set(["tensors", 1, 4], {"scale": "none", "input": "activation_quantizers.input_0.scale"}),
        _set(["tensors", 1, 4], {"scale": "0.weight_quantizer.scale", "input": "0.weight_quantizer.scale"}),
        _set(["tensors", 1, 4], {"scale": "0.bias", "input": "activation_quantizers.input_0.scale"}),
        _set(["tensors", 1, 4], {"scale": "0.weight", "input": "activation_quantizers.input_0.scale"}),
        _set(["tensors", 1, 4], {"scale": "0.weight_quantizer.scale"}),
        _set(["tensors", 1, 1], "float16"),
        _set(["tensors", 1, 2], [0]),
        _set(["blocks", 0, "largest"], 10**6),
        _set(["blocks", 0, "largest"], 3),
        _set(["blocks", 0, "bytes"], 10**9),
        _set(["blocks", 0, "bytes"], -5),
        _set(["blocks", 0, "bytes"], 7),
        _set(["blocks", 0, "kind"], "exec"),
        _set(["blocks", 0, "tensors"], [0, 0]),
        _set(["blocks", 0, "tensors"], [-1]),
        _set(["blocks", 0, "tensors"], [10**9]),
        _set(["blocks", -1, "size"], 3),
        _set(["blocks"], []),
        _set(["document", "aliases"], {"a": "b"}),
        _set(["document", "aliases"], []),
        _set(["document"], None),
    ],
)
def test_headers_that_lie_are_refused(quantized, tmp_path, change):
    export(quantized, tmp_path / "net.pint")
    (tmp_path / "net.pint").write_bytes(with_header((tmp_path / "net.pint").read_bytes(), change))
    with pytest.raises(errors.CorruptFile):
        ps.load(tmp_path / "net.pint", model=network())
