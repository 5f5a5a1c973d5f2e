"""A selector that passes everything on: what loops with their own idea of waiting build on."""

import selectors
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike


class PassingSelector(selectors.BaseSelector):
    """The platform's selector behind ours; a subclass says what waiting is."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()

    def register(
        self, fileobj: "FileDescriptorLike", events: int, data: object = None
    ) -> selectors.SelectorKey:
        """See :meth:`selectors.BaseSelector.register`."""
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: "FileDescriptorLike") -> selectors.SelectorKey:
        """See :meth:`selectors.BaseSelector.unregister`."""
        return self._real.unregister(fileobj)

    def modify(
        self, fileobj: "FileDescriptorLike", events: int, data: object = None
    ) -> selectors.SelectorKey:
        """See :meth:`selectors.BaseSelector.modify`."""
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> "Mapping[FileDescriptorLike, selectors.SelectorKey]":
        """See :meth:`selectors.BaseSelector.get_map`."""
        return self._real.get_map()

    def close(self) -> None:
        """See :meth:`selectors.BaseSelector.close`."""
        self._real.close()
