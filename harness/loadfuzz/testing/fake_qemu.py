"""A program that is started as a QEMU, speaks QMP like one, and misbehaves at the first ``loadvm``
of an input, in the way that ``FAKE_QEMU`` says.
Like a QEMU before 4.0 it executes no commands out of band.

Run by path, since it takes the place of a binary; imports the standard library only.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_LINES: Final = 40_000
"""Lines of about 40 bytes: more than is kept of what a QEMU prints."""
_READ_SIZE: Final = 4096


def misbehave(manner: str, connection: socket.socket) -> str:
    """Do it; returns what the monitor prints where it comes to that."""
    match manner:
        case "garbage":
            connection.sendall(b"HTTP/1.1 400 Bad Request\n")
        case "silence":
            while True:
                time.sleep(60)
        case "busy":
            while True:
                pass
        case "late":
            time.sleep(1.5)
        case "assertion":
            print("fake: ../hw/fake.c:12: fake_load: Assertion `n < 4' failed.", file=sys.stderr)
            sys.stderr.flush()
            os.abort()
        case "memory":
            print("(process:7): GLib-ERROR **: failed to allocate 99 bytes", file=sys.stderr)
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGTRAP)
        case "exit":
            sys.exit(3)
        case "silent" | "silent-memory":
            os.abort()
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "talk":
            for _ in range(_LINES):
                print("a line of what it has to say on each load", file=sys.stderr)
        case "mumble":
            return "Expected vmdescription section, but got 0\r\n"
        case "refuse":
            return "Missing section footer for fdc\r\nError: Error -22 while loading VM state\r\n"
        case _:
            pass
    return ""


@dataclass
class State:
    """What is remembered.

    Attributes:
        loads: since the guest ran last.
    """

    loads: int = 0


def answer(
    command: str, arguments: dict[str, str], connection: socket.socket, state: State
) -> object:
    """What a command returns."""
    manner = os.environ.get("FAKE_QEMU", "")
    match command, arguments:
        case "cont", _:
            if manner == "unrunnable" and state.loads > 1:
                os.kill(os.getpid(), signal.SIGSEGV)
            state.loads = 0
            return {}
        case "snapshot-load", _:
            # A job says what it has to say where it is heard, unlike a monitor's command.
            if manner == "silent-memory":
                print("GLib: ../glib/gmem.c:9: failed to allocate 99 bytes", file=sys.stderr)
                sys.stderr.flush()
            if manner.startswith("silent"):
                os.abort()
            return {}
        case "query-jobs", _:
            return [{"id": "again", "status": "concluded"}]
        case "migrate", {"uri": uri}:
            with socket.socket(socket.AF_UNIX) as stream:
                stream.connect(uri.removeprefix("unix:"))
                stream.sendall(b"QEVM fake")
            return {}
        case "query-migrate", _:
            return {"status": "completed"}
        case "query-version", _:
            return {"qemu": {"major": 0, "minor": 0, "micro": 0}}
        case "query-status", _:
            return {"status": "paused", "running": False}
        case "human-monitor-command", {"command-line": line}:
            state.loads += line.startswith("loadvm")
            if line.startswith("savevm") and manner == "unsavable":
                os.kill(os.getpid(), signal.SIGSEGV)
            if line == "loadvm s1" and manner == "insane":
                return "Error: Error -5 while loading VM state\r\n"
            if line == "loadvm s0":
                return misbehave(manner, connection)
            if line.startswith("savevm") and manner == "unsaved":
                return "Error: no room for it\r\n"
            return ""
        case _:
            return {}


def commands(connection: socket.socket) -> Iterator[dict[str, object]]:
    """What is sent: JSON objects, with or without lines between them."""
    text = ""
    decoder = json.JSONDecoder()
    while data := connection.recv(_READ_SIZE):
        text += data.decode()
        while text := text.lstrip():
            try:
                message, end = decoder.raw_decode(text)
            except ValueError:
                break
            text = text[end:]
            yield message


def main() -> None:
    """Find the channel among the arguments and serve it."""
    chardev = next(word for word in sys.argv if word.startswith("socket,id=qmp,fd="))
    with socket.socket(fileno=int(chardev.rpartition("=")[2])) as connection:
        state = State()
        connection.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\n')
        for message in commands(connection):
            arguments = message.get("arguments")
            reply: dict[str, object] = {
                "return": answer(
                    str(message["execute"]),
                    {key: str(value) for key, value in arguments.items()}
                    if isinstance(arguments, dict)
                    else {},
                    connection,
                    state,
                )
            }
            if message["execute"] == "qmp_capabilities" and (
                arguments or os.environ.get("FAKE_QEMU") == "closed"
            ):
                reply = {"error": {"class": "GenericError", "desc": "no such capability"}}
            if "id" in message:
                reply["id"] = message["id"]
            connection.sendall(json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main()
