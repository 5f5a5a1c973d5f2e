"""Finds targets by entry point, ours and anyone else's in the same way.

Nothing is imported to list names; a plug-in is imported when it is asked for,
and what it offers is checked then, so that a broken one costs nobody else
anything.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Final, cast

from loadfuzz.errors import InfraError, UsageError

if TYPE_CHECKING:  # the interfaces pull in the loader, which a list of names does not need
    from loadfuzz.abc import RemoteTarget, Target

TARGETS: Final = "loadfuzz.targets"
"""Entry-point group of targets."""

_FORMAT_NEEDS: Final = ("name", "summary", "seeds", "parse")
_TARGET_NEEDS: Final = (*_FORMAT_NEEDS, "instrument", "open")
_REMOTE_NEEDS: Final = (*_FORMAT_NEEDS, "stateful", "executor")


@dataclass(frozen=True, slots=True)
class Plugin:
    """Something that an installed distribution offers.

    Attributes:
        name: as on the command line.
        where: ``module:attribute``.
        distribution: that offers it, "" when unknown.
        rivals: other distributions' ``module:attribute`` under the same name;
            such a name cannot be used, because nobody could say what it means.
    """

    name: str
    where: str
    distribution: str
    rivals: tuple[str, ...] = ()


def find(group: str, points: Iterable[EntryPoint] | None = None) -> dict[str, Plugin]:
    """All plug-ins of a group, by name, sorted.

    Args:
        group: of entry points.
        points: to look through, for tests; the installed ones otherwise.
    """
    found: dict[str, Plugin] = {}
    for point in entry_points(group=group) if points is None else points:
        # The same distribution may be on the path twice; that is no conflict.
        distribution = point.dist.name if point.dist is not None else ""
        known = found.get(point.name)
        if known is None:
            found[point.name] = Plugin(point.name, point.value, distribution)
        elif point.value not in {known.where, *known.rivals}:
            rivals = (*known.rivals, point.value)
            found[point.name] = Plugin(known.name, known.where, known.distribution, rivals)
    return dict(sorted(found.items()))


def check_target_name(name: str, known: dict[str, Plugin] | None = None) -> Plugin:
    """The plug-in behind a target's name, without importing it.

    Args:
        name: of the target; what follows an ``@`` or ``:`` is not looked at.
        known: plug-ins by name, for tests.

    Raises:
        UsageError: there is none, or there are two.
    """
    name = name.partition("@")[0].partition(":")[0]
    known = find(TARGETS) if known is None else known
    plugin = known.get(name)
    if plugin is None:
        if not known:
            raise UsageError(
                f"no target {name!r}: no targets are installed at all; "
                "install loadfuzz as a package (pip install loadfuzz)"
            )
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise UsageError(f"no target {name!r}{hint} Targets: {', '.join(known)}")
    if plugin.rivals:
        raise UsageError(
            f"target {name!r} is offered twice, by {plugin.where} and {', '.join(plugin.rivals)}; "
            "uninstall one of them"
        )
    return plugin


def load_target(spec: str) -> "Target":
    """The target of that name, whose loader runs in our process.

    Args:
        spec: see :func:`load_any_target`.

    Raises:
        UsageError: there is none, or there are two; it does not fit; or its loader
            runs in a process of its own.
        InfraError: it cannot be imported, or is no target.
    """
    from loadfuzz.abc import RemoteTarget

    target = load_any_target(spec)
    if isinstance(target, RemoteTarget):
        raise UsageError(
            f"the loader of target {spec!r} runs in a process of its own, and this needs one that "
            "runs in ours; name another target"
        )
    return target


def load_any_target(spec: str) -> "Target | RemoteTarget":
    """The target of that name, fitted to a stream if ``spec`` says so.

    Args:
        spec: a name, ``NAME:VARIANT`` for one of its forms, either with
            ``@FILE`` behind it (:mod:`loadfuzz.fitting`).

    Raises:
        UsageError: there is none, or there are two; or it does not fit.
        InfraError: it cannot be imported, or is no target.
    """
    from loadfuzz.abc import RemoteTarget
    from loadfuzz.fitting import refit  # it pulls in the loader, as the target does

    name, colon, variant = spec.partition("@")[0].partition(":")
    plugin = check_target_name(name)
    point = EntryPoint(plugin.name, plugin.where, TARGETS)
    by = f" (of {plugin.distribution})" if plugin.distribution else ""
    try:
        target: object = point.load()
    except Exception as error:
        raise InfraError(
            f"target {name!r}{by} cannot be imported from {plugin.where}: "
            f"{type(error).__name__}: {error}; install what it needs, or repair it"
        ) from error
    remote = hasattr(target, "executor")
    needs = _REMOTE_NEEDS if remote else _TARGET_NEEDS
    missing = [need for need in needs if not hasattr(target, need)]
    if missing:
        raise InfraError(
            f"target {name!r}{by}, {plugin.where}, is no target: it lacks {', '.join(missing)}; "
            f"see loadfuzz.abc.{'RemoteTarget' if remote else 'Target'}"
        )
    whole = cast("Target | RemoteTarget", target)
    if colon:
        whole = _variant_of(whole, variant)
    return whole if isinstance(whole, RemoteTarget) else refit(whole, spec)


def _variant_of(target: "Target | RemoteTarget", variant: str) -> "Target | RemoteTarget":
    from loadfuzz.abc import HasVariants

    if not isinstance(target, HasVariants):
        raise UsageError(f"target {target.name!r} has no variants; name it alone")
    try:
        return target.variant(variant)
    except KeyError:
        raise UsageError(
            f"target {target.name!r} has no variant {variant!r}; it has: "
            f"{', '.join(target.variants())}"
        ) from None
