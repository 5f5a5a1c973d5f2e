"""What the target ``migration`` does with one byte string: lets its story happen."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from loadfuzz.faults.kinds import Expectation, FaultKind, Layer, PlaceKind
from loadfuzz.faults.plan import NO_FAULTS, Fault, FaultPlan
from loadfuzz.findings import Violation
from loadfuzz.inputs import Delivery
from loadfuzz.simulation.machines import Stable
from loadfuzz.simulation.scenario import Act, Attempt, Deed, Scenario
from loadfuzz.simulation.spelling import decode
from loadfuzz.simulation.story import Ending, Story
from loadfuzz.simulation.world import World
from loadfuzz_targets.migration_bugs import MigrationBug
from savevm.errors import LoadError
from savevm.trace import Trace

_HOLD_BACK: Final = frozenset({FaultKind.DUPLICATE, FaultKind.REORDER})
_DEEDS: Final = {FaultKind.KILL: Deed.KILL_DESTINATION, FaultKind.CANCEL: Deed.CANCEL}


class MigrationSubject:
    """Stories, one after another (:class:`loadfuzz.abc.Subject`).

    Args:
        otherwise: what is saved before any story was accepted: a good one.
        bug: planted in them, if any.
    """

    def __init__(self, otherwise: bytes, bug: MigrationBug | None = None) -> None:
        self._otherwise = otherwise
        self._stable = Stable(None if bug is None else bug.plant)
        self._story: Story | None = None
        self._world: World | None = None
        self._stream = b""
        self._done: tuple[Fault, ...] = ()

    def load(self, stream: bytes, delivery: Delivery, trace: Trace | None) -> None:
        """Let the story happen that ``stream`` says.

        Args:
            stream: the story.
            delivery: without a meaning: the pieces are part of the story.
            trace: hears the first load, and how migrations end.

        Raises:
            LoadError: the first migration did not complete on both sides.
        """
        self.load_under(stream, delivery, NO_FAULTS, trace)

    def reset(self) -> None:
        """Forget the last story; every one begins with machines as new."""
        self._story = self._world = None
        self._stream = b""

    def digest(self) -> str:
        """Of all that happened in a story that was accepted; of others nothing remains."""
        story = self._story
        return story.digest if story is not None and _accepted(story) else ""

    def save(self) -> bytes:
        """The story that was accepted last, as it was said."""
        return self._stream or self._otherwise

    def check_invariants(self) -> list[str]:
        """What is impossible about the machine that has the guest now."""
        world = self._world
        if world is None or world.runner is None:
            return []
        return world.runner.machine.check_invariants()

    def step(self, count: int) -> None:
        """Let the guest run on, wherever it is."""
        world = self._world
        if world is not None and world.runner is not None:
            world.runner.machine.step(count)

    # -- faults of the input -----------------------------------------------------------------------

    @property
    def layers(self) -> frozenset[Layer]:
        """The connection of the first migration, and its destination, which can be killed; a
        cancel is the operator's."""
        return frozenset({Layer.TRANSPORT, Layer.PROCESS})

    def load_under(
        self, stream: bytes, delivery: Delivery, faults: FaultPlan, trace: Trace | None
    ) -> None:
        """As :meth:`load`, while more goes wrong with the first migration than the story says.

        Raises:
            LoadError: it did not complete on both sides.
        """
        del delivery
        self.reset()
        scenario = under(decode(stream), faults)
        world = self._world = World(scenario, self._stable, trace)
        story = self._story = world.run()
        self._done = _done(faults, story)
        if not _accepted(story):
            raise _refusal(story)
        self._stream = stream

    def struck(self) -> Sequence[Fault]:
        """See :meth:`loadfuzz.abc.TakesFaults.struck`.

        When the guest writes what, and who meets whom, is part of a story; so a silence or a
        short read may matter, and none here is said not to.
        """
        return self._done

    def violations(self) -> Sequence[Violation]:
        """See :class:`loadfuzz.abc.TellsViolations`."""
        return self._story.violations if self._story is not None else ()

    def story(self) -> Story | None:
        """What happened last."""
        return self._story


def _accepted(story: Story) -> bool:
    return story.endings[0].both


def _refusal(story: Story) -> LoadError:
    ending = story.endings[0]
    return LoadError(
        _reason(ending), path=(f"source {ending.source}", f"destination {ending.destination}")
    )


def _reason(ending: Ending) -> str:
    reasons = (ending.source_error, ending.destination_error)
    return "; ".join(reason for reason in reasons if reason) or "it did not complete on both sides"


def under(scenario: Scenario, plan: FaultPlan) -> Scenario:
    """The scenario with the faults of a plan in its first attempt."""
    if not plan:
        return scenario
    first = scenario.attempts[0]
    acts = [
        Act(_DEEDS[fault.kind], fault.place.number)
        for fault in plan.on(Layer.PROCESS)
        if fault.place.kind is PlaceKind.STEP
    ]
    changed: Attempt = replace(
        first,
        faults=FaultPlan((*first.faults.faults, *plan.on(Layer.TRANSPORT)), plan.deadline_ms),
        acts=tuple(sorted((*first.acts, *acts), key=lambda act: act.step)),
    )
    return replace(scenario, attempts=(changed, *scenario.attempts[1:]))


def _done(plan: FaultPlan, story: Story) -> tuple[Fault, ...]:
    """The faults that happened to the first migration, as the plan's oracle wants them."""
    ending = story.endings[0]
    struck = [
        replace(fault, expectation=Expectation.MUST_NOT_HARM)
        if ending.both or fault.expectation is Expectation.MUST_NOT_MATTER
        else fault
        for fault in ending.struck
    ]
    # One that has changed nothing has held bytes back all the same, while the guest went on.
    told = {fault.kind for fault in struck}
    struck += [
        fault
        for fault in plan.on(Layer.TRANSPORT)
        if fault.kind in _HOLD_BACK and fault.kind not in told and fault.place.number < ending.sent
    ]
    deeds = {act.deed for act in ending.done}
    struck += [fault for fault in plan.on(Layer.PROCESS) if _DEEDS[fault.kind] in deeds]
    return tuple(struck)
