"""The target ``callable``: a Python function that loads a stream, in our own process.

It is named by where it is, as one variant::

    callable:myloader:load
    callable:myloader:Machine.load_stream,path=src,reject=myloader.BadStream,input=reader

What the function is given, its first parameter's annotation says, or the option ``input``:

==========  =================================================================================
``bytes``   all of the stream; also where there is no annotation
``reader``  an :class:`asyncio.StreamReader`, fed one piece whenever the loader waits for more
``file``    a binary file that can be read, which has no more than one piece at hand
==========  =================================================================================

The other options: ``path``, a folder to import from; ``reject``, as often as needed, classes of
exceptions that refuse a stream; ``state=return`` for a function whose return value stands for
the state it has loaded, by its ``repr``.  A ``savevm.LoadError`` always refuses.  Without
``reject``, so do ``EOFError`` (an :class:`asyncio.IncompleteReadError` is one) and
``ValueError``: the two that the standard library raises for data that ends early or makes no
sense.  Whatever else leaves the function is a finding.  A loader with an exception of its own
should name it, so that a ``ValueError`` by mistake is found, too.

What can go wrong around it: see ``docs/own-loader.md``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from loadfuzz import variants
from loadfuzz.abc import Subject
from loadfuzz.errors import UsageError
from loadfuzz.inputs import Seed
from loadfuzz_targets.callable_finding import Call, Gives, find
from loadfuzz_targets.callable_subject import CallableSubject
from loadfuzz_targets.layouts import Layouts
from loadfuzz_targets.reference import TARGET as REFERENCE
from loadfuzz_targets.understanding import understood
from savevm.document import Document
from savevm.errors import LoadError

NAME: Final = "callable"
EXAMPLE: Final = "callable:myloader:load"
_OPTIONS: Final = frozenset({"path", "reject", "input", "state"})


@dataclass(frozen=True, slots=True)
class CallableTarget:
    """A function that loads a stream (:class:`loadfuzz.abc.Target`).

    Attributes:
        name: ``callable``, or ``callable:VARIANT``.
        call: what is called; ``None`` where nothing is named yet.
    """

    name: str = NAME
    call: Call | None = None
    _layouts: Layouts = field(default_factory=Layouts, compare=False, repr=False)

    @property
    def summary(self) -> str:
        """One line about it."""
        if self.call is None:
            return f"a Python function of yours, sync or async ({EXAMPLE!r})"
        return f"the Python function {self.call.place}"

    @property
    def instrument(self) -> Sequence[str]:
        """The package that the function is in."""
        return () if self.call is None else (self.call.module.partition(".")[0],)

    def open(self) -> Subject:
        """The function, imported.

        Raises:
            UsageError: there is no such function, or nothing is named.
        """
        if self.call is None:
            raise UsageError(
                f"target {NAME!r} needs a function: name it like {EXAMPLE!r}; add ,path=DIR for "
                "the folder to import it from"
            )
        return CallableSubject(find(self.call), _first_seed)

    def seeds(self) -> Iterable[Seed]:
        """What the reference's machines have saved; a loader of other machines is given its
        own."""
        return REFERENCE.seeds()

    def parse(self, stream: bytes) -> Document:
        """The stream as a Document, laid out as the reference's devices are, others by the
        stream's own vmdesc.

        It has one problem more than it shows: what else the function may have to refuse,
        nobody can say.  So no-false-reject, which takes a stream without a problem for a
        good one, keeps quiet about refusals of mutated streams.
        """
        document = understood(stream, self._layouts)
        document.problems.append(
            LoadError(
                "the loader's own rules are not known here",
                offset=document.size,
                path=("loader",),
            )
        )
        return document

    def variant(self, name: str) -> "CallableTarget":
        """The target for a function, see the module.

        Raises:
            UsageError: it makes no sense.
        """
        place, options = variants.split(name)
        module, colon, attribute = place.partition(":")
        if not (colon and module and attribute):
            raise UsageError(f"{place!r} is no MODULE:FUNCTION; name it like {EXAMPLE!r}")
        given: dict[str, list[str]] = {key: [] for key in _OPTIONS}
        for key, value in options:
            if key not in _OPTIONS:
                raise UsageError(
                    f"a callable has no option {key!r}; it has {', '.join(sorted(_OPTIONS))}"
                )
            given[key].append(value)
        state = given["state"][-1] if given["state"] else ""
        if state not in ("", "return"):
            raise UsageError(f"state={state} means nothing; state=return is what there is")
        return CallableTarget(
            f"{NAME}:{name}",
            Call(
                module, attribute, tuple(given["path"]), tuple(given["reject"]),
                _gives(given["input"][-1]) if given["input"] else None, bool(state),
            ),
        )  # fmt: skip

    def variants(self) -> Sequence[str]:
        """None: nobody can list all functions."""
        return ()


def _gives(text: str) -> Gives:
    try:
        return Gives(text)
    except ValueError:
        raise UsageError(f"input={text} is none of {', '.join(Gives)}") from None


def _first_seed() -> bytes:
    return next(iter(REFERENCE.seeds())).stream


TARGET: Final = CallableTarget()
