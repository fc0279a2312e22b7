"""Structured logs: one JSON object a line on stderr. Knows nothing of what is logged.

What people said is not logged; code that has it passes it as the field `transcript`, which is
left out unless the server was told to keep it.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_TRANSCRIPT = "transcript"
logger = logging.getLogger("earshot.serve")


class JsonLines(logging.Formatter):
    """Writes a record as one JSON object.

    Args:
        keep_transcripts: Let the field `transcript` through.
    """

    def __init__(self, *, keep_transcripts: bool) -> None:
        super().__init__()
        self._keep = keep_transcripts

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line: time, level, event, and the fields it was logged with."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        for name, value in getattr(record, "fields", {}).items():
            if name != _TRANSCRIPT or self._keep:
                entry[name] = value
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def log(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log that something happened.

    Args:
        event: What, as a short name: `stream closed`.
        level: As in `logging`.
        fields: Particulars; `transcript` is kept only where the server was told to.
    """
    logger.log(level, event, extra={"fields": fields})


def configure(*, keep_transcripts: bool, level: int = logging.INFO) -> None:
    """Send the server's log, and that of the libraries below it, to stderr.

    Args:
        keep_transcripts: Let what was said into the log.
        level: The least level that is logged.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(keep_transcripts=keep_transcripts))
    for name in ("earshot.serve", "uvicorn", "zeroconf"):
        target = logging.getLogger(name)
        target.handlers = [handler]
        target.propagate = False
        target.setLevel(level)
    # Libraries below log lines with addresses and tokens in their query strings: ours are enough.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").setLevel(max(level, logging.WARNING))
