"""The table of layer times: measured in the runtime, interpolated, kept for the machine, rebuilt when broken."""

import json

import pytest
from torch import nn

from pintsize.search.latency_table import LatencyTable, Layer, cache_file, interpolate


def layer(module, shape, *, free_inputs=True, free_outputs=True):
    return Layer("layer", module.eval(), shape, free_inputs, free_outputs)


def test_between_measured_widths_times_are_bilinear():
    times = {(4, 4): 1.0, (4, 8): 2.0, (8, 4): 3.0, (8, 8): 6.0}
    assert interpolate(times, 4, 6) == pytest.approx(1.5)
    assert interpolate(times, 6, 6) == pytest.approx((1.5 + 4.5) / 2)
    assert interpolate(times, 8, 2) == pytest.approx(1.5)  # the last slope goes on
    assert interpolate({(4, 4): 1.0, (8, 8): 2.0}, 6, 6) == pytest.approx(1.5)  # depthwise
    assert interpolate({(4, 4): 0.1, (8, 8): 2.0}, 1, 1) == 0.0


def test_a_layer_is_timed_once_at_each_anchor(tmp_path):
    path = tmp_path / "table.json"
    conv = layer(nn.Conv2d(8, 16, 3, padding=1, bias=False), (1, 8, 6, 6), free_inputs=False)
    table = LatencyTable(path, threads=1, repeats=3)
    found = table.measure(conv)
    assert sorted(found) == [(8, 4), (8, 8), (8, 16)]
    assert all(times.floating > 0 and times.integer > 0 for times in found.values())
    assert table.measured == 3 + 1  # and an empty call
    again = LatencyTable(path, threads=1, repeats=3)
    assert again.measure(conv) == found
    assert again.measured == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 2, "times": {"x": 3}}', b'{"format": 99, "times": {}}'],
)
def test_a_broken_cache_is_rebuilt(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_bytes(content)
    table = LatencyTable(path, threads=1, repeats=2)
    table.measure(layer(nn.Linear(6, 4), (1, 6), free_inputs=False, free_outputs=False))
    assert table.measured == 2
    assert len(json.loads(path.read_text())["times"]) == 2


def test_what_a_call_takes_by_itself_is_not_the_layers(tmp_path):
    path = tmp_path / "table.json"
    linear = layer(nn.Linear(6, 4), (1, 6), free_inputs=False, free_outputs=False)
    LatencyTable(path, threads=1, repeats=2).measure(linear)
    document = json.loads(path.read_text())
    call, name = sorted(document["times"], key=lambda key: "Linear" in key)
    document["times"] = {call: [0.5, 0.5], name: [2.0, 0.4]}
    path.write_text(json.dumps(document))
    times = LatencyTable(path, threads=1).measure(linear)[6, 4]
    assert (times.floating, times.integer) == pytest.approx((1.5, 0.02 * 0.4))


def test_impossible_times_are_measured_again(tmp_path):
    path = tmp_path / "table.json"
    linear = layer(nn.Linear(6, 4), (1, 6), free_inputs=False, free_outputs=False)
    LatencyTable(path, threads=1, repeats=2).measure(linear)
    document = json.loads(path.read_text())
    document["times"] = {key: [-1.0, 0.1] for key in document["times"]}
    path.write_text(json.dumps(document))
    table = LatencyTable(path, threads=1, repeats=2)
    assert table.measure(linear)[6, 4].floating > 0


def test_depthwise_and_unknown_layers_have_a_time(tmp_path):
    table = LatencyTable(tmp_path / "t.json", threads=1, repeats=2)
    depthwise = layer(nn.Conv2d(8, 8, 3, groups=8), (1, 8, 5, 5))
    assert sorted(table.measure(depthwise)) == [(2, 2), (4, 4), (8, 8)]


def test_the_cache_folder_and_the_threads_decide_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PINTSIZE_CACHE", str(tmp_path))
    one, two = cache_file("onnxruntime", 1), cache_file("onnxruntime", 2)
    assert one.parent == tmp_path / "latency"
    assert len({one, two, cache_file("openvino", 1)}) == 3


def test_a_cache_that_cannot_be_written_costs_the_next_run_time_and_this_one_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    table = LatencyTable(tmp_path / "file" / "times.json", threads=1, repeats=1)
    assert table.measure(layer(nn.Linear(6, 4), (1, 6), free_inputs=False, free_outputs=False))
    assert "times.json" in caplog.text
    assert caplog.text.count("are not kept for other runs") == 1
