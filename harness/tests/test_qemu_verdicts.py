"""What QEMU's words mean, on its own words."""

import signal

import pytest

from loadfuzz.errors import InfraError
from loadfuzz.execution import Depth, ExitKind
from loadfuzz.qemu import tracelog
from loadfuzz.qemu.pace import BLOCKED_S, CEILING_S, EVERY, FLOOR_S, WAIT_MAX_S, Pace, Wait
from loadfuzz.qemu.process import Ending
from loadfuzz.qemu.tracelog import EVENTS_MAX, LogReader
from loadfuzz.qemu.verdicts import judge_death, judge_reply, last_words
from loadfuzz.qemu.vitals import common_calls, parse_backtraces

EINVAL_LINE = "Error: Error -22 while loading VM state\r\n"


@pytest.mark.parametrize(
    ("reply", "path", "errno", "depth"),
    [
        ("Not a migration stream\r\n" + EINVAL_LINE, ("header",), 22, Depth.NOTHING),
        (
            "Unsupported migration stream version\r\nError: Error -95 while loading VM state\r\n",
            ("header",), 95, Depth.NOTHING,
        ),
        (
            "Machine type received is 'pc-i440' and local is 'pc-i440fx-7.2'\r\n" + EINVAL_LINE,
            ("configuration",), 22, Depth.HEADER,
        ),
        (
            "get_pci_config_device: Bad config data: i=0x0 read: 80 device: 86\r\n"
            "Failed to load PCIDevice:config\r\nFailed to load PIIX3:dev\r\n"
            "error while loading state for instance 0x0 of device '0000:00:01.0/PIIX3'\r\n"
            + EINVAL_LINE,
            ("0000:00:01.0/PIIX3", "dev", "config"), 22, Depth.FIRST_SECTION,
        ),
        (
            "Error: Error -5 while loading VM state: error while loading state for instance 0x0 "
            "of device 'fdc': Failed to load fdc:state: Failed to load fdrive:media\r\n",
            ("fdc", "state", "media"), 5, Depth.FIRST_SECTION,
        ),
        (
            "Illegal RAM offset 8000ff0100018000\r\n"
            "error while loading state section id 2(ram)\r\n" + EINVAL_LINE,
            ("ram",), 22, Depth.FIRST_SECTION,
        ),
        ("Missing section footer for port92\r\n" + EINVAL_LINE, ("port92", "footer"), 22,
         Depth.FIRST_SECTION),
        (
            "Mismatched section id in footer for 0000:00:01.1/ide - read 0x1c expected 0x1\r\n"
            + EINVAL_LINE,
            ("0000:00:01.1/ide", "footer"), 22, Depth.FIRST_SECTION,
        ),
        ("savevm: unsupported version 9 for 'timer' v2\r\n" + EINVAL_LINE,
         ("timer", "version_id"), 22, Depth.FIRST_SECTION),
        ("Unknown savevm section type 128\r\n" + EINVAL_LINE, (), 22, Depth.FIRST_SECTION),
        ("error while loading state for instance 0x0 of device 'kvm-tpr-opt'\r\n"
         "Error: Error -1 while loading VM state\r\n", ("kvm-tpr-opt",), 1, Depth.FIRST_SECTION),
        ("Error: Not a migration stream, magic: 58585858 != 5145564d\r\n", ("header",), 22,
         Depth.NOTHING),
        ("Error: Configuration section missing, 0 != 7\r\n", ("configuration",), 22, Depth.HEADER),
        (
            "Error: post load hook failed for: configuration, version_id: 1, minimum_version: 0: "
            "Machine type received is 'pQ' and local is 'pc'\r\n",
            ("configuration",), 22, Depth.HEADER,
        ),
        (
            "Error: Unknown section or instance 'ap\ufffdc' 0. Make sure that your current VM "
            "setup matches your saved VM setup, including any hotplugged devices\r\n",
            ("ap\ufffdc",), 22, Depth.FIRST_SECTION,
        ),
        ("Error: unsupported version -16777214 for 'timer' v2\r\n", ("timer", "version_id"), 22,
         Depth.FIRST_SECTION),
        (
            "Missing section footer for ram\r\nError: Section footer error, section_id: 1\r\n",
            ("ram", "footer"), 22, Depth.FIRST_SECTION,
        ),
        ("Error: PING received with bad length - expecting 4, got 0\r\n", ("command",), 22,
         Depth.FIRST_SECTION),
        (
            "get_pci_config_device: Bad config data: i=0x1 read: 7f device: 80\r\n"
            "Error: error while loading state for instance 0x0 of device '0000:00:00.0/I440FX': "
            "Failed to load element of type pci config for config\r\n",
            ("0000:00:00.0/I440FX", "config"), 22, Depth.FIRST_SECTION,
        ),
        (
            "Unknown ramblock \"\", cannot accept migration\r\n"
            "Error: error while loading state for instance 0x0 of device 'ram': Failed to load "
            "vmstate version_id: 4, ret: -95\r\n",
            ("ram",), 95, Depth.FIRST_SECTION,
        ),
    ],
)  # fmt: skip
def test_a_refusal_says_where_and_why(
    reply: str, path: tuple[str, ...], errno: int, depth: Depth
) -> None:
    judged = judge_reply(reply)
    assert judged.refusal is not None
    assert judged.refusal.path == path
    assert judged.refusal.errno == errno
    assert judged.depth is depth


def test_an_empty_reply_is_an_acceptance() -> None:
    judged = judge_reply("")
    assert (judged.refusal, judged.depth, judged.said) == (None, Depth.ACCEPTED, ())


def test_the_reason_is_the_line_that_says_why() -> None:
    judged = judge_reply(
        "400 != 7f008000\r\nFailed to load vmmouse:queue_size\r\n"
        "error while loading state for instance 0x0 of device 'vmmouse'\r\n" + EINVAL_LINE
    )
    assert judged.refusal is not None
    assert judged.refusal.text == "vmmouse: queue_size: 400 != 7f008000"


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (
            "Error: error while loading state for instance 0x0 of device 'timer': timer: incoming "
            "version_id 0 is too old for local minimum version_id 1\r\n",
            "timer: timer: incoming version_id 0 is too old for local minimum version_id 1",
        ),
        (
            "Error: post load hook failed for: configuration, version_id: 1, minimum_version: 0: "
            "Machine type received is 'pQ' and local is 'pc'\r\n",
            "configuration: Machine type received is 'pQ' and local is 'pc'",
        ),
        (
            "invalid parameter value: XX\r\nError: error while loading state for instance 0x0 of "
            "device 'globalstate': post load hook failed for: globalstate, version_id: 1, "
            "minimum_version: 1, ret: -22\r\n",
            "globalstate: invalid parameter value: XX",
        ),
        ("Error: Unknown section type 6\r\n", "Unknown section type 6"),
    ],
)
def test_the_reason_may_stand_behind_the_place_in_one_line(reply: str, text: str) -> None:
    judged = judge_reply(reply)
    assert judged.refusal is not None
    assert judged.refusal.text == text


UUID_LINE = (
    "warning: UUID is received cd12ab34-c123-4b5a-9b8c-dea012345678, but local uuid isn't set\r\n"
)


def test_a_remark_on_one_thing_is_no_reason_for_another() -> None:
    judged = judge_reply(UUID_LINE + "Missing section footer for hpet\r\n" + EINVAL_LINE)
    assert judged.refusal is not None
    assert judged.refusal.text == "hpet: footer: Missing section footer for hpet"
    alone = judge_reply(UUID_LINE + EINVAL_LINE)
    assert alone.refusal is not None
    assert "UUID" not in alone.refusal.text


def test_a_name_from_the_stream_makes_no_remark_of_a_reason() -> None:
    line = "Unknown savevm section or instance 'x info: y' 0"
    judged = judge_reply(f"{line}\r\n{EINVAL_LINE}")
    assert judged.refusal is not None
    assert judged.refusal.text.endswith(line)


def test_what_is_said_over_an_accepted_load_quotes_nothing() -> None:
    assert judge_reply(UUID_LINE).said == (
        "warning: UUID is received #, but local uuid isn't set",
    )  # fmt: skip


def test_what_is_mumbled_beside_an_acceptance_is_no_refusal() -> None:
    judged = judge_reply("Expected vmdescription section, but got 17\r\n")
    assert judged.refusal is None
    assert judged.said == ("Expected vmdescription section, but got #",)


def test_a_reply_without_end_is_cut() -> None:
    judged = judge_reply("x" * 100_000 + "\r\n" + EINVAL_LINE)
    assert judged.refusal is not None
    assert len(judged.refusal.text) < 1000


@pytest.mark.parametrize(
    ("printed", "message", "frames"),
    [
        (
            "**\nERROR:../../hw/net/card.c:123:card_load: assertion failed (n <= 16): (99 <= 16)\n"
            "Bail out! ERROR:../../hw/net/card.c:123:card_load: assertion failed (n <= 16): "
            "(99 <= 16)\n",
            "assertion failed (n <= 16)", ("card.c:card_load:123",),
        ),
        (
            "qemu-system-x86_64: ../../hw/core/bus.c:7: bus_reset: Assertion `bus->n' failed.\n",
            "Assertion `bus->n' failed.", ("bus.c:bus_reset:7",),
        ),
        (
            "Unexpected error in set_thing() at ../../hw/thing.c:18:\n"
            "qemu-system-x86_64: Thing 0x5 is bad\n",
            "Unexpected error", ("thing.c:set_thing:18",),
        ),
        ("free(): invalid pointer\n", "free(): invalid pointer", ()),
        ("*** stack smashing detected ***: terminated\n",
         "*** stack smashing detected ***: terminated", ()),
        (
            "==9==ERROR: AddressSanitizer: heap-use-after-free on address 0x60 at pc 0x55\n"
            "SUMMARY: AddressSanitizer: heap-use-after-free ../hw/a.c:4:9 in a_post_load\n",
            "AddressSanitizer: heap-use-after-free", ("a.c:a_post_load:4",),
        ),
        ("qemu: hardware error: cannot go on with 12\n", "hardware error: cannot go on with #", ()),
        ("", "", ()),
    ],
    ids=["glib", "assert", "error_abort", "heap", "stack", "asan", "hw_error", "silent"],
)  # fmt: skip
def test_last_words_are_the_same_each_time_and_tell_the_place(
    printed: str, message: str, frames: tuple[str, ...]
) -> None:
    assert last_words(printed) == (message, frames)


def test_last_words_are_found_before_what_comes_behind_them() -> None:
    printed = "a.c:5: f: Assertion `x' failed.\n" + "CPU #0 state\n" * 20
    assert last_words(printed)[1] == ("a.c:f:5",)


def test_a_signal_of_its_own_is_a_crash() -> None:
    death = judge_death(Ending(-11, ""))
    assert (death.kind, death.escape.type_name) == (ExitKind.CRASHED, "SIGSEGV")


def test_glib_that_gives_up_without_a_word_is_out_of_memory() -> None:
    # Within a monitor command GLib's message goes to the monitor and dies with it.
    death = judge_death(Ending(-signal.SIGTRAP, "qemu-system-x86_64: warning: no peer\n"))
    assert death.kind is ExitKind.OUT_OF_MEMORY
    assert "no peer" not in death.escape.message
    placed = judge_death(Ending(-signal.SIGTRAP, "a.c:5: f: Assertion `x' failed.\n"))
    assert placed.kind is ExitKind.CRASHED


def test_an_exit_is_a_crash_too() -> None:
    assert judge_death(Ending(1, "no\n")).escape.type_name == "exit status 1"


def test_what_was_being_done_begins_the_message() -> None:
    death = judge_death(Ending(-6, "a.c:5: f: Assertion `x' failed.\n"), "saving again")
    assert death.escape.message == "saving again: Assertion `x' failed."
    assert judge_death(Ending(-6, ""), "saving again").escape.message == "saving again"


@pytest.mark.parametrize(
    "printed",
    [
        "(process:1): GLib-ERROR **: 03:04:05.678: ../../../glib/gmem.c:105: failed to allocate "
        "18446744069414584352 bytes\n",
        "qemu_memalign: Cannot allocate memory\n",
        "terminate called after throwing an instance of 'std::bad_alloc'\n",
    ],
)
def test_an_allocation_that_fails_is_out_of_memory(printed: str) -> None:
    death = judge_death(Ending(-5, printed))
    assert death.kind is ExitKind.OUT_OF_MEMORY
    assert "18446744069414584352" not in death.escape.message
    assert "03:04" not in death.escape.message


def test_a_placed_assertion_wins_over_words_about_memory() -> None:
    printed = (
        "qemu: warning: huge pages: Cannot allocate memory\n"
        'a.c:5: f: Assertion `!"out of memory"\' failed.\n'
        "cannot allocate a core file\n"
    )
    death = judge_death(Ending(-6, printed))
    assert (death.kind, death.escape.frames) == (ExitKind.CRASHED, ("a.c:f:5",))


def test_words_about_memory_before_other_last_words_are_none() -> None:
    printed = "qemu: mlock failed: Cannot allocate memory\nfree(): invalid pointer\n"
    assert judge_death(Ending(-6, printed)).kind is ExitKind.CRASHED


def test_a_sanitizer_that_finds_no_memory_says_so_with_a_place() -> None:
    printed = "SUMMARY: AddressSanitizer: out-of-memory ../a.c:5:3 in f\n"
    death = judge_death(Ending(-6, printed))
    assert (death.kind, death.escape.frames) == (ExitKind.OUT_OF_MEMORY, ("a.c:f:5",))


@pytest.mark.parametrize(
    "ending",
    [
        Ending(-9, ""),
        Ending(-15, ""),
        Ending(0, "qemu-system-x86_64: terminating on signal 15 from pid 7 (kill)\n"),
    ],
    ids=["SIGKILL", "SIGTERM", "asked"],
)
def test_an_end_from_outside_is_no_verdict(ending: Ending) -> None:
    with pytest.raises(InfraError, match="from outside"):
        judge_death(ending)


# -- trace events -------------------------------------------------------------------------------


def test_sections_carry_instance_and_version_and_fields_come_once() -> None:
    log = (
        "vmstate_load_state_field configuration:len\n"
        "qemu_loadvm_state_section_startfull 2(ram) 0 4\n"
        "vmstate_load ram, (old)\n"
        "vmstate_load ram, (old)\n"
        "qemu_loadvm_state_section_startfull 7(0000:00:01.1/ide) 1 3\n"
        "vmstate_load 0000:00:01.1/ide, ide\n"
        "vmstate_load_state_field ide:bus0\n"
        "vmstate_load_state_field ide:bus1\n"
        "vmstate_load_state_end ide end/0\n"
        "vmstate_load_state_end bmdma no field/-22\n"
    )
    assert LogReader().events_of(log) == (
        "vmstate_load_state_field configuration:len",
        "vmstate_load ram 0 4",
        "vmstate_load ram part",
        "vmstate_load 0000:00:01.1/ide 1 3",
        "vmstate_load_state_field ide:bus#",
        "vmstate_load_state_end bmdma no field/-#",
    )


def test_a_field_that_is_not_in_the_stream_is_no_event_where_that_is_said() -> None:
    log = (
        "vmstate_load_state_field timer:cpu_ticks_offset exists=1\n"
        "vmstate_load_state_field timer:unused exists=0\n"
    )
    assert LogReader().events_of(log) == ("vmstate_load_state_field timer:cpu_ticks_offset",)


def test_a_section_whose_device_is_not_there_is_no_event() -> None:
    assert LogReader().events_of("qemu_loadvm_state_section_startfull 2(invented) 0 4\n") == ()


def test_a_line_means_what_its_own_log_makes_of_it_though_it_came_before() -> None:
    reader = LogReader()
    section = "qemu_loadvm_state_section_startfull 2(ram) 0 4\n"
    rest = "vmstate_load ram, (old)\nvmstate_load_state_field ram:pages\n"
    field = "vmstate_load_state_field ram:pages"
    for _ in range(2):
        assert reader.events_of(section + rest) == ("vmstate_load ram 0 4", field)
        assert reader.events_of(rest) == ("vmstate_load ram part", field)


def test_lines_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracelog, "LINES_MAX", 5)
    reader = LogReader()
    for number in range(9):
        assert reader.events_of(f"vmstate_load a{number}, x\n") == (f"vmstate_load a{number} part",)
        assert len(reader._lines) <= 5 + 2


def test_events_are_bounded() -> None:
    log = "".join(f"vmstate_load device{n}, x\n" for n in range(2 * EVENTS_MAX))
    assert len(LogReader().events_of(log)) == EVENTS_MAX


# -- where it hangs --------------------------------------------------------------------------

STACK = """\
[New LWP 25006]
#0  0x00007fcee62e4366 in __ppoll (fds=0x55, nfds=4) at ../sysdeps/unix/sysv/linux/ppoll.c:42
==look==
#0  0x00007fcee62e4366 in __ppoll (fds=0x55, nfds=4) at ../sysdeps/unix/sysv/linux/ppoll.c:42
#1  0x000055b7737e1b5e in qemu_poll_ns ()
#2  0x000055b7737df25e in ?? ()
#3  0x00007f in g_main_context_dispatch () from /lib/x86_64-linux-gnu/libglib-2.0.so.0
#4  main (argc=3) at ../../softmmu/main.c:48
"""


def test_named_functions_of_a_stack_come_outermost_first() -> None:
    stack = (
        "main.c:main:48",
        "libglib-2.0.so.0:g_main_context_dispatch:0",
        "?:qemu_poll_ns:0",
        "ppoll.c:__ppoll:42",
    )
    assert parse_backtraces(STACK) == [stack]
    assert parse_backtraces(STACK + STACK) == [stack, stack]
    assert parse_backtraces("gdb: ptrace: Operation not permitted.\n") == []


def test_the_function_that_loops_is_on_both_stacks() -> None:
    one = ("a.c:main:1", "a.c:loop:7", "a.c:step:20")
    other = ("a.c:main:1", "a.c:loop:9", "a.c:other:30")
    assert common_calls([one, other]) == ("a.c:main:1", "a.c:loop:0")


# -- when --------------------------------------------------------------------------------------


def test_the_deadline_follows_what_loads_take() -> None:
    pace = Pace()
    assert pace.deadline_s == FLOOR_S
    for _ in range(EVERY):
        pace.took(0.02)
    assert FLOOR_S < pace.deadline_s < CEILING_S
    for _ in range(EVERY):
        pace.took(10.0)
    assert pace.deadline_s == CEILING_S


def test_one_slow_load_among_many_does_not_move_the_deadline() -> None:
    pace = Pace()
    for n in range(4 * EVERY):
        pace.took(5.0 if n == 70 else 0.001)
    assert pace.deadline_s == FLOOR_S


def test_cpu_time_makes_a_hang_and_time_alone_does_not() -> None:
    wait = Wait(limit_s=2.0)
    assert wait.look(30.0, 1.9, "S") == ""
    assert wait.look(30.1, 2.0, "R") == "busy"


def test_a_process_that_sleeps_and_does_nothing_is_blocked() -> None:
    wait = Wait(limit_s=2.0)
    assert wait.look(1.0, 0.5, "S") == ""
    assert wait.look(1.0 + BLOCKED_S / 2, 0.5, "S") == ""
    assert wait.look(1.0 + BLOCKED_S, 0.5, "S") == "blocked"


@pytest.mark.parametrize("state", ["D", "T", "t"])
def test_a_process_that_waits_for_a_disk_or_was_stopped_is_lost_at_last(state: str) -> None:
    wait = Wait(limit_s=2.0)
    assert wait.look(BLOCKED_S, 0.0, state) == ""
    assert wait.look(WAIT_MAX_S - 1, 0.0, state) == ""
    # And what it waited then is no sleep.
    assert wait.look(WAIT_MAX_S - 0.5, 0.0, "S") == ""
    assert wait.look(WAIT_MAX_S, 0.0, state) == "lost"


def test_a_process_that_is_not_let_run_is_waited_for_but_not_for_ever() -> None:
    wait = Wait(limit_s=2.0)
    assert wait.look(WAIT_MAX_S - 1, 0.0, "R") == ""
    assert wait.look(WAIT_MAX_S, 0.0, "R") == "lost"
