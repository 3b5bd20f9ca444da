"""Notebooks run: here with little training and few images, in full when their output is made anew."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch

mpl.use("Agg")
NOTEBOOKS = sorted((Path(__file__).parent.parent / "docs" / "notebooks").glob("*.ipynb"))
LITTLE = {"steps": 15, "n": 60, "images": 30, "full": 5, "points": 5}


def cells(notebook: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.turns("score_models_on_mixtures")
@pytest.mark.data
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
@pytest.mark.turns("guided_ddpm_on_mnist", "ddpm_ddim_on_sprites", "flows_and_gans")
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_a_notebook_runs(notebook: Path) -> None:
    names: dict[str, Any] = {}
    drawn = shrunk = 0
    for cell in cells(notebook):
        exec("".join(cell["source"]), names)
        if "parameters" in cell["metadata"].get("tags", []):
            smaller = {name: value for name, value in LITTLE.items() if name in names}
            shrunk += len(smaller)
            names |= smaller
        drawn += len(plt.get_fignums())
        plt.close("all")
    assert shrunk and drawn  # it went by the small sizes, and showed something
    numbers = [value for value in names.values() if isinstance(value, torch.Tensor) and value.is_floating_point()]
    assert numbers and all(value.isfinite().all() for value in numbers)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_committed_with_what_its_cells_gave(notebook: Path) -> None:
    printed = [text for cell in cells(notebook) for out in cell["outputs"] for text in out.get("text", [])]
    pictures = [out for cell in cells(notebook) for out in cell["outputs"] if "image/png" in out.get("data", {})]
    assert printed and pictures and all(cell["execution_count"] for cell in cells(notebook))
    assert not any(out["output_type"] == "error" for cell in cells(notebook) for out in cell["outputs"])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_opens_in_colab_and_tells_how_long_it_takes(notebook: Path) -> None:
    first = "".join(json.loads(notebook.read_text())["cells"][0]["source"])
    assert f"(https://colab.research.google.com/github/sdegen/sdegen/blob/main/docs/notebooks/{notebook.name})" in first
    downloads = any(re.search(r"data\.(fashion_)?mnist\(", "".join(cell["source"])) for cell in cells(notebook))
    assert downloads == ("sdegen[data] @" in first)  # what downloads is an extra
    told = re.search(r"the cells took (\d+) s of one core", first)
    when = [cell["metadata"]["execution"] for cell in cells(notebook)]
    began, ended = (
        datetime.fromisoformat(stamp) for stamp in (when[0]["iopub.execute_input"], when[-1]["shell.execute_reply"])
    )
    assert told and int(told[1]) == round((ended - began).total_seconds())
