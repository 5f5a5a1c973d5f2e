"""One worker of one trial: ``python -m loadfuzz.bench.bugs.worker REQUEST.json``.

Prints a line ``{"detected": [names]}`` when there are more, and the
:class:`~loadfuzz.bench.bugs.trial.WorkerResult` as the last one; on SIGTERM and SIGINT
too.  Nothing here may import ``savevm`` at module level: Atheris has to do that.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from loadfuzz import codec
from loadfuzz.bench.bugs.fuzzers import fuzzer_named
from loadfuzz.bench.bugs.trial import TrialRequest
from loadfuzz.channel import Channel
from loadfuzz.errors import LoadfuzzError
from loadfuzz.exitcodes import ExitCode


def main(arguments: Sequence[str]) -> int:
    """Entry point: the file with the request."""
    request = codec.decode(Path(arguments[0]).read_bytes(), TrialRequest)
    channel = Channel()
    try:
        _run(request, channel)
    except LoadfuzzError as error:
        print(error, file=sys.stderr)
        return ExitCode.MACHINERY
    return ExitCode.CLEAN


def _run(request: TrialRequest, channel: Channel) -> None:
    fuzzer = fuzzer_named(request.fuzzer)
    if fuzzer.atheris:
        from loadfuzz.engines.worker import import_instrumented

        import_instrumented(request.target, request.packages)
        from loadfuzz.bench.bugs import atheris_side  # noqa: F401
    from loadfuzz.bench.bugs.session import BugSession, batch_of
    from loadfuzz.engines.last_input import LastInput
    from loadfuzz.engines.worker import guard_memory
    from loadfuzz.executors.watchdog import SUSPICION_SHARE, Watchdog
    from loadfuzz.plugins import load_target

    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    target = load_target(request.target)
    batch = batch_of(request)
    watchdog = Watchdog(request.load_timeout_s / SUSPICION_SHARE)
    with LastInput(Path(request.out), batch) as last_input, watchdog:
        session = BugSession(
            request, batch, target, watchdog, last_input, lambda: bool(asked),
            lambda detected: channel.send(codec.encode({"detected": detected}) + b"\n"),
        )  # fmt: skip

        def finish() -> None:
            """Tell the result and end, past libFuzzer's own way out."""
            channel.send(codec.encode(session.outcome()) + b"\n")
            sys.stderr.flush()
            os._exit(ExitCode.CLEAN)

        guard_memory()
        fuzzer.drive(session, request, finish)
        channel.send(codec.encode(session.outcome()) + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
