"""The README's own code runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import sdegen

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.slow
def test_the_first_example_trains_a_model_close_to_its_data(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_the_example_of_the_page_on_images_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """On 64 images of noise, with fewer steps."""
    page = (Path(__file__).parent.parent / "docs" / "images.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    shorter = code[1]
    for long, short in {"steps=10_000": "steps=2", "batch_size=128": "batch_size=4", "every=500": "every=2"}.items():
        assert long in shorter
        shorter = shorter.replace(long, short)
    x = torch.randint(256, (64, 1, 28, 28), dtype=torch.uint8, generator=generator)
    images = sdegen.data.Images(x, torch.arange(64) % 10, tuple("0123456789"))
    monkeypatch.setattr(sdegen.data, "fashion_mnist", lambda: images.split(0.8))
    monkeypatch.chdir(tmp_path)
    exec(shorter, {})
    assert {p.name for p in tmp_path.iterdir()} == {"pictures", "run", "samples.png"}
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {"loss.png", "samples-00000002.png"}


@pytest.mark.parametrize("page", ["processes", "likelihood", "diagnose", "families"])
def test_the_examples_of_a_page_run(page: str) -> None:
    """All of them, one after the other, with a shorter training."""
    text = (Path(__file__).parent.parent / "docs" / f"{page}.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    assert "import sdegen" in code or "sdegen." in code
    exec(code.replace("steps=100,", "steps=3,"), {})
