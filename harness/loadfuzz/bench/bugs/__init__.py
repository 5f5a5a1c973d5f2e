"""Known bugs and who finds them: trials of fuzzers on a target whose bugs are known."""
