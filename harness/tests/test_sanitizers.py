"""What sanitizers, Python and failed assertions say, from reports as they are printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadfuzz.executors.sanitizers import (
    Report,
    assertion_report,
    python_fault,
    python_report,
    sanitizer_report,
    says_out_of_memory,
)
from loadfuzz.oracles.clean_error import place_of

HEAP = """\
refusing nothing so far
=================================================================
==26021==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x60200000001a at pc 0x7f2b bp 0x7ff sp 0x7ff
WRITE of size 20 at 0x60200000001a thread T0
    #0 0x7f2ba9248060 in __interceptor_memcpy ../../../../src/libsanitizer/sanitizer_common/sanitizer_common_interceptors.inc:827
    #1 0x5595ab8822f4 in copy /tmp/a.c:6
    #2 0x5595ab882653 in main /tmp/a.c:9
    #3 0x7f2ba8845249 in __libc_start_call_main ../sysdeps/nptl/libc_start_call_main.h:58
    #4 0x7f2ba8845304 in __libc_start_main_impl ../csu/libc-start.c:360
    #5 0x5595ab8821d0 in _start (/tmp/a.out+0x21d0)

0x60200000001a is located 0 bytes to the right of 10-byte region [0x602000000010,0x60200000001a)
allocated by thread T0 here:
    #0 0x7f2ba92b89cf in __interceptor_malloc ../../../../src/libsanitizer/asan/asan_malloc_linux.cpp:69
    #1 0x5595ab88262e in grow /tmp/a.c:8

SUMMARY: AddressSanitizer: heap-buffer-overflow ../../../../src/libsanitizer/sanitizer_common/x.inc:827 in __interceptor_memcpy
==26021==ABORTING
"""  # noqa: E501
CLANG = """\
==7==ERROR: AddressSanitizer: SEGV on unknown address 0x000000000008 (pc 0x55d4 bp 0x7ffd sp 0x7ffd T0)
==7==The signal is caused by a READ memory access.
==7==Hint: address points to the zero page.
    #0 0x55d4f1 in (anonymous namespace)::Ring::walk(std::vector<int> const&, int) /src/my dir/ring.cc:41:9
    #1 0x55d4f2 in vm::Loader::load(vm::File&) /src/loader.cc:12:3
    #2 0x7f31 in __libc_start_call_main csu/../sysdeps/nptl/libc_start_call_main.h:58:16
    #3 0x55d400 in _start (/src/loader+0x1e400) (BuildId: 0123456789abcdef)
"""  # noqa: E501
UNDEFINED = """\
rtc.c:11:21: runtime error: index 17 out of bounds for type 'int [16]'
    #0 0x55e66ef6d73a in set_index /tmp/rtc.c:11
    #1 0x7fd61f245249 in __libc_start_call_main ../sysdeps/nptl/libc_start_call_main.h:58

"""
ABORTED = """\
a.out: a.c:15: load: Assertion `count == 0' failed.
AddressSanitizer:DEADLYSIGNAL
=================================================================
==26039==ERROR: AddressSanitizer: ABRT on unknown address 0x0000000065b7 (pc 0x7f61 bp 0x7f61 sp 0x7fff T0)
    #0 0x7f61496a8eec in __pthread_kill_implementation nptl/pthread_kill.c:44
    #1 0x7f6149659fb1 in __GI_raise ../sysdeps/posix/raise.c:26
    #2 0x7f6149644471 in __GI_abort stdlib/abort.c:79
    #3 0x7f6149644394 in __assert_fail_base assert/assert.c:94
    #4 0x7f6149652ec1 in __GI___assert_fail assert/assert.c:103
    #5 0x5637ffe89959 in load /tmp/a.c:15
    #6 0x7f6149645249 in __libc_start_call_main ../sysdeps/nptl/libc_start_call_main.h:58
"""  # noqa: E501
UNINITIALISED = """\
==12==WARNING: MemorySanitizer: use-of-uninitialized-value
    #0 0x4a2f in post_load /src/nic.c:88:7
    #1 0x4a30 in main /src/main.c:5:3
"""
LEAK = """\
==26151==ERROR: LeakSanitizer: detected memory leaks

Direct leak of 10 byte(s) in 1 object(s) allocated from:
    #0 0x7fca95cb89cf in __interceptor_malloc ../../../../src/libsanitizer/asan/asan_malloc_linux.cpp:69
    #1 0x5613c61f762e in read_name /tmp/a.c:8

SUMMARY: AddressSanitizer: 10 byte(s) leaked in 1 allocation(s).
"""  # noqa: E501
RACE = """\
WARNING: ThreadSanitizer: data race (pid=19219)
  Write of size 4 at 0x7fcf47b21bc0 by thread T1:
    #0 bump race.c:4 (exe+0x00000000a360)

  Previous write of size 4 at 0x7fcf47b21bc0 by main thread:
    #0 main race.c:10 (exe+0x00000000a3b4)
"""


@pytest.mark.parametrize(
    ("text", "tool", "kind", "place"),
    [
        (HEAP, "AddressSanitizer", "heap-buffer-overflow", "a.c:copy"),
        (CLANG, "AddressSanitizer", "SEGV", "ring.cc:anonymous.Ring.walk"),
        (UNDEFINED, "UndefinedBehaviorSanitizer", "index-out-of-bounds", "rtc.c:set_index"),
        (ABORTED, "AddressSanitizer", "ABRT", "a.c:load"),
        (UNINITIALISED, "MemorySanitizer", "use-of-uninitialized-value", "nic.c:post_load"),
        (LEAK, "LeakSanitizer", "memory-leak", "a.c:read_name"),
        (RACE, "ThreadSanitizer", "data-race", "race.c:bump"),
    ],
)
def test_a_report_tells_what_happened_and_in_which_function_of_the_loader(
    text: str, tool: str, kind: str, place: str
) -> None:
    report = sanitizer_report(text)
    assert report is not None
    assert (report.tool, report.kind) == (tool, kind)
    assert place_of(report.escape()) == place


def test_frames_are_innermost_last_and_only_the_loaders_own() -> None:
    report = sanitizer_report(HEAP)
    assert report is not None
    assert report.frames == ("a.c:main:9", "a.c:copy:6")
    assert report.message == "heap-buffer-overflow, WRITE of size 20"


def test_a_message_has_no_addresses() -> None:
    for text in (HEAP, CLANG, ABORTED):
        report = sanitizer_report(text)
        assert report is not None
        assert "0x" not in report.message


def test_what_ends_a_program_comes_before_what_it_goes_on_after() -> None:
    report = sanitizer_report(UNDEFINED + HEAP)
    assert report is not None
    assert report.kind == "heap-buffer-overflow"


def test_undefined_behaviour_without_a_stack_is_placed_by_its_line() -> None:
    report = sanitizer_report("../hw/rtc.c:11:21: runtime error: signed integer overflow: 1 + 2\n")
    assert report is not None
    assert report.kind == "signed-integer-overflow"
    assert report.frames == ("rtc.c:?:11",)


def test_a_recursion_is_told_by_the_function_that_is_on_the_stack_most_often() -> None:
    frames = "".join(
        f"    #{at} 0x55b2 in {'leaf' if at == 0 else 'descend'} /tmp/tree.c:{at}\n"
        for at in range(250)
    )
    head = "==1==ERROR: AddressSanitizer: stack-overflow on address 0x7ffc (pc 0x1 bp 0x2 T0)\n"
    report = sanitizer_report(head + frames)
    assert report is not None
    assert place_of(report.escape()) == "tree.c:descend"


@pytest.mark.parametrize(
    "text",
    [
        "==1==ERROR: AddressSanitizer: requested allocation size 0x10000000000 (0x1 after "
        "adjustments) exceeds maximum supported size of 0x10000000000 (thread T0)\n"
        "    #0 0x7f in __interceptor_malloc ../src/libsanitizer/asan/asan_malloc_linux.cpp:69\n"
        "    #1 0x55 in read_name /tmp/a.c:13\n",
        "==1==ERROR: AddressSanitizer: allocator is out of memory trying to allocate 0x9 bytes\n"
        "    #0 0x55 in read_name /tmp/a.c:13\n",
        "==2==AddressSanitizer: hard rss limit exhausted (512Mb vs 602Mb)\n",
    ],
)
def test_exhausted_memory_is_told_from_a_crash(text: str) -> None:
    report = sanitizer_report(text)
    assert report is not None
    assert report.out_of_memory


def test_frames_of_the_runtime_alone_are_better_than_none() -> None:
    report = sanitizer_report(
        "==1==ERROR: AddressSanitizer: SEGV on unknown address 0x0 (pc 0x1 T0)\n"
        "    #0 0x7f in __interceptor_free ../src/libsanitizer/asan/asan_malloc_linux.cpp:52\n"
    )
    assert report is not None
    assert place_of(report.escape()) == "asan_malloc_linux.cpp:__interceptor_free"


def test_a_frame_without_debug_information_is_told_by_its_program() -> None:
    report = sanitizer_report(
        "==1==ERROR: AddressSanitizer: heap-use-after-free on address 0x1 at pc 0x2\n"
        "READ of size 1 at 0x1 thread T0\n"
        "    #0 0x7f in __interceptor_strlen (/lib/x86_64-linux-gnu/libasan.so.8+0x5)\n"
        "    #1 0x55 in load (/opt/loader+0x1234)\n"
        "    #2 0x55 in main (/opt/loader+0x1299)\n"
    )
    assert report is not None
    assert report.frames == ("loader:main:0", "loader:load:0")


# -- Python --------------------------------------------------------------------------------

CHAINED = """\
Traceback (most recent call last):
  File "/src/loader.py", line 3, in read
    raise KeyError("a")
KeyError: 'a'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/src/main.py", line 20, in <module>
    load(sys.argv[1])
    ~~~~^^^^^^^^^^^^^
  File "/src/loader.py", line 9, in load
    return table[index]
myloader.errors.BadIndex: 7 of 3
"""
GROUP = """\
  + Exception Group Traceback (most recent call last):
  |   File "/src/main.py", line 5, in <module>
  |     asyncio.run(main())
  | ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/src/rtc.py", line 7, in load_rtc
    |     return cmos[index]
    | IndexError: list index out of range
    +---------------- 2 ----------------
    | Traceback (most recent call last):
    |   File "/src/nic.py", line 8, in load_nic
    |     return 1 / 0
    | ZeroDivisionError: division by zero
    +------------------------------------
"""
FAULT = """\
Fatal Python error: Segmentation fault

Thread 0x00007f01 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait

Current thread 0x00007f36a4befb80 (most recent call first):
  File "/src/rtc.py", line 3 in load_rtc
  File "/src/main.py", line 4 in <module>

Extension modules: fastloader (total: 1)
"""


def test_of_chained_exceptions_it_is_the_last_that_left() -> None:
    assert python_report(CHAINED) == Report(
        "Python", "BadIndex", "7 of 3", ("main.py:<module>:20", "loader.py:load:9")
    )


def test_of_an_exception_group_it_is_the_first_inside() -> None:
    report = python_report(GROUP)
    assert report == Report(
        "Python", "IndexError", "list index out of range", ("rtc.py:load_rtc:7",)
    )


def test_a_traceback_that_is_cut_off_says_nothing() -> None:
    assert python_report(CHAINED.partition("KeyError")[0]) is None
    assert python_report("all is well\n") is None


def test_exhausted_memory_of_python_is_told_from_a_crash() -> None:
    report = python_report(
        'Traceback (most recent call last):\n  File "a.py", line 1, in load\nMemoryError\n'
    )
    assert report is not None
    assert report.out_of_memory


def test_a_signal_in_python_is_placed_in_the_thread_that_got_it() -> None:
    report = python_fault(FAULT)
    assert report is not None
    assert (report.kind, place_of(report.escape())) == ("Segmentation-fault", "rtc.py:load_rtc")


# -- assertions and allocators -------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "qemu-system-x86_64: ../hw/rtc.c:12: rtc_post_load: Assertion `index < 128' failed.",
        "ERROR:../hw/rtc.c:12:rtc_post_load: assertion failed: (index < 128)",
        "Assertion failed: index < 128 (../hw/rtc.c: rtc_post_load: 12)",
        "rtc.c:12: int rtc_post_load(State *, int): Assertion `index < 128' failed.",
    ],
)
def test_an_assertion_says_where_it_stands(line: str) -> None:
    report = assertion_report(f"loading\n{line}\nBail out!\n")
    assert report is not None
    assert report.frames[0].startswith("rtc.c:")
    assert report.frames[0].endswith(":12")
    assert "rtc_post_load" in report.frames[0]


def test_runtimes_that_say_that_memory_ran_out_are_heard() -> None:
    thrown = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  x\n"
    assert says_out_of_memory(thrown)
    assert says_out_of_memory("memory allocation of 1099511627776 bytes failed\n")
    assert not says_out_of_memory("the stream says bad things\n")


# -- whatever is said ----------------------------------------------------------------------


@given(st.text(max_size=200), st.integers(0, 1500), st.integers(0, 1500))
def test_a_report_that_is_cut_and_mixed_up_raises_nothing(text: str, start: int, end: int) -> None:
    for whole in (HEAP, CLANG, UNDEFINED, LEAK, RACE, GROUP, FAULT, CHAINED):
        said = whole[start:end] + text + whole[:end]
        for look in (sanitizer_report, python_report, python_fault, assertion_report):
            report = look(said)
            if report is not None:
                place_of(report.escape())
