"""The site: it builds without a warning, and what it says of the code is so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from blocks import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import docs_pages

from hamst3r import cli
from hamst3r.evaluation.datasets.registry import DATASETS

# Pages that have their own authors; until they are there the build gets along without.
ELSEWHERE = ("quickstart.md", "robot.md", "worlds.md")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built strictly: a broken link or a page without a place is an error."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    for name in ELSEWHERE:
        page = folder / "docs" / name
        if not page.exists():
            page.write_text(f"# {name}\n", encoding="utf-8")
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    config = config.replace("scripts/docs_pages.py", str(ROOT / "scripts" / "docs_pages.py"))
    (folder / "mkdocs.yml").write_text(config, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "site")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


def text_of(page: Path) -> str:
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")).replace("&lt;", "<")


def test_every_page_is_there(site):
    pages = {path.parent.relative_to(site).as_posix() for path in site.rglob("index.html")}
    assert pages >= {
        ".",
        "quickstart",
        "robot",
        "concepts",
        "troubleshooting",
        "parameters",
        "messages",
        "commands",
        "training",
        "evaluation",
        "architecture",
        "contributing",
    }


def test_no_page_asks_another_server(site):
    for page in site.rglob("*.html"):
        asked = re.findall(
            r'<(?:link|script|img)[^>]*(?:href|src)="(https?:[^"]+)"', page.read_text()
        )
        assert not asked, page


def test_every_field_of_every_message_is_in_the_reference(site):
    page = (site / "messages" / "index.html").read_text(encoding="utf-8")
    files = [*(ROOT / "msg").glob("*.msg"), *(ROOT / "msg" / "srv").glob("*.srv")]
    assert len(files) >= 6
    for path in files:
        assert f">{path.stem}" in page
        for line in path.read_text(encoding="utf-8").splitlines():
            if line and line[0] not in "#-":
                name = re.split(r"[\s=]+", line)[1]
                assert f"<code>{name}</code>" in page, f"{path.name}: {name}"


def test_every_command_is_in_the_reference(site):
    text = text_of(site / "commands" / "index.html")
    for name in cli.COMMANDS:
        assert f"usage: hamst3r {name}" in text
    for name in DATASETS:
        assert f"usage: hamst3r eval {name}" in text


def test_every_data_set_is_described(site):
    text = text_of(site / "evaluation" / "index.html")
    for dataset in DATASETS.values():
        assert dataset.layout in text.replace("&gt;", ">"), dataset.name
        assert dataset.choice in text.replace("&#39;", "'"), dataset.name


def test_messages_are_tables():
    lines = docs_pages.messages().splitlines()
    heads = [k for k, line in enumerate(lines) if line.startswith(("| field", "| constant"))]
    assert len(heads) >= 10
    assert all(lines[k - 1] == "" and lines[k + 1] == "| --- | --- | --- |" for k in heads)


# --- what the pages say ---------------------------------------------------------------------------


def sources() -> str:
    """All that the code can say, as one text: strings that go on are joined."""
    files = [*(ROOT / "hamst3r").rglob("*.py"), *(ROOT / "hamst3r_ros").rglob("*.py")]
    files += [ROOT / "scripts" / "setup"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return re.sub(r'"\s*\n\s*f?"', "", text).replace("'$tool'", "'g++' 'cmake'")


def test_quoted_log_messages_are_those_of_the_code():
    """In the first column of troubleshooting.md everything in backticks is said by the code."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    code = sources()
    quoted = []
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| you see"):
            quoted += re.findall(r"`([^`]+)`", line.split("|")[1])
    quoted = [words for words in quoted if not words.startswith(("ros2 ", "ImportError", "no '"))]
    assert len(quoted) >= 14
    for words in quoted:
        # What stands in braces in the code stands between quotations on the page.
        assert words in code, words


def test_parameters_that_pages_name_exist():
    table = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\| `([\w.]+)`", table, re.MULTILINE))
    groups = {name.split(".")[0] for name in known if "." in name}
    for name in ("troubleshooting.md", "concepts.md"):
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        for word in re.findall(r"`([a-z_]+\.[a-z_]+)`", text):
            if word.split(".")[0] in groups:
                assert word in known, f"{name}: {word}"


def test_drawings_are_those_of_the_script(tmp_path):
    subprocess.run([sys.executable, ROOT / "scripts" / "docs_figures", tmp_path], check=True)
    for drawn in tmp_path.glob("*.svg"):
        own = ROOT / "docs" / "images" / drawn.name
        assert own.read_text() == drawn.read_text(), "run scripts/docs_figures"
    # The generated room may look better by now than when the picture was made.
    a, b = (cv2.imread(str(f / "labels.png")) for f in (tmp_path, ROOT / "docs" / "images"))
    assert a.shape == b.shape
    height = len(a) // 4
    for row in range(4):
        assert a[row * height : (row + 1) * height, 150:].std() > 10
