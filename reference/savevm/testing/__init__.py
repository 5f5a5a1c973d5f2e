"""What tests of a loader need: small machines, hand-made streams, drawn descriptions.

Standard library only, like all of the package; a test may drive it with
Hypothesis, with a seeded generator or by hand.
"""

from savevm.testing.descriptions import Drawn, draw_description
from savevm.testing.machines import PlainDevice, plug, plug_handlers
from savevm.testing.streams import (
    command,
    configuration,
    footer,
    full_section,
    header,
    part_section,
    start_section,
    stream,
    vmdesc,
)

__all__ = [
    "Drawn",
    "PlainDevice",
    "command",
    "configuration",
    "draw_description",
    "footer",
    "full_section",
    "header",
    "part_section",
    "plug",
    "plug_handlers",
    "start_section",
    "stream",
    "vmdesc",
]
