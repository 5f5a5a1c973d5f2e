"""A stock QEMU binary: taking streams from it and giving streams to it."""
