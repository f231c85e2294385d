"""The guide "Bring your own task" runs, block after block."""

import re
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "tasks.md"


def test_its_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = re.findall(
        r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    told = capsys.readouterr().out
    assert len(blocks) == 6
    for word in ("mIoU", "light:", "MAE", "fidelity", "score"):
        assert word in told
