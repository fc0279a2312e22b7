"""Start the server with the options of the add-on, and tell Home Assistant where Wyoming is."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

OPTIONS = Path("/data/options.json")
HTTP_PORT, WYOMING_PORT = 8080, 10300
TRIES, WAIT_S = 30, 2.0


def arguments(options: dict[str, Any]) -> list[str]:
    """The command line for the options that were chosen."""
    found = ["serve", "--host", "0.0.0.0", "--no-zeroconf"]
    found += ["--http-port", str(HTTP_PORT), "--wyoming-port", str(WYOMING_PORT)]
    for path in options.get("commands") or []:
        found += ["--commands", path]
    if options.get("model"):
        found += ["--model", options["model"]]
    if options.get("endpointing"):
        found.append("--wyoming-endpointing")
    if options.get("log_transcripts"):
        found.append("--log-transcripts")
    return found


def announce(host: str, token: str) -> None:
    """Register Wyoming with the Supervisor once the server answers."""
    for _ in range(TRIES):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{HTTP_PORT}/healthz", timeout=2).close()
            break
        except OSError:
            time.sleep(WAIT_S)
    body = {"service": "wyoming", "config": {"uri": f"tcp://{host}:{WYOMING_PORT}"}}
    request = urllib.request.Request(
        "http://supervisor/discovery",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except OSError as err:
        sys.stderr.write(f"not announced to Home Assistant: {err}; add Wyoming by hand\n")


def main() -> None:
    """Serve; a thread announces it meanwhile."""
    options = json.loads(OPTIONS.read_text(encoding="utf-8")) if OPTIONS.exists() else {}
    token = os.environ.get("SUPERVISOR_TOKEN")
    if token:
        thread = threading.Thread(target=announce, args=(os.uname().nodename, token), daemon=True)
        thread.start()
    sys.argv = ["earshot", *arguments(options)]
    from earshot.cli.app import main as serve  # in this process: the thread lives on

    serve()


if __name__ == "__main__":
    main()
