"""Faults that happened, in one order, although several injectors tell of them."""

from collections.abc import Callable, Sequence

from loadfuzz.faults.plan import Fault


class StruckLog:
    """One list of what struck.

    Args:
        sources: what each injector that keeps a list of its own has done so far; of two
            that strike between two looks, the earlier in this order is put first.
    """

    def __init__(self, *sources: Callable[[], Sequence[Fault]]) -> None:
        self._sources = sources
        self._seen = [0] * len(sources)
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """A fault that is in no injector's list strikes now."""
        self._look()
        self._faults.append(fault)

    def all(self) -> Sequence[Fault]:
        """What has struck so far."""
        self._look()
        return tuple(self._faults)

    def _look(self) -> None:
        for index, source in enumerate(self._sources):
            told = source()
            self._faults += told[self._seen[index] :]
            self._seen[index] = len(told)
