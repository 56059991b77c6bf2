"""Names that are not taken yet: a wish in; the wish, or the wish with a number, out."""

from __future__ import annotations

from collections.abc import Iterable


class Names:
    """The names that are in use.

    Parameters
    ----------
    taken : iterable of str
        Names in use from the start.

    Examples
    --------
    >>> names = Names(["a"])
    >>> [names.unique("a"), names.unique("a"), names.unique("b")]
    ['a_2', 'a_3', 'b']
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._counts: dict[str, int] = {}

    def unique(self, wish: str) -> str:
        """Return a name that nobody has had, and take it."""
        name = wish
        while name in self._taken:
            self._counts[wish] = self._counts.get(wish, 1) + 1
            name = f"{wish}_{self._counts[wish]}"
        self._taken.add(name)
        return name
