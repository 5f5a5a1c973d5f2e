"""Two loaders, one stream: what agrees, what is known to differ, and what is news."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from loadfuzz.abc import Mutable
from loadfuzz.errors import InfraError
from loadfuzz.execution import Depth, Escape, Execution, ExitKind, Refusal
from loadfuzz.inputs import STREAM_SIZE_MAX, Seed, digest_of
from loadfuzz.mutators import ALL
from loadfuzz.mutators.stack import MutationStack
from loadfuzz.places import Places
from loadfuzz.qemu.capture import capture
from loadfuzz.qemu.differential import (
    SKIPPED_MAX,
    Agreement,
    Comparison,
    Explanation,
    agreement_of,
    compare,
    explain,
    known_differences,
    reference_of,
    summary,
)
from loadfuzz.qemu.incoming_pool import incoming_executor
from loadfuzz.qemu.machine import MachineSpec
from loadfuzz.rng import Rng
from loadfuzz_targets.foreign import ForeignTarget
from savevm.profile import SWITCHES

MUTANTS = 40
ACCEPTED = Execution(ExitKind.ACCEPTED, Depth.ACCEPTED)


def refused(text: str, *path: str) -> Execution:
    return Execution(ExitKind.REJECTED, Depth.FIRST_SECTION, Refusal(text, 22, None, path))


def out_of_memory(text: str) -> Execution:
    return Execution(
        ExitKind.OUT_OF_MEMORY, Depth.NOTHING, escape=Escape("SIGTRAP", text, ())
    )  # fmt: skip


# -- agreement -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "agreement"),
    [
        (ACCEPTED, ACCEPTED, Agreement.BOTH_ACCEPT),
        (ACCEPTED, refused("x"), Agreement.DIFFER),
        (refused("x"), out_of_memory("y"), Agreement.DIFFER),
        (refused("x", "timer"), refused("y", "timer"), Agreement.BOTH_REFUSE),
        (refused("x", "timer"), refused("y", "cpu"), Agreement.ELSEWHERE),
        (refused("x", "timer"), refused("y"), Agreement.BOTH_REFUSE),
        (refused("x", "section 0x63"), refused("y", "timer"), Agreement.BOTH_REFUSE),
        (refused("x", "timer", "footer"), refused("y", "timer"), Agreement.BOTH_REFUSE),
        (
            refused("x", "timer", "version"), refused("y", "timer", "version_id"),
            Agreement.BOTH_REFUSE,
        ),
        (refused("x", "timer", "footer"), refused("y", "timer", "cpu"), Agreement.ELSEWHERE),
        (
            refused("x", "fdc", "state", "drives[1]", "media"), refused("y", "fdc", "media"),
            Agreement.BOTH_REFUSE,
        ),
        (refused("x", "dma\xff"), refused("y", "dma\ufffd"), Agreement.BOTH_REFUSE),
    ],
)  # fmt: skip
def test_a_place_counts_where_both_name_one(
    ours: Execution, theirs: Execution, agreement: Agreement
) -> None:
    assert agreement_of(ours, theirs) is agreement


# -- what is known ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "name"),
    [
        (refused("vmdesc: needed 486 bytes for vmdesc, 59 available"), ACCEPTED,
         "vmdesc_errors_ignored"),
        (refused("ram: a FULL section for a device that never saves one"), ACCEPTED,
         "sections_are_untied"),
        (refused("cpu: the device comes twice"), refused("x", "timer"), "sections_are_untied"),
        (refused("configuration: expected machine type 'none', read 'no' (offset 0x8)"), ACCEPTED,
         "machine_name_prefix"),
        (refused("ram: page 0x0: the name 'a\\x00' has a NUL inside"), ACCEPTED,
         "strings_end_at_nul"),
        (refused("a: b: version 257 is too new, versions 1 to 1 are read"), ACCEPTED,
         "subsection_version_is_uint8"),
        (refused("a: subsection 'a/b' comes twice"), ACCEPTED, "duplicate_subsections_accepted"),
        (refused("ram: block list: pc.ram: the block is listed twice"), refused("x", "y"),
         "ram_list_unchecked"),
        (refused("ram: page 0x0: expected fill byte 0x0, read 0x8"), ACCEPTED,
         "ram_fill_byte_unchecked"),
        (refused("configuration: name: a buffer of 3941519771 bytes is asked for"),
         out_of_memory("failed to allocate"), "allocates_on_a_word"),
        (refused("timer: needed 4 bytes for version id, 2 available"), refused("x", "y"),
         "eof_reads_as_zero"),
        (ACCEPTED, refused("hpet: footer: Missing section footer for hpet"), "layout_by_value"),
        (ACCEPTED, refused("globalstate: invalid parameter value: x"), "device_check"),
        (ACCEPTED, refused("PCIBUS: nirq: 4 != 7fffffff"), "device_check"),
        (ACCEPTED, refused("0000:00:01.3/pm: irq_state: irq state -1: must be 0 or 1."),
         "device_check"),
        (refused("fdc: footer: expected mark 0x7e, read 0x72"),
         refused("fdc: state: num_floppies: 2 != 0"), "device_check"),
        (ACCEPTED, refused("configuration: Configuration section missing"),
         "configuration_may_be_missing"),
        (ACCEPTED, refused("ram: Unknown combination of migration flags: 0x200"),
         "multifd_flush_is_newer"),
        (refused("fw_cfg: no device 'fw_cfg' instance 4294967295 in this machine"), ACCEPTED,
         "no_alias_is_minus_one"),
        (refused("configuration: c: array holds 1048576 elements, 4294967295 announced"),
         out_of_memory("failed to allocate"), "allocates_on_a_word"),
    ],
)  # fmt: skip
def test_a_known_difference_is_called_by_its_name(
    ours: Execution, theirs: Execution, name: str
) -> None:
    explanation = explain(ours, theirs)
    assert explanation is not None
    assert explanation.name == name


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ACCEPTED, refused("header: Not a migration stream")),
        (ACCEPTED, refused("configuration: Machine type received is 'x' and local is 'y'")),
        (ACCEPTED, refused("timer: version_id: savevm: unsupported version 3 for 'timer' v2")),
        (ACCEPTED, refused("timer: footer: Mismatched section id in footer for timer")),
        (ACCEPTED, refused("timex: Unknown savevm section or instance 'timex' 0")),
        (ACCEPTED, Execution(ExitKind.TIMED_OUT, Depth.NOTHING, escape=Escape("hang", "", ()))),
        # The reference may be too lax: what it knows as QEMU does is no matter of layout.
        (ACCEPTED, refused("ram: Unknown combination of migration flags: 0x7")),
        (ACCEPTED, refused("ram: Illegal RAM offset 8000ff0100018000")),
        (ACCEPTED, refused("ram: Error -5 while loading VM state")),
        (ACCEPTED, refused("ram: footer: Missing section footer for ram")),
        (ACCEPTED, refused("timer: cpu_clock_offset: Error -5 while loading VM state")),
        (ACCEPTED, refused("timer: cpu_ticks_offset: 3 != 4")),
        (ACCEPTED, refused("timer: footer: Missing section footer for timer")),
        (ACCEPTED, refused("Error -5 while loading VM state")),
        (refused("header: expected magic 0x5145564d, read 0x0"), ACCEPTED),
        (refused("timer: footer: expected mark 0x7e, read 0x0"), ACCEPTED),
        (refused("configuration: expected machine type 'none', read 'pc' (offset 0x8)"), ACCEPTED),
        (refused("timer: version 3 is too new, versions 1 to 2 are read"), ACCEPTED),
        (refused("timer: footer: expected section id 0x0, read 0x9"), refused("x", "cpu")),
        (Execution(ExitKind.CRASHED, Depth.NOTHING, escape=Escape("KeyError", "", ())), ACCEPTED),
    ],
)
def test_what_no_entry_fits_is_not_explained(ours: Execution, theirs: Execution) -> None:
    assert explain(ours, theirs) is None


HEAD = b"QEVM\0\0\0\3\4\0\0\0\7\4hpet\0\0\0\0\0\0\0\2"
"""Up to the content of section 7, which is full."""


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        (HEAD + b"abc\x7e\0\0\0\7\0", "layout_by_value"),
        (HEAD + b"abc\0", None),
        (HEAD + b"abc\x7e\0\0\0\x08\0", None),
    ],
    ids=["there", "missing", "another"],
)
def test_a_footer_that_is_not_there_excuses_no_loader_that_accepts(
    stream: bytes, name: str | None
) -> None:
    theirs = refused("hpet: footer: Missing section footer for hpet")
    explanation = explain(ACCEPTED, theirs, stream)
    assert (explanation.name if explanation is not None else None) == name


class Troubled:
    """A loader that accepts, after a number of troubles with each stream.

    Args:
        troubles: by stream.
    """

    def __init__(self, troubles: dict[bytes, int]) -> None:
        self.generation = 0
        self.troubles = troubles

    async def execute(self, stream: bytes, *, closely: bool = False) -> Execution:
        del closely
        if self.troubles.get(stream, 0):
            self.troubles[stream] -= 1
            raise InfraError("no room")
        return ACCEPTED

    async def renew(self) -> None:
        self.generation += 1


def test_a_trouble_costs_no_more_than_its_stream() -> None:
    executor = Troubled({b"once": 1, b"twice": 2})
    streams = [b"a", b"once", b"twice", b"b"]
    told: list[str] = []
    skipped: list[bytes] = []
    made = asyncio.run(compare(
        lambda _: ACCEPTED, executor, streams,
        told=lambda one: told.append(one.digest), skipped=lambda one, _: skipped.append(one),
    ))  # fmt: skip
    assert (
        told
        == [one.digest for one in made]
        == [digest_of(one) for one in streams if one != b"twice"]
    )
    assert skipped == [b"twice"]
    assert executor.generation == 3
    assert "     1 skipped" in summary(made, len(skipped))


def test_a_trouble_that_stays_ends_a_comparison() -> None:
    streams = [bytes([number]) for number in range(SKIPPED_MAX + 5)]
    skipped: list[bytes] = []
    with pytest.raises(InfraError, match="no room"):
        asyncio.run(compare(
            lambda _: ACCEPTED, Troubled(dict.fromkeys(streams, 2)), streams,
            skipped=lambda one, _: skipped.append(one),
        ))  # fmt: skip
    assert len(skipped) == SKIPPED_MAX


def test_names_that_look_like_switches_are_switches() -> None:
    switches = {switch.name for switch in SWITCHES}
    others = {
        "machine_name_prefix", "allocates_on_a_word", "layout_by_value", "device_check",
        "configuration_may_be_missing", "multifd_flush_is_newer", "no_alias_is_minus_one",
    }  # fmt: skip
    names = {explanation.name for explanation in known_differences()}
    assert names >= others
    assert names - others <= switches


def test_a_summary_counts_and_shows_what_is_unexplained() -> None:
    made = Comparison("ab" * 32, ACCEPTED, ACCEPTED, Agreement.BOTH_ACCEPT)
    known = replace(
        made, agreement=Agreement.DIFFER, explanation=Explanation("device_check", "it checks")
    )
    news = replace(made, theirs=refused("no\x1b[2J"), agreement=Agreement.DIFFER)
    rows = summary([made, made, known, news])
    assert rows == [
        "     4 streams",
        "     2 both accept",
        "     0 both refuse at the same place",
        "     0 both refuse, at different places",
        "     2 different verdicts",
        "     1 explained by device_check: it checks",
        "     1 unexplained",
        "       abababababab different verdicts",
        "         reference: accepted",
        "         loader:    rejected no\\x1b[2J",
    ]


# -- for real --------------------------------------------------------------------------------------


def mutants(target: ForeignTarget, stream: bytes) -> Sequence[bytes]:
    """Children of a stream, the same ones each time; the seed is one none of whose children
    ends a released QEMU."""
    places = Places(target.parse(stream))
    stack, rng = MutationStack(ALL), Rng(10)
    subject = Mutable(stream, places, stream, STREAM_SIZE_MAX)
    return [stream, *(stack.child(subject, rng)[0] for _ in range(MUTANTS))]


@pytest.mark.qemu
@pytest.mark.parametrize("machine", ["none", "microvm", "pc"])
def test_mutants_are_judged_alike_or_it_is_known_why(
    machine: str, qemu_binary: str, tmp_path: Path
) -> None:
    spec = MachineSpec(qemu_binary, machine, address_space_mb=2048)

    async def run() -> list[Comparison]:
        stream = await capture(spec)
        target = ForeignTarget("reference", Seed(machine, stream, machine))
        async with incoming_executor(spec, tmp_path, 5.0) as executor:
            return await compare(reference_of(target), executor, mutants(target, stream))

    made = asyncio.run(run())
    rows = summary(made)
    assert len(made) == MUTANTS + 1
    assert made[0].agreement is Agreement.BOTH_ACCEPT
    assert {one.ours.kind for one in made} <= {ExitKind.ACCEPTED, ExitKind.REJECTED}
    assert {one.agreement for one in made} >= {Agreement.BOTH_ACCEPT, Agreement.BOTH_REFUSE}
    for one in made:
        if one.unexplained:
            assert [row for row in rows if one.digest[:12] in row]
