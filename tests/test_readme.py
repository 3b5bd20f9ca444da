"""The README's own code runs as it stands."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import sdegen

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.slow
def test_the_first_example_trains_a_model_close_to_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    exec(code[1], {})
    printed = capsys.readouterr().out
    laws, held = re.search(r"(\d+) of (\d+) laws hold", printed), re.search(r"# (\d+) laws", code[1])
    assert laws is not None and held is not None and laws[1] == laws[2] == held[1]
    kl, stderr = (float(v) for v in printed.strip().splitlines()[-1].split(" ± "))
    assert kl < 0.02 + 4 * stderr


def test_both_commands_install_from_the_constraints() -> None:
    for name in ("main", "test"):
        block = re.search(rf"<!-- {name} -->\n```bash\n(.*?)\n```", README, re.DOTALL)
        assert block is not None and "-c constraints.txt" in block[1] and "\n" not in block[1]


def test_the_tests_find_the_peers_that_they_compare_with() -> None:
    # k-diffusion is in no extra, and without it the tests that compare with it are skipped.
    root = Path(__file__).parent.parent
    for command in (README, *((root / path).read_text() for path in ("CONTRIBUTING.md", ".ci/nightly", ".ci/wheel"))):
        line = command[command.index("[test") :]
        assert "pip install -q -c constraints.txt --no-deps k-diffusion" in line.replace("install -c", "install -q -c")


def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With shorter trainings and fewer samples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sdegen, "fit", partial(shortened, sdegen.fit))
    monkeypatch.setattr(sdegen.metrics, "kl", lambda *_, **__: None)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(re.sub(r"\b(10_000|1_000|100)\b", "20", block), names)
    assert len(blocks) >= 2 and names["x"].shape == (20, 1, 28, 28)
    assert {p.name for p in tmp_path.iterdir()} == {"samples.png", "clothes.png"}


def shortened(fit: Any, model: Any, data: Any, **settings: Any) -> Any:
    return fit(model, data, **settings | {"steps": 5, "progress": False})
