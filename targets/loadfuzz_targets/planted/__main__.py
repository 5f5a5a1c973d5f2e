"""``python -m loadfuzz_targets.planted``: the planted bugs as a libFuzzer binary."""

from loadfuzz.standalone.binary import main

if __name__ == "__main__":
    main("planted")
