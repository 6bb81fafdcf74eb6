"""What a client's model name stands for on this server, by its settings and by what the account has."""

import logging
import threading

from ..core.errors import ModelNotFound
from ..core.models import Catalogue, is_alias, resolve

log = logging.getLogger(__name__)

MOST_LOGGED = 1000


class ModelNames:
    """Resolves names. default: answers for names that are not known; refuses_unknown: it does not."""

    def __init__(self, catalogue: Catalogue, default: str, *, refuses_unknown: bool) -> None:
        self._catalogue = catalogue
        self._default = default
        self._refuses_unknown = refuses_unknown
        self._lock = threading.Lock()  # guards: _logged
        self._logged: set[str] = set()

    def resolve(self, name: str) -> str:
        """The CLI's name for a client's model name; a substitution is logged once. Raises ModelNotFound."""
        resolution = resolve(name or self._default, self._default)
        if not name or not resolution.substituted:
            return resolution.cli_model
        if self._refuses_unknown:
            raise ModelNotFound(f"The model {name[:80]!r} does not exist", param="model")
        with self._lock:
            is_first = name not in self._logged and len(self._logged) < MOST_LOGGED
            if is_first:
                self._logged.add(name)
        if is_first:
            log.warning("Model %.80r is not known here; %s answers for it", name, resolution.cli_model)
        return resolution.cli_model

    def is_listed(self, name: str) -> bool:
        """True for a name that the account's list has, or that is an alias of the CLI's."""
        return is_alias(name) or name in self._catalogue.listing()
