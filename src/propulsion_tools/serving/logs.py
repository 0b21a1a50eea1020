"""One JSON object for each line of the log. What a user sent is in none of them, nor are the messages of errors."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

LOG = logging.getLogger("propulsion.serve")


class JsonLines(logging.Formatter):
    """Time, level, event and facts; of an error its class and where it was raised."""

    def format(self, record: logging.LogRecord) -> str:
        """A line."""
        said = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line: dict[str, Any] = {"time": said, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "facts", {})
        if record.exc_info and record.exc_info[1] is not None:
            line |= _traced(record.exc_info[1])
        return json.dumps(line)


def _traced(error: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    return {"error": type(error).__name__, "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]}


def settings() -> dict[str, Any]:
    """For `logging.config.dictConfig`, and so for uvicorn: all to standard error."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonLines}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": sys.stderr}},
        "loggers": {
            name: {"handlers": ["stderr"], "level": "INFO", "propagate": False}
            for name in (LOG.name, "uvicorn", "uvicorn.error")
        },
    }
