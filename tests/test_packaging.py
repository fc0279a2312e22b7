"""What cannot be built everywhere is at least read: container, add-on, unit, wheels.

The rules for the add-on are those of Home Assistant's documentation of add-on configuration.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import struct
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ADDON = Path("packaging") / "home-assistant" / "earshot"
CONFIG_KEYS = {
    "name", "version", "slug", "description", "url", "arch", "init", "startup", "boot",
    "discovery", "services", "ingress", "ingress_port", "panel_icon", "panel_title", "ports",
    "ports_description", "map", "options", "schema", "watchdog", "backup",
}  # fmt: skip


@pytest.fixture(scope="module")
def config(repository: Path) -> dict[str, Any]:
    """The add-on's config.yaml."""
    loaded: dict[str, Any] = yaml.safe_load((repository / ADDON / "config.yaml").read_text())
    return loaded


def test_the_addon_has_what_home_assistant_asks_for(
    repository: Path, config: dict[str, Any]
) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert {"name", "version", "slug", "description", "arch"} <= set(config) <= CONFIG_KEYS
    assert config["version"] == project["version"]
    assert re.fullmatch(r"[-_.A-Za-z0-9]+", config["slug"])
    assert set(config["arch"]) <= {"aarch64", "amd64", "armhf", "armv7", "i386"}
    assert config["startup"] in ("initialize", "system", "services", "application", "once")
    assert config["boot"] in ("auto", "manual", "manual_only")
    assert all(re.fullmatch(r"\d+/(tcp|udp)", port) for port in config["ports"])
    assert set(config["ports_description"]) == set(config["ports"])
    assert config["discovery"] == ["wyoming"]
    required = {name for name, kind in config["schema"].items() if not str(kind).endswith("?")}
    assert required == set(config["options"])
    build = yaml.safe_load((repository / ADDON / "build.yaml").read_text())
    assert set(build["build_from"]) == set(config["arch"])
    for name in ("DOCS.md", "CHANGELOG.md", "Dockerfile", "run.py"):
        assert (repository / ADDON / name).is_file()


@pytest.mark.parametrize("language", ["en", "de"])
def test_every_option_has_a_name_in_every_language(
    repository: Path, config: dict[str, Any], language: str
) -> None:
    path = repository / ADDON / "translations" / f"{language}.yaml"
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(found["configuration"]) == set(config["schema"])
    assert set(found["network"]) == set(config["ports"])
    for entry in found["configuration"].values():
        assert entry["name"].strip()
        assert entry["description"].strip().endswith(".")


@pytest.mark.parametrize(("name", "size"), [("icon", (128, 128)), ("logo", (250, 100))])
def test_pictures_have_the_size_that_is_shown(
    repository: Path, name: str, size: tuple[int, int]
) -> None:
    data = (repository / ADDON / f"{name}.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == size


def test_the_addon_starts_the_server_with_its_options(
    repository: Path, config: dict[str, Any]
) -> None:
    spec = importlib.util.spec_from_file_location("addon_run", repository / ADDON / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    everything = {
        "commands": ["/share/a.yaml", "/share/b"],
        "model": "/share/m.ear",
        "endpointing": True,
        "log_transcripts": True,
    }
    assert set(everything) == set(config["schema"])
    from typer.main import get_command

    from earshot.cli.app import app

    serve = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    for options in ({}, config["options"], everything):
        arguments = module.arguments(options)
        assert arguments[0] == "serve"
        context = serve.make_context("serve", arguments[1:])  # raises on an unknown option
        assert context.params["host"] == "0.0.0.0"
        assert list(context.params["commands"] or ()) == options.get("commands", [])
        assert context.params["wyoming_endpointing"] == bool(options.get("endpointing"))


@pytest.mark.parametrize("path", ["packaging/Dockerfile", str(ADDON / "Dockerfile")])
def test_containers_copy_what_exists_and_run_without_root(repository: Path, path: str) -> None:
    text = (repository / path).read_text()
    context = repository if path == "packaging/Dockerfile" else (repository / path).parent
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, flags=re.MULTILINE):
        for source in line.split()[:-1]:
            assert (context / source).exists(), source
    assert "STOPSIGNAL SIGTERM" in text
    if path == "packaging/Dockerfile":
        assert re.search(r"^USER (?!root|0)\S+", text, flags=re.MULTILINE)
        assert "latest" not in text
        ignored = (repository / f"{path}.dockerignore").read_text().splitlines()
        copied = {line.split()[0] for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M)}
        assert ignored[0] == "*"
        assert all(f"!{name}" in ignored for name in copied)


def test_hadolint_finds_nothing(repository: Path) -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    files = [repository / "packaging" / "Dockerfile", repository / ADDON / "Dockerfile"]
    done = subprocess.run([hadolint, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_systemd_reads_the_unit(repository: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    text = (repository / "packaging" / "systemd" / "earshot.service").read_text()
    unit = tmp_path / "earshot.service"
    unit.write_text(text.replace("/opt/earshot/bin/earshot", sys.executable))
    done = subprocess.run(
        [analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if "earshot" in line]
    assert not said
    assert done.returncode == 0, done.stderr


def test_wheels_are_built_for_what_is_promised(repository: Path) -> None:
    pyproject = tomllib.loads((repository / "pyproject.toml").read_text())
    settings = pyproject["tool"]["cibuildwheel"]
    assert settings["linux"]["archs"] == ["x86_64", "aarch64"]
    supported = [
        line.rpartition(" ")[2].replace(".", "")
        for line in pyproject["project"]["classifiers"]
        if re.search(r":: 3\.\d+$", line)
    ]
    assert [name.removeprefix("cp").removesuffix("-*") for name in settings["build"]] == supported
