"""Which executions are done once more under faults, and what becomes of their plans."""

from dataclasses import replace

from loadfuzz.engines.faulting import SHARE, Faulting
from loadfuzz.executors.documents import Documents
from loadfuzz.faults.kinds import Layer
from loadfuzz.faults.plan import FaultPlan, fault_of
from loadfuzz.inputs import Input
from loadfuzz.rng import Rng
from loadfuzz.testing.trials import ACCEPTED, REJECTED, ParsingTarget, ScriptedTrial


def faulting(*layers: Layer, seed: int = 1) -> Faulting:
    return Faulting(frozenset(layers), {}, Documents(ParsingTarget()), Rng(seed))


def drawn(decides: Faulting, trial: ScriptedTrial, count: int) -> list[Input]:
    found = (decides.draw(trial, None) for _ in range(count))
    return [item for item in found if item is not None]


def test_one_accepted_input_in_so_many_is_done_again_under_a_plan() -> None:
    items = drawn(faulting(Layer.TRANSPORT), ACCEPTED, 10 * SHARE)
    assert len(items) == 10
    assert all(item.stream == ACCEPTED.stream and item.faults for item in items)


def test_a_refused_input_is_passed_over_and_the_next_accepted_one_taken() -> None:
    decides = faulting(Layer.TRANSPORT)
    assert not drawn(decides, REJECTED, 2 * SHARE)
    assert drawn(decides, ACCEPTED, 1)


def test_nothing_is_drawn_for_a_loader_that_takes_bytes_only() -> None:
    assert not drawn(faulting(), ACCEPTED, 10 * SHARE)


def test_the_same_seed_draws_the_same_plans() -> None:
    one, other = (drawn(faulting(Layer.TRANSPORT, seed=3), ACCEPTED, 200) for _ in range(2))
    assert one == other


def test_a_plan_that_shows_something_new_is_news_once() -> None:
    decides = faulting(Layer.TRANSPORT)
    trial = replace(REJECTED, plan=FaultPlan((fault_of("reset@byte:3"),)))
    assert decides.learn(trial)
    assert not decides.learn(trial)


def test_sections_are_aimed_at_where_the_parent_of_the_same_length_is_known() -> None:
    documents = Documents(ParsingTarget())
    document = documents.document(ACCEPTED.stream)
    starts = {section.start for section in document.sections}
    child = replace(ACCEPTED, stream=ACCEPTED.stream[:-1] + b"\x01")

    def hits(parent: bytes | None) -> int:
        decides = Faulting(frozenset({Layer.TRANSPORT}), {}, documents, Rng(7))
        items = (decides.draw(child, parent) for _ in range(200 * SHARE))
        return sum(
            fault.place.number in starts for item in items if item for fault in item.faults.faults
        )

    assert hits(ACCEPTED.stream) > 3 * hits(None)
