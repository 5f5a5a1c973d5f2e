"""Where two digests of a subject differ: which part of its state.

A digest may be any string.  One made of parts, ``name=value`` with spaces
between them, lets an alarm say which device it is about, so that two bugs give
two signatures.  A part whose name begins with ``~`` is state that a load may
change and a stream does not carry.
"""

NOT_CARRIED = "~"
"""First character of the name of a part that does not travel in a stream."""


def parts_of(digest: str) -> dict[str, str]:
    """The parts of a digest; of one without parts, a single nameless one.

    >>> parts_of("cpu=1f ram=20"), parts_of("77aa")
    ({'cpu': '1f', 'ram': '20'}, {'': '77aa'})
    """
    parts: dict[str, str] = {}
    for word in digest.split():
        name, equals, value = word.partition("=")
        if not equals:
            return {"": digest}
        parts[name] = value
    return parts


def carried(digest: str) -> str:
    """``digest`` without the parts that a stream does not carry.

    >>> carried("cpu=1f ~globalstate=03 ram=20")
    'cpu=1f ram=20'
    """
    if NOT_CARRIED not in digest:
        return digest
    return " ".join(word for word in digest.split() if not word.startswith(NOT_CARRIED))


def differing(before: str, after: str) -> tuple[str, ...]:
    """Names of the parts that differ, in the order of ``before``; a single
    ``""`` when the digests differ and have no parts.

    >>> differing("cpu=1 nic=2 ram=3", "cpu=1 nic=4 ram=5")
    ('nic', 'ram')
    """
    old, new = parts_of(before), parts_of(after)
    return tuple(name for name in {**old, **new} if old.get(name) != new.get(name))
