"""An explicit registry: names to creators. Heavy imports happen inside the creator."""

import difflib
from collections.abc import Callable
from typing import Generic, TypeVar

from cloudcrest.kernel.errors import NotFound

Creator = TypeVar("Creator", bound=Callable[..., object])


class Registry(Generic[Creator]):
    """Creators by name, for one kind of thing ("engine", "artifact source")."""

    def __init__(self, kind: str, creators: dict[str, Creator]) -> None:
        self._kind = kind
        self._creators = dict(creators)

    def names(self) -> list[str]:
        """The registered names, sorted."""
        return sorted(self._creators)

    def __getitem__(self, name: str) -> Creator:
        """The creator of `name`. Raises `NotFound` naming what there is."""
        if name in self._creators:
            return self._creators[name]
        raise NotFound(f"there is no {self._kind} '{name}'", hint=f"known: {', '.join(self.names())}")


def close_matches(name: str, known: list[str], limit: int = 3) -> list[str]:
    """The known names most like `name`, best first; for "did you mean" messages."""
    folded = {candidate.lower(): candidate for candidate in known}
    return [folded[match] for match in difflib.get_close_matches(name.lower(), list(folded), n=limit, cutoff=0.5)]
