"""loadfuzz finds the streams and the faults that make a loadvm misbehave.

This package makes inputs, delivers them, judges what the loader did, and reduces and reports what
it found. What a stream is belongs to ``savevm``; what is fuzzed belongs to ``loadfuzz_targets`` and
to other distributions that register targets. To write one, read ``loadfuzz.abc`` first.
"""

from loadfuzz._version import __version__

__all__ = ["__version__"]
