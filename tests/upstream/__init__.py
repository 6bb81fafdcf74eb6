"""The upstream that tests put behind the CLI: the demo's Messages API, made as strict as the real one, and recorded.

upstream            the two together, started and stopped like the demo
rules, history      what the real API refuses
recorder            the last requests, and what became of them
"""

from .recorder import RecordedRequest
from .upstream import Upstream

__all__ = ["RecordedRequest", "Upstream"]
