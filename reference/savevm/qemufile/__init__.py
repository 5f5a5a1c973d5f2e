"""QEMUFile: buffered big-endian reading and writing with an error state.

The seed has one ``QEMUFile`` that is opened for one direction; here the two
directions are two classes, so that a handler cannot read what it should write.
"""

from savevm.qemufile.reader import QEMUFileReader
from savevm.qemufile.sources import (
    Buffer,
    BytesSink,
    ChunkSource,
    FileSink,
    FileSource,
    Sink,
    Source,
    SuspendingSource,
)
from savevm.qemufile.writer import QEMUFileWriter

__all__ = [
    "Buffer",
    "BytesSink",
    "ChunkSource",
    "FileSink",
    "FileSource",
    "QEMUFileReader",
    "QEMUFileWriter",
    "Sink",
    "Source",
    "SuspendingSource",
]
