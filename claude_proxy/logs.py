"""Where log lines go and what they look like: stderr, one line each, text or JSON."""

import json
import logging

from .core.times import iso_time


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": iso_time(record.created, milliseconds=True),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(level: str, *, as_json: bool) -> None:
    """Send the log to stderr; waitress's own remarks only from warnings on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("waitress").setLevel(logging.WARNING)
    # A queue of requests behind busy threads is what the queue is for; waitress would warn of each.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
