"""The container image's files, as far as they can be held to something without Docker."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSE = ROOT / "docker" / "compose.yaml"


def instructions() -> list[list[str]]:
    """The Dockerfile's instructions as words, comments dropped and continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [line.split() for line in joined.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """A copy of what .dockerignore lets Docker see."""
    rules = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in rules
    folder = tmp_path_factory.mktemp("context")
    for name in (rule[1:] for rule in rules if rule.startswith("!")):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, target, symlinks=True, ignore=ignored)
        else:
            shutil.copy2(source, target)
    return folder


def test_everything_copied_is_in_the_context(context):
    stages = {words[-1] for words in instructions() if words[0] == "FROM" and "AS" in words}
    copies = [words[1:] for words in instructions() if words[0] == "COPY"]
    assert copies
    for *sources, _ in copies:
        if sources[0].startswith("--from="):
            assert sources[0].removeprefix("--from=") in stages
            continue
        for source in sources:
            assert (context / source).exists(), f"COPY {source}: not let through by .dockerignore"


def test_links_of_the_ros_package_lead_somewhere_in_the_context(context):
    for name in ("launch", "config"):
        assert any((context / "hamst3r_ros" / name).iterdir())


def test_the_library_installs_from_the_context_with_body_and_weights(context, tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*pip, *options, str(context)], check=True)
    (wheel,) = tmp_path.glob("hamst3r-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "hamst3r/data/anny24.npz" in names
    assert any(name.endswith("share/hamst3r/weights/hamst3r_compact.safetensors") for name in names)
    packages = {path.parent.relative_to(ROOT) for path in (ROOT / "hamst3r").rglob("__init__.py")}
    assert packages == {Path(name).parent for name in names if name.endswith("__init__.py")}


def test_compose_builds_variants_that_the_dockerfile_has():
    compose = yaml.safe_load(COMPOSE.read_text())
    stages = {words[-1] for words in instructions() if words[0] == "FROM" and "AS" in words}
    arguments = {words[1].split("=")[0] for words in instructions() if words[0] == "ARG"}
    services = dict(compose["services"])
    assert set(services) == {"cpu", "cuda", "jetson", "viewer"}
    viewer = services.pop("viewer")
    folder = COMPOSE.parent / viewer["build"]["context"]
    assert (folder / viewer["build"]["dockerfile"]).is_file()
    assert "address:=127.0.0.1" in viewer["command"] and viewer["profiles"] == ["viewer"]
    for name, service in services.items():
        build = service["build"]
        assert (COMPOSE.parent / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE
        assert set(build["args"]) <= arguments
        assert f"torch-{build['args']['TORCH']}" in stages
        assert service.get("profiles", ["cpu"]) == [name]
        assert ("deploy" in service) == (name == "cuda")
    named = {volume.split(":-")[1].split("}")[0] for volume in service["volumes"]}
    assert named == set(compose["volumes"])


def test_the_image_starts_what_the_ros_package_installs():
    command = next(words for words in instructions() if words[0] == "CMD")
    compose = yaml.safe_load(COMPOSE.read_text())["services"]["cpu"]["command"].split()
    launched = re.findall(r"[\w.]+", " ".join(command[1:]))
    assert launched == compose[:4] == ["ros2", "launch", "hamst3r_ros", "multi_cam.launch.py"]
    assert (ROOT / "launch" / launched[-1]).is_file()


def test_the_entrypoint_is_a_valid_and_executable_script():
    entrypoint = ROOT / "docker" / "entrypoint.sh"
    assert entrypoint.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(entrypoint)], check=True)
