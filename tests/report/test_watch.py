"""The live view, over real HTTP."""

import http.client
import json
import threading

import pytest

from pintsize.errors import InputError, OperationError
from pintsize.report import watch


@pytest.fixture
def server(tmp_path):
    with watch(tmp_path) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(server, path="/", method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def test_follows_the_run(server, tmp_path):
    assert server.url == f"http://127.0.0.1:{server.server_port}/"
    status, empty = ask(server)
    assert status == 200
    assert "No stage of this run has ended yet." in empty
    before = ask(server, "/version")[1]
    assert f'data-version="{before}"' in empty
    (tmp_path / "log.txt").write_text("epoch 1")
    (tmp_path / "metrics.json").write_text(
        json.dumps({"format": 1, "stages": [{"name": "dense fp32", "accuracy": 90}]})
    )
    page = ask(server)[1]
    assert "One stage so far: dense fp32 at 90.00 % accuracy." in page
    assert "epoch 1" in page
    after = ask(server, "/version")[1]
    assert after != before
    assert f'data-version="{after}"' in page


def test_damaged_file_is_said_on_the_page(server, tmp_path):
    (tmp_path / "metrics.json").write_text("{")
    status, page = ask(server)
    assert status == 200
    assert "it is not JSON" in page
    assert "live" in page


@pytest.mark.parametrize("path", ["/metrics.json", "/../secret", "/version/x", "/%2e%2e/"])
def test_serves_nothing_else(server, path):
    assert ask(server, path)[0] == 404


def test_reads_only(server):
    assert ask(server, method="POST")[0] == 501


def test_other_host_names_are_refused(server):
    assert ask(server, host="evil.example:80")[0] == 403
    assert ask(server, host=f"localhost:{server.server_port}")[0] == 200


def test_no_folder_no_port(server, tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        watch(tmp_path / "none")
    with pytest.raises(InputError, match="port=70000"):
        watch(tmp_path, port=70_000)
    with pytest.raises(OperationError, match="cannot be used"):
        watch(tmp_path, port=server.server_port)
