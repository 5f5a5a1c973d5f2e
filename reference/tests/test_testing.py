"""The tools that other tests stand on, held to bytes that are written out here."""

from savevm.machine import Machine, RunState
from savevm.testing import (
    PlainDevice,
    command,
    configuration,
    footer,
    full_section,
    header,
    part_section,
    plug,
    start_section,
    stream,
    vmdesc,
)
from savevm.vmstate import VMStateDescription


def test_sections_have_the_bytes_of_the_wire_format() -> None:
    assert header().hex() == "5145564d00000003"
    assert configuration("none").hex() == "07000000046e6f6e65"
    assert footer(4).hex() == "7e00000004"
    assert start_section(2, "ram", b"\xaa", instance_id=1, version_id=4).hex() == (
        "01000000020372616d0000000100000004" + "aa" + "7e00000002"
    )
    assert (
        full_section(2, "a", footer_id=None).hex()
        == "04" + "00000002" + "0161" + "0000000000000001"
    )
    assert full_section(2, "a", footer_id=9)[-5:] == footer(9)
    assert part_section(2, b"\xbb").hex() == "0200000002" + "bb" + "7e00000002"
    assert part_section(2, end=True, footer_id=None).hex() == "0300000002"
    assert command(2, b"\0\0\0\x01").hex() == "08" + "0002" + "0004" + "00000001"
    assert command(2, b"", length=5).hex() == "08" + "0002" + "0005"
    assert vmdesc(b"{}").hex() == "06" + "00000002" + "7b7d"
    assert vmdesc(b"{}", size=9).hex() == "06" + "00000009" + "7b7d"
    assert stream(b"x", behind=b"y") == header() + b"x" + b"\0" + b"y"


def test_a_plain_device_is_its_state_and_nothing_happens_to_it() -> None:
    board, device = Machine("none"), PlainDevice("slot", v=1)
    entry = plug(board, VMStateDescription("dev"), device)
    assert entry.idstr == "slot/dev"
    board.reset()
    board.step(3)
    assert board.check_invariants() == []
    assert vars(device) == {"v": 1, "path": "slot"}


def test_a_machine_knows_whether_it_runs() -> None:
    board = Machine("none")
    before = board.digest()
    assert (board.runstate, board.is_running()) == (RunState.PRELAUNCH, False)
    board.vm_start()
    assert (board.runstate, board.is_running()) == (RunState.RUNNING, True)
    board.vm_stop(RunState.SAVE_VM)
    assert (board.runstate, board.is_running()) == (RunState.SAVE_VM, False)
    assert board.digest() != before


def test_time_passes_only_with_steps_and_fires_what_is_due() -> None:
    board = Machine("none")
    fired: list[int] = []
    timer = board.timers.new_ns(lambda: fired.append(board.clock.now_ns))
    timer.mod_ns(2 * Machine.STEP_NS)
    board.step()
    assert fired == []
    board.step(2)
    assert fired == [2 * Machine.STEP_NS]
    assert (board.board.steps, board.clock.now_ns) == (3, 3 * Machine.STEP_NS)
