"""What loadfuzz fuzzes: the reference loader, planted bugs, real QEMU machines.

Each module defines one or more targets, registered under the entry-point group
``loadfuzz.targets``. Importing this package loads none of them.
"""
