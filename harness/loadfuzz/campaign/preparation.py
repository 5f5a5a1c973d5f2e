"""The supervisor's side of :mod:`loadfuzz.campaign.prepare`: fills the corpus and
learns what can be run, whatever the target does meanwhile."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, assert_never

import msgspec

from loadfuzz import codec, events
from loadfuzz.campaign import prepare
from loadfuzz.campaign.batch import Engine
from loadfuzz.campaign.folder import CampaignFolder
from loadfuzz.campaign.prepare import Request
from loadfuzz.campaign.seeding import BadSeed, read_seeds
from loadfuzz.campaign.settings import Settings
from loadfuzz.children import Exit, spawn
from loadfuzz.errors import InfraError, UsageError
from loadfuzz.events import Event
from loadfuzz.inputs import digest_of
from loadfuzz.storage import outsiders_of, write_atomic

SILENCE_MAX_S: Final = 30.0
"""Longest time the target may take over one seed, or over being imported."""
BAD_SHOWN: Final = 10
"""Bad seeds named in an error."""
RESTARTS_MAX: Final = 3
"""Seeds that may kill the process, and again while the target is fitted to them;
with more of them the rest is not tried."""

_REQUEST: Final = "prepare.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a campaign starts from.

    Attributes:
        engine: that is used.
        seeds: streams in the corpus.
        target: specification of the target that suits the seeds.
    """

    engine: Engine
    seeds: int
    target: str


class Preparation:
    """Fills a campaign's corpus; for one use.

    Args:
        settings: of the campaign.
        folder: of the campaign, locked.
        tell: hears events.
        command: starts the process; the request's path is appended.
    """

    def __init__(
        self,
        settings: Settings,
        folder: CampaignFolder,
        tell: Callable[[Event], None],
        command: Sequence[str] = (sys.executable, "-m", "loadfuzz.campaign.prepare"),
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._tell = tell
        self._command = command
        self._atheris_problem: str | None = None
        self._target = settings.target
        self._trying = ""
        self._fitting = False
        self._silent = False
        self._tried: list[str] = []
        self._bad: list[str] = []
        self._given: dict[str, str] = {}
        self._failed: prepare.Failed | None = None
        self._done = False
        self._remote = False
        self._accepted = 0
        self._refused = ""
        self._patience: asyncio.Timeout | None = None

    async def run(self) -> Prepared:
        """Do it.

        Raises:
            UsageError: no usable seed is left, or the engine cannot be had.
            InfraError: the target cannot be imported or opened.
            OSError: the corpus cannot be written.
        """
        for digest in self._folder.quarantine_corrupt():
            self._tell(events.MachineryWarning(
                f"corpus/{digest} does not hold what its name says and is in quarantine/ now"
            ))  # fmt: skip
        if self._folder.resumed:
            # Another build, other oracles, streams that somebody put there: all are judged anew.
            outsiders_of(self._folder.path).add(self._folder.corpus.digests())
        self._read_given()
        request = Request(
            target=self._settings.target,
            corpus=str(self._folder.corpus.folder),
            own_seeds=not self._settings.seeds,
            given=tuple(self._given.items()),
            try_atheris=self._settings.engine is not Engine.NATIVE,
            load_timeout_s=self._settings.load_timeout_s,
        )
        killed = unfit = 0
        while killed <= RESTARTS_MAX and unfit <= RESTARTS_MAX:
            end = await self._run_process(request)
            if self._failed is not None:
                raise (UsageError if self._failed.usage else InfraError)(self._failed.text)
            if self._done:
                break
            how = f"ends the target's process: {end}"
            if self._silent:
                how = f"keeps the target's process busy for more than {SILENCE_MAX_S:.0f} s"
            if self._fitting and not self._trying and not request.one_by_one:
                request = replace(request, one_by_one=True)
            elif self._fitting and self._trying:
                unfit += 1
                self._set_aside(self._trying, how)
            elif self._trying:
                killed += 1
                self._refuse(self._trying, how)
            else:
                raise InfraError(
                    f"target {request.target!r} ended the process that imports it ({end}): "
                    f"{end.stderr.strip() or 'it said nothing'}; repair the target"
                )
            request = replace(
                request,
                try_atheris=False,
                given=tuple(self._given.items()),
                skip=tuple(self._tried),
            )
        else:
            self._tell(events.MachineryWarning(
                f"{RESTARTS_MAX + 1} seeds ended the target's process; the rest was not tried"
            ))  # fmt: skip
        if self._settings.seeds and not self._given:
            raise self._nothing_given()
        if self._remote and not self._accepted and not self._folder.resumed:
            raise InfraError(
                f"{self._target} accepts none of its {len(self._tried)} seeds"
                + (f", the last: {self._refused}" if self._refused else "")
                + "; give it others with --seeds, or see that it is started as it should be"
            )
        seeds = sum(1 for _ in self._folder.corpus.digests())
        if seeds == 0:
            raise UsageError(
                f"target {request.target!r} has no seed of its own; give it some with --seeds"
            )
        return Prepared(self._choose_engine(), seeds, self._target)

    def _read_given(self) -> None:
        for item in read_seeds(map(Path, self._settings.seeds)):
            if isinstance(item, BadSeed):
                self._tell(events.SeedSetAside(item.name, item.reason))
                self._bad.append(f"{item.name} {item.reason}")
            else:
                self._folder.corpus.add(item.stream)
                self._given[item.origin] = digest_of(item.stream)
        if self._settings.seeds and not self._given:
            raise self._nothing_given()

    def _nothing_given(self) -> UsageError:
        bad = self._bad
        more = f"\n  and {len(bad) - BAD_SHOWN} more" if len(bad) > BAD_SHOWN else ""
        return UsageError(
            "none of the --seeds can be used:"
            + "".join(f"\n  {line}" for line in bad[:BAD_SHOWN])
            + f"{more}\ncapture one with 'loadfuzz seeds capture', or leave --seeds away to "
            "start from the target's own"
        )

    def _choose_engine(self) -> Engine:
        wanted = self._settings.engine
        if wanted is Engine.NATIVE:
            return wanted
        if self._remote:
            if wanted is Engine.ATHERIS:
                raise UsageError(
                    f"the loader of {self._target} runs in a process of its own, which Atheris "
                    "cannot see into; leave --engine away, or use --engine native"
                )
            return Engine.NATIVE
        if not self._atheris_problem:
            return Engine.ATHERIS
        if wanted is Engine.ATHERIS:
            raise UsageError(
                f"Atheris cannot be imported ({self._atheris_problem}); install it with "
                "'pip install loadfuzz[atheris]', or use --engine native"
            )
        self._tell(events.MachineryWarning(
            f"Atheris cannot be imported ({self._atheris_problem}), so the native engine is used: "
            "it sees trace events, not the coverage of the loader's code. "
            "'pip install loadfuzz[atheris]' gets it"
        ))  # fmt: skip
        return Engine.NATIVE

    async def _run_process(self, request: Request) -> Exit:
        self._trying = ""
        self._fitting = self._silent = False
        path = self._folder.path / _REQUEST
        write_atomic(path, codec.encode(request), durable=False)
        try:
            async with spawn([*self._command, str(path)], self._hear) as child:
                try:
                    async with asyncio.timeout(SILENCE_MAX_S) as self._patience:
                        return await child.wait()
                except TimeoutError:
                    self._silent = True
                    return await child.stop(0.0)
        finally:
            path.unlink(missing_ok=True)

    def _hear(self, line: bytes) -> None:
        try:
            message = prepare.decode_message(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._tell(events.MachineryWarning(f"preparing: no message: {line[:80]!r}"))
            return
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time() + SILENCE_MAX_S)
        match message:
            case prepare.AtherisFound():
                self._atheris_problem = message.problem
            case prepare.TargetFitted():
                if self._target != message.spec:
                    self._target = message.spec
                    self._tell(events.MachineryWarning(
                        f"the seeds are not of the target's own machine; fuzzing {message.summary}"
                    ))  # fmt: skip
            case prepare.RunsRemote():
                self._remote = True
            case prepare.FittingAll():
                self._trying, self._fitting = "", True
            case prepare.FittingDone():
                self._trying, self._fitting = "", False
            case prepare.SeedFitting():
                self._trying, self._fitting = message.name, True
            case prepare.SeedUnfit():
                self._set_aside(
                    message.name, f"the target cannot be fitted to it: {message.reason}"
                )
            case prepare.SeedTrying():
                self._trying, self._fitting = message.name, False
            case prepare.SeedTried():
                self._trying = ""
                if message.problem:
                    self._refused = message.problem
                    self._refuse(message.name, message.problem)
                else:
                    self._accepted += 1
                    self._tried.append(message.name)
            case prepare.SeedUnusable():
                self._tell(events.SeedSetAside(message.name, message.reason))
            case prepare.Failed():
                self._failed = message
            case prepare.Done():
                self._done = True
            case _:
                assert_never(message)

    def _set_aside(self, name: str, reason: str) -> None:
        """Do without a seed that the target cannot even be fitted to: no load would
        show what is wrong with it, and whoever looks at it may hang too."""
        digest = self._given.pop(name, None)
        if digest is None:
            return
        if digest not in self._given.values():
            self._folder.quarantine(digest)
        self._bad.append(f"{name} {reason}")
        self._tell(events.SeedSetAside(name, reason))

    def _refuse(self, name: str, reason: str) -> None:
        self._tried.append(name)
        self._tell(events.SeedRefused(name, reason))
