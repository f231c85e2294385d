"""Reports in a real browser: headless Chromium over its debugging pipe, and axe-core's rules.

Needs Chromium, and for the rules `npm install --no-save axe-core` in the repository (or NODE_PATH); else skipped.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pintsize import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FOLDERS = [
    str(Path(__file__).parents[2] / "node_modules"),
    *os.environ.get("NODE_PATH", "").split(os.pathsep),
]
AXE = next((file for folder in FOLDERS if (file := Path(folder) / "axe-core" / "axe.min.js").is_file()), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
needs_axe = pytest.mark.skipif(AXE is None, reason="axe-core is not here: npm install --no-save axe-core")


class Browser:
    """Chromium, spoken to over two pipes: one JSON message each way, ended by a zero."""

    def __init__(self, profile):
        to_read, self.to = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in os.pipe())
        self.back, from_write = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in os.pipe())
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--disable-background-networking", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        pipes = f"import os, sys; os.dup2({to_read}, 3); os.dup2({from_write}, 4); os.execv(sys.argv[1], sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", pipes, CHROMIUM, *flags],
            pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        self.number, self.rest, self.events = 0, b"", []

    def send(self, method, session=None, **params):
        """Its result; what else arrives is kept in `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        os.write(self.to, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def receive(self):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.back], [], [], 300)
            read = os.read(self.back, 1 << 20) if ready else b""
            assert read, "Chromium has ended, or hangs"
            self.rest += read
        message, _, self.rest = self.rest.partition(b"\0")
        answer = json.loads(message)
        if "method" in answer:
            self.events.append(answer)
        return answer

    def open(self, path, **options):
        """A page that has loaded."""
        return Page(self, path, **options)

    def close(self):
        self.send("Browser.close")
        self.process.wait(timeout=60)
        os.close(self.to)
        os.close(self.back)


class Page:
    def __init__(self, browser, path, *, width=1280, scheme="light", scripts=True):
        self.browser = browser
        self.target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.send("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.send("Page.setBypassCSP", enabled=True)  # for axe, whose rules are run as a script
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not self.seen("Page.loadEventFired"):
            browser.receive()

    def send(self, method, **params):
        return self.browser.send(method, self.session, **params)

    def seen(self, *methods):
        return [
            e for e in self.browser.events if e.get("sessionId") == self.session and e["method"] in methods
        ]

    def __call__(self, expression):
        """The value of an expression, or of what it promises."""
        found = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def complaints(self):
        """Exceptions, and whatever was written to the console."""
        return [
            e["params"]
            for e in self.seen("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        ]

    def screenshot(self, path):
        size = {
            "x": 0,
            "y": 0,
            "scale": 1,
            "width": self("innerWidth"),
            "height": self("document.body.scrollHeight"),
        }
        data = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=size)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self):
        self.browser.send("Target.closeTarget", targetId=self.target)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    running = Browser(tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


def stage(name, accuracy, share):
    latency = {
        "median_ms": 18 * share,
        "p95_ms": 20 * share,
        "backend": "onnxruntime",
        "threads": 2,
        "batch": 1,
    }
    sizes = {key: int(whole * share) for key, whole in (("params", 11e6), ("macs", 457e6), ("bytes", 44.7e6))}
    return {"name": name, "accuracy": accuracy, **sizes, "latency": latency, "file": "net.onnx"}


def write_run(folder, drop, share):
    """A run with everything that a report shows, and names as long as they come."""
    folder.mkdir()
    epochs = [
        {"epoch": n, "train_loss": 2 / n, "val_loss": 2.2 / n, "train_accuracy": 90.0 - 9 / n, "val_accuracy": 89.0 - 9 / n}
        for n in range(1, 101)
    ]  # fmt: skip
    layers = [
        {"name": f"features.stage{n}.block.conv_with_a_long_name", "type": "Conv2d", "shape": [64, 64, 3, 3],
         "params": 900 * (30 - n), "macs": 1_000_000 + n, "bits": 8, "channels": n + 1, "kept": (n + 1) / 31}
        for n in range(30)
    ]  # fmt: skip
    content = {
        "format": 1, "pintsize": "0.1.0", "machine": {"cpu": "AMD EPYC " * 5, "cores": 2}, "seed": 0,
        "model": {"name": "resnet18"}, "data": {"name": "fashion-mnist"}, "recipe": {"prune": {"ratio": share}},
        "stages": [stage("dense fp32", 91.8, 1.0), stage("pruned fp32", 91.5, share),
                   stage("pruned int8", 91.8 - drop, share)],
        "verification": {"ok": True, "agreement": 99.9}, "histories": {"train": epochs}, "layers": layers,
        "budget": {"max_drop": 0.5, "met": drop <= 0.5},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "recipe.yaml").write_text(f"prune: {{ratio: {share}}}\n" + "# a long line " * 20)
    (folder / "record.json").write_text(
        json.dumps({"steps": [{"kind": "prune", "ratio": 0.5}, {"kind": "fold"}]})
    )
    (folder / "log.txt").write_text("2026-11-21 04:50:16,930 pintsize INFO train: started " * 3 + "\n")
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        write_run(folder / name, drop, share)
        for name, drop, share in (("a", 0.3, 0.4), ("b", 1.2, 0.2), ("c", 0.1, 0.7))
    ]
    return {"run": report.write(runs[0]), "comparison": report.compare(runs, folder / "comparison.html")}


everywhere = pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        (name, width, scheme)
        for name in ("run", "comparison")
        for width in (1280, 400)
        for scheme in ("light", "dark")
    ],
)


@everywhere
def test_nothing_is_wider_than_the_window_and_nothing_is_complained_of(
    browser, pages, tmp_path, name, width, scheme
):
    page = browser.open(pages[name], width=width, scheme=scheme)
    assert page("innerWidth") == width
    assert page("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.complaints() == []
    page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 50_000
    page.close()


@needs_axe
@everywhere
def test_accessibility_rules(browser, pages, name, width, scheme):
    page = browser.open(pages[name], width=width, scheme=scheme)
    page(AXE.read_text())
    found = page(
        "axe.run().then(r => r.violations.map(v => [v.impact, v.id, v.nodes[0].html.slice(0, 200)]))"
    )
    assert found == []
    page.close()


def test_tables_sort_by_a_click_on_a_heading(browser, pages):
    page = browser.open(pages["run"])
    page("table = document.querySelector('table.sortable'), 0")
    page("heading = [...table.querySelectorAll('th button')].find(b => b.textContent == 'parameters'), 0")
    column = "[...table.tBodies[0].rows].map(row => Number(row.cells[3].dataset.key))"
    assert page(column) == [900 * n for n in range(30, 0, -1)]
    page("heading.click()")
    assert page(column) == [900 * n for n in range(1, 31)]
    assert page("heading.parentNode.getAttribute('aria-sort')") == "ascending"
    page("heading.click()")
    assert page(column)[0] == 27_000
    page.close()


def test_a_point_shows_its_recipe_to_mouse_and_keyboard(browser, pages):
    page = browser.open(pages["comparison"])
    page("plot = document.querySelector('.plot'), tip = plot.querySelector('.tip'), 0")
    page("point = plot.querySelector('a[data-run=\"1\"]'), point.scrollIntoView(), 0")
    assert page("tip.hidden")
    middle = "(r => [r.x + r.width / 2, r.y + r.height / 2])(point.getBoundingClientRect())"
    across, down = page(middle)
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=across, y=down)
    shown = page("tip.hidden ? '' : tip.textContent")
    assert shown.startswith("b: 90.60 %")
    assert "ratio: 0.2" in shown
    assert page("(r => r.left >= 0 && r.right <= innerWidth)(tip.getBoundingClientRect())")
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert page("tip.hidden")
    page("point.focus()")
    assert not page("tip.hidden")
    page.send("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    assert page("tip.hidden")
    page.close()


def test_without_scripts_tables_and_figures_are_there(browser, pages):
    for name in ("run", "comparison"):
        page = browser.open(pages[name], scripts=False)
        nodes = page.send("DOM.getDocument", depth=-1)["root"]["nodeId"]
        figures = page.send("DOM.querySelectorAll", nodeId=nodes, selector="figure svg")["nodeIds"]
        rows = page.send("DOM.querySelectorAll", nodeId=nodes, selector="table.sortable tbody tr")["nodeIds"]
        assert len(figures) >= 2
        assert len(rows) >= 3
        for node in figures:
            assert page.send("DOM.getBoxModel", nodeId=node)["model"]["height"] > 100
        assert page.send("DOM.querySelectorAll", nodeId=nodes, selector="button")["nodeIds"] == []
        page.close()
