"""Power loss between any two writes: every prefix of what a campaign writes is replayed, with
and without what the disk had not been made to keep.

A disk may lose the content of a file that was not synced, and the name of one whose folder
was not.  So each prefix is laid out three times: with everything that was done, without
contents that nobody waited for, and without names that nobody waited for either.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest

from loadfuzz import storage
from loadfuzz.campaign.folder import open_folder, read_settings
from loadfuzz.campaign.settings import Settings
from loadfuzz.errors import UsageError
from loadfuzz.execution import Depth, Execution, ExitKind
from loadfuzz.findings import Finding, Violation
from loadfuzz.inputs import Input, digest_of
from loadfuzz.repro.folder import finding_folders, read_finding, write_finding
from loadfuzz.storage import Corpus, CorruptEntryError

STREAMS = [b"QEVM" + bytes([number]) * 40 for number in range(4)]


class Loss(StrEnum):
    """What a disk loses with its power."""

    NOTHING = "nothing"
    CONTENTS = "contents"
    NAMES = "names"


@dataclass(frozen=True)
class Op:
    """One thing that was done to the disk; paths are relative to the campaign."""

    kind: str
    path: Path
    to: Path = Path()
    data: bytes = b""


@dataclass
class Recorder:
    """Records what :mod:`loadfuzz.storage` does below a folder."""

    root: Path
    ops: list[Op] = field(default_factory=list)
    promised: list[tuple[int, str]] = field(default_factory=list)
    """After so many operations somebody was told that this finding is kept."""

    def record(self, kind: str, path: Path, to: Path | None = None, data: bytes = b"") -> None:
        with suppress(ValueError):  # elsewhere
            target = Path() if to is None else to.relative_to(self.root)
            self.ops.append(Op(kind, path.relative_to(self.root), target, data))


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    seen = Recorder(tmp_path / "mine")
    real_write, real_sync = storage._write, storage._sync_folder
    real_mkdir, real_rename, real_replace = Path.mkdir, Path.rename, Path.replace

    def write(path: Path, data: bytes, *, durable: bool) -> None:
        real_write(path, data, durable=durable)
        seen.record("write", path, data=data)
        if durable:
            seen.record("sync", path)

    def sync(folder: Path) -> None:
        real_sync(folder)
        seen.record("sync-folder", folder)

    def mkdir(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        there = path.exists()
        real_mkdir(path, mode, parents, exist_ok)
        if not there and path != seen.root:
            seen.record("mkdir", path)

    def moving(real: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def move(path: Path, target: Path) -> Path:
            result = real(path, target)
            seen.record("rename", path, target)
            return result

        return move

    monkeypatch.setattr(storage, "_write", write)
    monkeypatch.setattr(storage, "_sync_folder", sync)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "rename", moving(real_rename))
    monkeypatch.setattr(Path, "replace", moving(real_replace))
    return seen


def finding(number: int) -> Finding:
    return Finding(
        target="scripted",
        input=Input(STREAMS[number]),
        violation=Violation("footer", "a wrong footer", "id 1", "id 2", f"device{number * 'x'}"),
        execution=Execution(ExitKind.ACCEPTED, Depth.ACCEPTED),
        parent=digest_of(STREAMS[0]),
        parent_stream=STREAMS[0],
        mutations=(),
        seed=1,
        worker=0,
        executions=9,
        reliability=(3, 3),
    )


def write_campaign(recorder: Recorder) -> None:
    """All kinds of writing that a campaign does."""
    folder = open_folder(recorder.root, "scripted")
    with folder.locked(Settings("scripted", None, 1, 1, 1.0, None)):
        for number in (1, 2):
            folder.corpus.add(STREAMS[number])
            place = write_finding(folder.path, finding(number))
            assert place is not None
            recorder.promised.append((len(recorder.ops), finding(number).signature))
        folder.corpus.add(STREAMS[3])


def lay_out(ops: list[Op], root: Path, loss: Loss) -> None:
    """Make ``root`` what the disk has after ``ops`` and a loss of power."""
    shutil.rmtree(root, ignore_errors=True)
    os.mkdir(root)
    # What a disk may lose: names that were made since their folder was synced last, and
    # contents since they were.
    named_late = set()
    written_late = set()
    for at, op in enumerate(ops):
        later = ops[at + 1 :]
        folder = (op.to if op.kind == "rename" else op.path).parent
        if op.kind in {"mkdir", "rename"}:
            if not any(item.kind == "sync-folder" and item.path == folder for item in later):
                named_late.add(at)
        elif op.kind == "write" and not any(
            item.kind == "sync" and item.path == op.path for item in later
        ):
            written_late.add(at)
    gone: list[Path] = []
    for at, op in enumerate(ops):
        if any(op.path.is_relative_to(folder) for folder in gone):
            continue
        if loss is Loss.NAMES and at in named_late:
            if op.kind == "mkdir":
                gone.append(op.path)
            continue
        match op.kind:
            case "mkdir":
                os.mkdir(root / op.path)
            case "write":
                lost = loss is not Loss.NOTHING and at in written_late
                (root / op.path).write_bytes(b"" if lost else op.data)
            case "rename":
                os.rename(root / op.path, root / op.to)
            case _:
                pass


def prefixes(recorder: Recorder, root: Path) -> Iterator[int]:
    for count in range(len(recorder.ops) + 1):
        for loss in Loss:
            lay_out(recorder.ops[:count], root, loss)
            yield count


def test_after_any_loss_of_power_what_was_announced_is_there_and_whole(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_campaign(recorder)
    monkeypatch.undo()
    assert {op.kind for op in recorder.ops} == {"mkdir", "write", "sync", "sync-folder", "rename"}
    root = tmp_path / "after"
    seen = 0
    for count in prefixes(recorder, root):
        findings = root / "findings"
        folders = finding_folders(findings) if findings.is_dir() else []
        found = [read_finding(path) for path in folders]
        assert {item.signature for item in found} >= {
            signature for after, signature in recorder.promised if after <= count
        }
        for item in found:
            number = STREAMS.index(item.input.stream)
            assert item == dataclasses.replace(finding(number), target=item.target)
        seen += 1
    assert seen > 50


def test_after_any_loss_of_power_a_campaign_goes_on_in_its_folder(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_campaign(recorder)
    monkeypatch.undo()
    root = tmp_path / "after"
    settings = Settings("scripted", None, 1, 1, 1.0, None)
    quarantined = 0
    for _ in prefixes(recorder, root):
        begun = (root / "campaign.json").exists()
        if begun:
            assert read_settings(root) == settings
        else:
            # Before that there is nothing but empty folders, and nothing to lose.
            with suppress(UsageError):
                open_folder(root, "scripted")
            continue
        folder = open_folder(root, "scripted")
        assert folder.resumed
        with folder.locked(settings):
            quarantined += len(folder.quarantine_corrupt())
            for digest in folder.corpus.digests():
                assert folder.corpus.read(digest) in STREAMS
            assert not [path for path in root.rglob(".tmp-*") if "worker" not in str(path)]
            assert write_finding(root, finding(3)) is not None
    # Entries of the corpus are not waited for, so some were lost; and they were noticed.
    assert quarantined


def test_a_disk_loses_what_nobody_waited_for(recorder: Recorder, tmp_path: Path) -> None:
    """That the disk above is as treacherous as it should be."""
    os.mkdir(recorder.root)
    (recorder.root / "corpus").mkdir()
    Corpus(recorder.root / "corpus").add(STREAMS[1])
    root = tmp_path / "after"
    lay_out(recorder.ops, root, Loss.CONTENTS)
    with pytest.raises(CorruptEntryError):
        Corpus(root / "corpus").read(digest_of(STREAMS[1]))
    lay_out(recorder.ops, root, Loss.NAMES)
    assert list(root.iterdir()) == []
