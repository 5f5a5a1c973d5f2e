"""Machines that are built from the description in a stream.

:func:`foreign_machine` reads a stream's vmdesc and gives the machine that it is
from: the reference loader loads a stock QEMU's stream into it and saves it again
bit for bit.
"""

from savevm.foreign.build import foreign_machine, machine_from_vmdesc
from savevm.foreign.locate import VmdescSpan, locate_vmdesc
from savevm.foreign.text import DeviceText, FieldText, StructText, VmdescText, parse_vmdesc

__all__ = [
    "DeviceText",
    "FieldText",
    "StructText",
    "VmdescSpan",
    "VmdescText",
    "foreign_machine",
    "locate_vmdesc",
    "machine_from_vmdesc",
    "parse_vmdesc",
]
