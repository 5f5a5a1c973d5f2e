"""A fuzz target by itself: as a libFuzzer binary and as a pytest test, without a campaign."""
