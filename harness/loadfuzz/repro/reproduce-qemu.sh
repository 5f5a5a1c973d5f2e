#!/bin/sh
# Usage: sh reproduce.sh [QEMU_BINARY]
#
# Loads what was found into a QEMU again.  It takes that QEMU, image.qcow2 beside
# this file, and a POSIX system with coreutils' timeout; nothing of loadfuzz.  The
# image is copied, since QEMU writes to it.
#
# QEMU                without an argument, the binary is taken from here
# LOADFUZZ_TIMEOUT    whole seconds after which QEMU counts as one that hangs
#
# Exit status: 1 reproduced; 0 not reproduced, or it ends otherwise than was found;
# 3 it cannot be run, or nothing can be said.

set -u

@SETTINGS@

# -- all that follows is the same for every finding ------------------------------

here=$(dirname -- "$0")
qemu=${1:-${QEMU:-$found_with}}
limit=${LOADFUZZ_TIMEOUT:-$seconds}
work=

cannot() {
    printf 'cannot be run: %s\n' "$1"
    exit 3
}

not_reproduced() {
    printf 'not reproduced: %s\n' "$1"
    exit 0
}

cannot_tell() {
    printf 'cannot tell: %s\n' "$1"
    exit 3
}

ends_otherwise() {
    printf 'ends otherwise: %s, expected %s\n' "$1" "$expected"
    exit 0
}

reproduced() {
    printf 'REPRODUCED: %s\n' "$1"
    exit 1
}

# Nothing stays: no process, no file.  QEMU is in the process group of its timeout.
clean_up() {
    [ -n "$work" ] || return
    if [ -s "$work/group" ] && [ ! -e "$work/ended" ]; then
        kill -s KILL -- "-$(cat "$work/group")" 2>/dev/null
    fi
    rm -rf -- "$work"
}

# A limit of ours, unless there is a stricter one.
at_most() {
    hard=$(ulimit "-H$1")
    if [ "$hard" = unlimited ] || [ "$2" -le "$hard" ]; then
        ulimit "-$1" "$2"
    fi
}

# Run by start_machine: a QEMU that reads commands from a pipe of ours.  That its own
# exit status is written down tells one that died from one that was out of time.
launch() {
    rm -f -- "$work/ended" "$work/status" "$work/group"
    cp -- "$here/image.qcow2" "$work/image.qcow2" && chmod u+rw "$work/image.qcow2" ||
        cannot "image.qcow2 cannot be copied from $here"
    : >"$work/output"
    (
        exec 3>&-
        ulimit -c 0
        [ -z "$address_space_kb" ] || at_most v "$address_space_kb"
        # Writes beyond fail; otherwise the signal would be taken for what was looked for.
        trap '' XFSZ
        at_most f "$file_blocks"
        with_environment timeout -s KILL "$limit" sh -c '
            echo "$PPID" >"$0/group"
            "$@" <"$0/commands" >"$0/output" 2>&1
            echo "$?" >"$0/status"
        ' "$work" "$@"
        echo "$?" >"$work/ended"
    ) 2>/dev/null &
    runner=$!
    asked=0
}

# Have QEMU do something, and wait until it has answered the command behind that.
# Ends with the answer or with QEMU, which its timeout sees to.
ask() {
    asked=$((asked + 1))
    printf '%s\ninfo status\n' "$1" >&3
    until [ "$(LC_ALL=C grep -c '^VM status' "$work/output")" -ge "$asked" ]; do
        [ ! -e "$work/ended" ] || return 1
        sleep 0.05
    done
}

# Load snapshots into a fresh QEMU.  Afterwards $refused says whether the last of them
# was; fails when QEMU died or hangs.
load() {
    refused=no
    start_machine
    if ! ask ''; then
        wait "$runner"
        show
        if [ -s "$work/status" ]; then
            cannot "$qemu $(ending) before it took a command"
        fi
        cannot "$qemu took no command within $limit s"
    fi
    for snapshot in "$@"; do
        heard=$(wc -l <"$work/output")
        ask "loadvm $snapshot" || return
        refused=no
        if tail -n "+$((heard + 1))" "$work/output" | LC_ALL=C grep -q '^Error'; then
            refused=yes
        fi
    done
}

leave() {
    echo quit >&3
    wait "$runner"
}

# How a QEMU ended, in words.
ending() {
    status=$(cat "$work/status")
    # A shell adds 128 to a signal's number, of which there are 64; QEMU itself may exit with 255.
    if [ "$status" -gt 128 ] && [ "$status" -le 192 ]; then
        number=$((status - 128))
        echo "killed by signal $number (SIG$(kill -l "$number"))"
    else
        echo "ended with exit status $status"
    fi
}

printed() {
    LC_ALL=C grep -q "$@" "$work/output"
}

# What a QEMU that did not answer shows.
failed() {
    wait "$runner"
    show
    if [ -s "$work/status" ]; then
        died
    fi
    [ "$(wc -c <"$work/output")" -lt "$((file_blocks * 512))" ] ||
        cannot_tell 'it printed more than there is room for'
    case $(cat "$work/ended") in
        124 | 137) ;;
        *) cannot "timeout ended with status $(cat "$work/ended")" ;;
    esac
    case $expected_kind in
        timed-out | any) reproduced 'does not end' ;;
    esac
    ends_otherwise 'does not end'
}

died() {
    how=$(ending)
    status=$(cat "$work/status")
    starved=no
    ! printed -iE "$memory_words" || starved=yes
    case $status in
        129 | 130 | 137 | 143) cannot_tell "$how, from outside; see whether memory ran out (dmesg)" ;;
    esac
    ! printed 'terminating on signal' || cannot_tell "$how, since somebody told it to end"
    case $expected_kind in
        out-of-memory)
            if [ "$starved" = yes ] || [ "$status" = "$expected_status" ]; then
                reproduced "$how"
            fi
            ;;
        crashed)
            if [ "$status" = "$expected_status" ]; then
                if [ -z "$expected_line" ]; then
                    [ "$starved" = yes ] || reproduced "$how"
                elif printed -F -e "$expected_line"; then
                    reproduced "$how"
                fi
            fi
            ;;
        any) [ "$starved" = yes ] || reproduced "$how" ;;
    esac
    [ "$starved" = no ] || cannot_tell "$how for want of memory; give it more, or see what else runs"
    ends_otherwise "$how"
}

# What QEMU printed, without the editing of its command line, and with nothing that a
# terminal would obey: names in it come from the stream.
show() {
    printf '%s\n' "$(
        tail -c 65536 "$work/output" |
            LC_ALL=C sed "s/$escape\\[K//g; s/^(qemu) .*$escape\\[D/(qemu) /" |
            LC_ALL=C tr -d '\000-\010\013-\037\177' | LC_ALL=C tr '\200-\377' '[?*]'
    )"
}

memory_words='failed to allocate|cannot allocate|out[- ]of[- ]memory|bad_alloc|memory exhausted|could not allocate|allocation of [0-9]+ bytes failed|allocation-size-too-big|rss-limit-exceeded'
escape=$(printf '\033')
[ "$limit" -ge 1 ] 2>/dev/null || cannot 'LOADFUZZ_TIMEOUT is no number of seconds'
command -v timeout >/dev/null || cannot 'there is no timeout, which is part of coreutils'
command -v "$qemu" >/dev/null ||
    cannot "there is no $qemu; name a QEMU: sh reproduce.sh QEMU_BINARY"
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
work=$(mktemp -d "${TMPDIR:-/tmp}/loadfuzz-XXXXXXXXXX") && mkfifo "$work/commands" || cannot 'no temporary folder can be made'
image=$work/image.qcow2
# In an option of QEMU a comma is written twice.
image_option=$(printf '%s' "$image" | sed 's/,/,,/g')
# Open at both ends, so that neither QEMU nor we ever wait for the other to open it.
exec 3<>"$work/commands"

printf 'found: %s\n' "$found"
printf 'waiting for at most %s s (LOADFUZZ_TIMEOUT)\n' "$limit"
case $kind in
refused)
    load "$last" || { wait "$runner"; show; not_reproduced "$last fails in a fresh QEMU too"; }
    leave
    if [ "$refused" = yes ]; then
        show
        not_reproduced "$last is refused by a fresh QEMU too"
    fi
    load_all || failed
    leave
    show
    [ "$refused" = no ] || reproduced "$last is refused after other loads"
    not_reproduced "$last is taken after the other loads"
    ;;
*)
    load_all && look_closer || failed
    leave
    show
    not_reproduced "QEMU goes on after all loads"
    ;;
esac
