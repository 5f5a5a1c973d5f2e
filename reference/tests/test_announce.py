"""Self-announce: the RARP frame, the rounds and their delays, and the seed's static count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savevm.announce import (
    MAX_SENT,
    AnnounceAborted,
    NICState,
    SelfAnnounce,
    announce_self_create,
    self_announce_delay,
)
from savevm.machine import Machine
from savevm.profile import SEED
from savevm.trace import TraceLog

MAC = bytes.fromhex("52540012abcd")
OTHER = bytes.fromhex("52540012abce")


def seed_machine_with(*nics: NICState) -> Machine:
    machine = machine_with(*nics)
    machine.profile = SEED
    return machine


def machine_with(*nics: NICState) -> Machine:
    machine = Machine()
    machine.nics.extend(nics)
    return machine


def send_times(announce: SelfAnnounce, nic: NICState, until_ms: int) -> list[int]:
    """Milliseconds at which frames went out, the clock moving by one at a time."""
    times = [0] * len(nic.sent)
    for now in range(1, until_ms + 1):
        before = len(nic.sent)
        announce.advance_ms(1)
        times += [now] * (len(nic.sent) - before)
    return times


def test_the_frame_is_a_rarp_request_byte_for_byte() -> None:
    assert announce_self_create(MAC).hex() == (
        "ffffffffffff" "52540012abcd" "8035"  # to all, from the NIC, RARP
        "0001" "0800" "06" "04" "0003"  # Ethernet, IPv4, their sizes, reverse request
        "52540012abcd" "00000000" "52540012abcd" "00000000"
        + "00" * 18
    )  # fmt: skip


@given(st.binary(min_size=6, max_size=6))
def test_every_frame_has_60_bytes_and_names_the_address_three_times(mac: bytes) -> None:
    frame = announce_self_create(mac)
    assert len(frame) == 60
    assert frame[6:12] == frame[22:28] == frame[32:38] == mac


@pytest.mark.parametrize("mac", [b"", bytes(5), bytes(7)])
def test_an_address_of_another_size_is_refused(mac: bytes) -> None:
    with pytest.raises(ValueError):
        announce_self_create(mac)
    with pytest.raises(ValueError):
        NICState(mac)


def test_delays_grow_by_100_ms_from_50() -> None:
    assert [self_announce_delay(left) for left in (4, 3, 2, 1)] == [50, 150, 250, 350]


@pytest.mark.parametrize("left", [-1, 0, 5])
def test_a_round_outside_the_rounds_has_no_delay(left: int) -> None:
    with pytest.raises(AnnounceAborted, match=f"round {left}"):
        self_announce_delay(left)


def test_five_rounds_go_out_at_0_50_200_450_and_800_ms() -> None:
    nic = NICState(MAC)
    announce = SelfAnnounce(machine_with(nic))
    announce.announce()
    assert send_times(announce, nic, 2000) == [0, 50, 200, 450, 800]
    assert nic.sent == [announce_self_create(MAC)] * 5


def test_every_nic_announces_itself_in_each_round() -> None:
    first, second = NICState(MAC), NICState(OTHER)
    log = TraceLog()
    announce = SelfAnnounce(machine_with(first, second), trace=log)
    announce.announce()
    announce.advance_ms(10_000)
    assert first.sent == [announce_self_create(MAC)] * 5
    assert second.sent == [announce_self_create(OTHER)] * 5
    heard = log.named("qemu_announce_self_iter")
    assert heard == [("52:54:00:12:ab:cd",), ("52:54:00:12:ab:ce",)] * 5
    assert str(log.events[0]) == "qemu_announce_self_iter 52:54:00:12:ab:cd"


def test_a_machine_without_nics_runs_its_rounds_in_silence() -> None:
    announce = SelfAnnounce(machine_with())
    announce.announce()
    assert announce.active()
    announce.advance_ms(800)
    assert not announce.active()


def test_the_timer_is_deleted_after_the_last_round_and_not_before() -> None:
    announce = SelfAnnounce(machine_with(NICState(MAC)))
    announce.announce()
    announce.advance_ms(799)
    assert len(announce.timers.timers) == 1
    announce.advance_ms(1)
    assert announce.timers.timers == []


def test_a_late_main_loop_delays_the_rounds_that_follow() -> None:
    nic = NICState(MAC)
    announce = SelfAnnounce(machine_with(nic))
    announce.announce()
    announce.clock.now_ns = 1000 * 1_000_000
    assert announce.timers.run_expired() == 1
    assert announce.timers.timers[0].expire_ns == 1150 * 1_000_000


def test_round_times_are_cut_to_whole_milliseconds() -> None:
    announce = SelfAnnounce(machine_with(NICState(MAC)))
    announce.clock.now_ns = 7_999_999
    announce.announce()
    assert announce.timers.timers[0].expire_ns == (7 + 50) * 1_000_000


def test_a_nic_without_a_link_sends_nothing_and_reports_the_size() -> None:
    nic = NICState(MAC, link_down=True)
    assert nic.send_packet_raw(bytes(60)) == 60
    assert nic.sent == []


def test_a_nic_forgets_its_oldest_frames() -> None:
    nic = NICState(MAC)
    for number in range(MAX_SENT + 3):
        nic.send_packet_raw(number.to_bytes(4, "big"))
    assert len(nic.sent) == MAX_SENT
    assert nic.sent[0] == (3).to_bytes(4, "big")


def test_a_second_announcement_has_its_five_rounds() -> None:
    nic = NICState(MAC)
    announce = SelfAnnounce(machine_with(nic))
    for _ in range(2):
        announce.announce()
        announce.advance_ms(800)
    assert len(nic.sent) == 10
    assert not announce.active()


def test_an_announcement_under_way_is_replaced_by_a_new_one() -> None:
    nic = NICState(MAC)
    announce = SelfAnnounce(machine_with(nic))
    announce.announce()
    announce.advance_ms(60)
    announce.announce()
    assert send_times(announce, nic, 2000)[2:] == [0, 50, 200, 450, 800]
    assert announce.timers.timers == []


def test_the_seed_dies_in_its_second_announcement_after_its_first_frames() -> None:
    nic = NICState(MAC)
    announce = SelfAnnounce(seed_machine_with(nic))
    announce.announce()
    announce.advance_ms(800)
    assert len(nic.sent) == 5
    with pytest.raises(AnnounceAborted, match="round -1"):
        announce.announce()
    assert len(nic.sent) == 6


def test_in_the_seed_an_overlapping_announcement_shares_the_rounds_of_the_first() -> None:
    nic = NICState(MAC)
    announce = SelfAnnounce(seed_machine_with(nic))
    announce.announce()  # 5 -> 4, the first timer due at 50
    announce.advance_ms(20)
    announce.announce()  # 4 -> 3, the second timer due at 20 + 150
    # At 50 the first timer fires and moves the second one to 50 + 250; the last round
    # is 350 ms after that.
    assert [time + 20 for time in send_times(announce, nic, 2000)[2:]] == [50, 300, 650]
    assert len(nic.sent) == 5
    assert [timer.pending() for timer in announce.timers.timers] == [False]


def test_in_the_seed_a_leftover_timer_kills_after_the_rounds_were_used_up() -> None:
    announce = SelfAnnounce(seed_machine_with(NICState(MAC)))
    for _ in range(5):
        announce.announce()
    with pytest.raises(AnnounceAborted):
        announce.advance_ms(50)
