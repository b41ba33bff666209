"""What the server writes about itself: lines for people or JSON, each with its session."""

from __future__ import annotations

import json
import logging
import re
import time
from contextvars import ContextVar

from lipwire.server.config import ServerConfig

# Ids open their sessions to whoever has them, so logs carry only their beginnings.
SHOWN = 6
ID = re.compile(r"[\w-]{32}")  # as it stands in addresses: 192 bits in base64
_session: ContextVar[str] = ContextVar("session", default="")


def name_session(name: str, public: bool = False) -> None:
    """Whatever this task and those it starts log from now on belongs to this session.

    Args:
        name: its id.
        public: it is a name that its publisher chose, no secret.
    """
    _session.set(name if public else name[:SHOWN])


class _WithSession(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.session = _session.get()
        if record.name == "uvicorn.access" and isinstance(record.args, tuple):
            record.args = tuple(
                ID.sub(lambda found: found[0][:SHOWN], part) if isinstance(part, str) else part
                for part in record.args
            )
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, session, message, error.

    What a call gives as `extra={"fields": {...}}` stands in it too.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if session := getattr(record, "session", ""):
            line["session"] = session
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """The same for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s%(place)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, and a traceback under it where there is one."""
        session = getattr(record, "session", "")
        record.place = f" [{session}]" if session else ""
        return super().format(record)


def set_up(settings: ServerConfig) -> None:
    """Log to stderr as the settings say; uvicorn's lines too."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    handler.addFilter(_WithSession())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    # At `info` these tell of every packet and candidate.
    for name in ("aioice", "aiortc", "httpx"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))
