"""What is built from the repository, and the files of its root: all files and no rows, one version, links that lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import sdegen

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as an installation lays it out."""
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.fixture(scope="module")
def metadata(unpacked: Path) -> Message:
    """What an index shows of the wheel, the README as its body."""
    (file,) = unpacked.glob("*.dist-info/METADATA")
    return Parser().parsestr(file.read_text())


def test_the_source_distribution_holds_what_is_written_and_no_results(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as members:
        names = {name.partition("/")[2] for name in members.getnames()}
    assert not [name for name in names if name.startswith("benchmarks/results")]
    assert names >= {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "constraints.txt"}
    assert names >= {
        str(p.relative_to(ROOT)) for folder in ("tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")
    }


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(unpacked: Path) -> None:
    packed = {str(p.relative_to(unpacked)) for p in unpacked.rglob("*") if p.is_file()}
    written = {str(p.relative_to(ROOT)) for p in (ROOT / "sdegen").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert {name for name in packed if ".dist-info/" not in name} == written


def test_the_wheel_alone_draws_a_picture(unpacked: Path, tmp_path: Path) -> None:
    code = "import sdegen; print(sdegen.__file__); print(sdegen.sample(sdegen.pretrained('sprites'), 2, steps=2).shape)"
    environment = {k: v for k, v in os.environ.items() if k != "SDEGEN_DATA"}
    environment |= {"PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}  # others look at what is unpacked
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == [str(unpacked / "sdegen" / "__init__.py"), "torch.Size([2, 3, 16, 16])"], done


def test_heavy_packages_load_on_use_not_with_the_library_which_is_loaded_without_a_search() -> None:
    heavy = ("matplotlib", "torchsde", "torchdiffeq", "scipy", "sklearn", "PIL", "accelerate", "diffusers")
    code = f"""
import gc, sys, torch
before, found = set(sys.modules), gc.get_objects
searches = []
gc.get_objects = lambda: searches.append("a search of all objects") or found()
import sdegen
print({{*{heavy}}} & (sys.modules.keys() - before), searches)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set() []\n", done.stdout + done.stderr  # a search takes as long as a dozen modules


@pytest.mark.skipif(
    not (ROOT / "benchmarks" / "results").exists(), reason="a source distribution leaves the pictures out"
)
def test_links_of_the_readme_lead_somewhere_from_an_index_page_too(metadata: Message) -> None:
    home = PROJECT["urls"]["Source"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    readme, shown = (ROOT / "README.md").read_text(), metadata.get_payload()
    assert isinstance(shown, str)
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", shown)
    assert len(links) == len(re.findall(r"\]\(", readme)) > 10
    for picture, link in links:
        place = f"{home.replace('github.com', 'raw.githubusercontent.com')}/main/" if picture else f"{home}/blob/main/"
        assert link.startswith("https://")
        if home.partition("//")[2].partition("/")[2] in link:  # a file of the repository
            assert link.startswith(place) and (ROOT / link.removeprefix(place).partition("#")[0]).exists(), link


def test_there_is_one_version(metadata: Message) -> None:
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited is not None and newest is not None
    assert cited[1] == newest[1] == metadata["Version"] == sdegen.__version__


def test_the_workflow_runs_the_pythons_that_are_promised() -> None:
    promised = [found[1] for c in PROJECT["classifiers"] if (found := re.search(r":: (3\.\d+)$", c))]
    matrix = re.search(r"matrix: \{python: \[(.*?)\]", (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert matrix is not None and re.findall(r"[\d.]+", matrix[1]) == promised
    assert PROJECT["requires-python"] == f">={promised[0]}"
