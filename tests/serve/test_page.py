"""The page in headless Chromium, with a clip of the examples as its microphone.

Needs playwright (the Python package) and a Chromium of the system; skips without.
"""

from __future__ import annotations

import shutil
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.serve.conftest import (
    EXAMPLES,
    LIGHTS,
    LIGHTS_TEXT,
    RunningServer,
    int16_of,
)

# A long command: a fake microphone on a busy machine may drop a piece of sound.
TIMER, TIMER_TEXT = EXAMPLES / "set-a-timer-for-five-minutes.flac", "set a timer for five minutes"
PAGE = EXAMPLES.parent / "src" / "earshot" / "serve" / "page"
WAIT_MS = 30_000


def test_everything_comes_from_this_server() -> None:
    """No address of another host in any file, and nothing inline that the policy would refuse."""
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        outside = [
            line
            for line in text.splitlines()
            if "//" in line and "http" in line.split("//")[0][-6:]
        ]
        allowed = ("http://www.w3.org/",)  # a name space, never fetched
        assert all(any(name in line for name in allowed) for line in outside), outside
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert "style=" not in html
    assert "<script>" not in html
    assert " on" + "click" not in html


def test_files_have_a_strict_policy_and_names_no_paths(server: RunningServer) -> None:
    answer = httpx.get(f"{server.http}/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    script = httpx.get(f"{server.http}/page/app.js")
    assert script.headers["content-type"].startswith("text/javascript")
    for name in ("nothing.js", "..%2fapp.py", "%2e%2e/app.py", "__init__.py"):
        assert httpx.get(f"{server.http}/page/{name}").status_code == 404


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fake microphone plays: quiet, the command, and quiet enough for the final end."""
    path = tmp_path_factory.mktemp("page") / "clip.wav"
    speech = int16_of(TIMER, silence_s=5.0, rate_hz=48_000)
    noise = np.random.default_rng(1).normal(0, 8, len(speech) + 24_000)
    samples = np.concatenate([np.zeros(24_000, np.int16), speech]) + noise
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(samples.clip(-32768, 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def open_page(recording: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page: `with open_page(server, width=..., dark=...) as page`."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
    )
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={recording}%noloop",
            ],
        )

        @contextmanager
        def opened(
            server: RunningServer, *, path: str = "/", width: int = 1280, dark: bool = False
        ) -> Iterator[Any]:
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme="dark" if dark else "light",
                permissions=["microphone"],
            )
            page = context.new_page()
            page.complaints = []
            page.addresses = []
            page.on("pageerror", lambda err: page.complaints.append(str(err)))
            page.on(
                "console",
                lambda said: page.complaints.append(said.text) if said.type == "error" else None,
            )
            page.on("request", lambda request: page.addresses.append(request.url))
            page.goto(f"{server.http}{path}")
            try:
                yield page
            finally:
                context.close()

        yield opened
        browser.close()


def said(page: Any) -> str:
    page.wait_for_selector("#said li", timeout=WAIT_MS)
    return str(page.inner_text("#said li span:first-child"))


def test_press_and_speak(command_server: RunningServer, open_page: Callable[..., Any]) -> None:
    """By keyboard alone: space, speech, words, both ends, the intent, space."""
    with open_page(command_server) as page:
        partials = page.evaluate_handle(
            "() => { const seen = []; new MutationObserver(() => seen.push("
            "document.getElementById('live').textContent)).observe("
            "document.getElementById('live'), {subtree: true, childList: true, "
            "characterData: true}); return seen; }"
        )
        page.keyboard.press("Space")
        page.wait_for_selector('#talk[aria-pressed="true"]', timeout=WAIT_MS)
        assert len(set(said(page).split()) & set(TIMER_TEXT.split())) >= 4
        assert page.get_attribute(".intent", "data-state") == "sure"
        assert page.inner_text("#figure-won").endswith("ms")
        assert page.inner_text("#figure-words").endswith("ms")
        label = page.get_attribute("#timeline", "aria-label")
        assert "won" in label
        assert "1 final ends" in label
        assert any("timer" in text for text in partials.json_value())
        page.keyboard.press("Space")
        page.wait_for_selector('#talk[aria-pressed="false"]:enabled', timeout=WAIT_MS)
        assert page.inner_text("#state") == "ready"
        assert page.complaints == []
        hosts = {address.split("/")[2] for address in page.addresses}
        assert hosts == {command_server.http.removeprefix("http://")}


def test_a_file_instead_of_a_microphone(
    server: RunningServer, open_page: Callable[..., Any]
) -> None:
    with open_page(server, width=390, dark=True) as page:
        page.set_input_files("#file", LIGHTS)
        assert said(page) == LIGHTS_TEXT
        page.wait_for_selector('#talk[aria-pressed="false"]:enabled', timeout=WAIT_MS)
        # On a phone nothing sticks out of the screen.
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.set_input_files(
            "#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no sound"}
        )
        page.wait_for_selector("#problem:not([hidden])", timeout=WAIT_MS)
        assert "notes.txt" in page.inner_text("#problem")


def test_a_dropped_file(command_server: RunningServer, open_page: Callable[..., Any]) -> None:
    with open_page(command_server) as page:
        page.evaluate(
            """async (bytes) => {
                const file = new File([new Uint8Array(bytes)], "clip.flac");
                const data = new DataTransfer();
                data.items.add(file);
                document.dispatchEvent(new DragEvent("drop", {dataTransfer: data}));
            }""",
            list(LIGHTS.read_bytes()),
        )
        assert said(page) == LIGHTS_TEXT
        assert page.inner_text("#intent-name") == "TurnOn"
        assert "light" in page.inner_text("#slots")


def test_a_token_is_asked_for_and_leaves_the_address(
    serving: Callable[..., RunningServer], open_page: Callable[..., Any], tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("correct-horse-battery\n")
    server = serving(token_file=tokens)
    with open_page(server) as page:
        page.set_input_files("#file", LIGHTS)
        page.wait_for_selector("#token-form:not([hidden])", timeout=WAIT_MS)
        page.fill("#token", "correct-horse-battery")
        page.keyboard.press("Enter")
        page.set_input_files("#file", LIGHTS)
        assert said(page) == LIGHTS_TEXT
    with open_page(server, path="/?token=correct-horse-battery") as page:
        assert "token" not in page.url
        page.set_input_files("#file", LIGHTS)
        assert said(page) == LIGHTS_TEXT


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_what_can_be_used_has_a_name_and_contrast(
    server: RunningServer, open_page: Callable[..., Any], width: int, dark: bool
) -> None:
    """WCAG 2.2 AA: every control has a name, and text at least 4.5:1 against its ground."""
    with open_page(server, width=width, dark=dark) as page:
        page.evaluate("document.getElementById('unstable').textContent = 'may still change'")
        ratios = page.evaluate(CONTRAST)
        assert ratios
        assert {text: ratio for text, ratio in ratios if ratio < 4.5} == {}
        nameless = page.evaluate(
            "() => [...document.querySelectorAll('button, input, a, canvas, meter, [role]')]"
            ".filter((e) => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') "
            "|| e.labels?.length || e.textContent.trim() || ['status', 'alert'].includes("
            "e.getAttribute('role')))).map((e) => e.id || e.outerHTML)"
        )
        assert nameless == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "talk"


# Relative luminance as in WCAG 2.2, of every visible text against the first ground behind it.
CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility()) continue;
    if (element.closest(".quiet, noscript, script")) continue;
    let ground = element;
    while (ground && rgb(getComputedStyle(ground).backgroundColor)[3] === 0) {
      ground = ground.parentElement;
    }
    const a = light(rgb(getComputedStyle(element).color));
    const b = light(rgb(getComputedStyle(ground ?? document.body).backgroundColor));
    found.push([text.slice(0, 40), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return found;
}"""
