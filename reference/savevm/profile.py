"""Two behaviours, one table: what the seed does and what a loader should do.

Every difference between the seed's loader and a correct one is a named switch
here, with its reason.  Code asks ``profile.<switch>``; true means "as the seed
does it".  :data:`SWITCHES` is the documentation, and a test holds it against
the fields of :class:`Profile`.
"""

from dataclasses import dataclass, fields
from typing import Final


@dataclass(frozen=True, slots=True)
class Switch:
    """One difference: its name, both behaviours, and why they differ."""

    name: str
    seed: str
    strict: str
    reason: str


@dataclass(frozen=True, slots=True)
class Profile:
    """A loader's manners.  All switches false is ``strict``, all true is ``seed``."""

    name: str
    eof_reads_as_zero: bool = False
    skip_needs_buffered_bytes: bool = False
    string_failure_is_einval: bool = False
    strings_end_at_nul: bool = False
    footer_compares_local_id: bool = False
    version_compared_unsigned: bool = False
    live_alias_is_zero: bool = False
    compat_is_substring: bool = False
    sections_are_untied: bool = False
    vmdesc_errors_ignored: bool = False
    positive_return_succeeds: bool = False
    counts_are_int: bool = False
    subsection_version_is_uint8: bool = False
    subsections_stop_without_needed: bool = False
    duplicate_subsections_accepted: bool = False
    failed_load_keeps_state: bool = False
    ram_block_survives_loads: bool = False
    ram_bound_is_max_length: bool = False
    ram_list_unchecked: bool = False
    ram_fill_byte_unchecked: bool = False
    ram_compress_page_dereferences_null: bool = False
    timers_taken_unclamped: bool = False
    disks_revert_before_load: bool = False
    failed_savevm_changes_disks: bool = False
    failed_delvm_changes_disks: bool = False
    partial_snapshots_hidden: bool = False
    close_errors_ignored: bool = False
    announce_count_is_static: bool = False


def _switch(name: str, seed: str, strict: str, reason: str) -> Switch:
    return Switch(name, seed, strict, reason)


SWITCHES: Final[tuple[Switch, ...]] = (
    _switch(
        "eof_reads_as_zero",
        "a read past the end yields zero bytes and sets an error that is looked at later",
        "a read past the end is an error at once, and a snapshot's stream ends where its "
        "vm_state_size says",
        "a stream cut at a section boundary looks finished (0x00 is the EOF marker), and half "
        "a device is loaded from zeros before anyone asks",
    ),
    _switch(
        "skip_needs_buffered_bytes",
        "skip does nothing unless all bytes are already buffered",
        "skip consumes exactly the bytes it names",
        "qemu_file_skip; reads at the end never advance, so loops that trust it never end",
    ),
    _switch(
        "string_failure_is_einval",
        "an empty and a cut-off idstr are the same -EINVAL",
        "an empty idstr is -EINVAL, a cut-off one is the short read it is (-EIO)",
        "qemu_get_counted_string returns 0 for both",
    ),
    _switch(
        "strings_end_at_nul",
        "a counted string is compared up to its first NUL",
        "a counted string with a NUL inside is refused",
        "strcmp on a buffer whose length came from the wire: two spellings of one name",
    ),
    _switch(
        "footer_compares_local_id",
        "the footer is compared with the destination's own section id",
        "the footer is compared with the id in the section's header",
        "fixed by QEMU 59f39a4741: refuses valid streams of a source that registered in "
        "another order",
    ),
    _switch(
        "version_compared_unsigned",
        "version_id is compared as unsigned: a handler with a negative version takes any",
        "version_id is compared as the signed number both sides declare",
        "uint32_t against int in qemu_loadvm_state",
    ),
    _switch(
        "live_alias_is_zero",
        "a live or old-style handler also answers to instance 0",
        "a handler answers to its instance id, and to an alias only if it was given one",
        "register_savevm_live leaves alias_id zero, which find_se takes for an alias",
    ),
    _switch(
        "compat_is_substring",
        "the compat name needs to occur anywhere in the idstr",
        "the compat name needs to be the idstr's last component",
        "strstr in find_se",
    ),
    _switch(
        "sections_are_untied",
        "PART and END reach any loaded section, START and FULL any handler, and a section id "
        "may come twice (the newest wins)",
        "START, PART and END belong to live handlers, FULL to the others; a section id or a "
        "device comes once",
        "a device can be loaded twice or in a form that it never saves",
    ),
    _switch(
        "vmdesc_errors_ignored",
        "what follows EOF is read in up to 1 048 576 chunks and its errors are ignored",
        "a vmdesc that is announced must be there; junk behind it is not looked at",
        "the size is a lie until checked",
    ),
    _switch(
        "positive_return_succeeds",
        "a handler or post_load that returns a positive number has succeeded",
        "any number but zero is a refusal",
        "callers test ret < 0; several devices returned 1 to refuse",
    ),
    _switch(
        "counts_are_int",
        "a count or size is an int: a negative one loads nothing, or allocates 2^64",
        "a count or size must be within its array or buffer",
        "vmstate_n_elems and vmstate_size return int",
    ),
    _switch(
        "subsection_version_is_uint8",
        "a subsection's version is cut to eight bits: 0x101 is version 1",
        "a subsection's version is the 32-bit number on the wire",
        "uint8_t version_id in vmstate_subsection_load",
    ),
    _switch(
        "subsections_stop_without_needed",
        "the list of subsections ends at the first one without .needed",
        "a subsection without .needed is always there",
        "the loops of the seed test sub->needed to find the end of the table",
    ),
    _switch(
        "duplicate_subsections_accepted",
        "a subsection may come twice; the second overwrites the first",
        "a subsection comes once",
        "vmstate_subsection_load keeps no record of what it has seen",
    ),
    _switch(
        "failed_load_keeps_state",
        "a failed load leaves behind what it had loaded so far",
        "a failed load leaves the machine exactly as it was",
        "no rollback in qemu_loadvm_state",
    ),
    _switch(
        "ram_block_survives_loads",
        "CONTINUE at the start of a load means the last block of the previous load",
        "CONTINUE needs a block named earlier in the same load",
        "static RAMBlock *block in host_from_stream_offset",
    ),
    _switch(
        "ram_bound_is_max_length",
        "a page may lie anywhere below the block's max_length",
        "a page must lie below the block's used_length",
        "0be839a270 checks against the wrong length",
    ),
    _switch(
        "ram_list_unchecked",
        "the block list's total may wrap and its lengths are taken as they come",
        "the block list must add up, name known blocks once, and fit their lengths",
        "total_ram_bytes -= length wraps; the inner loop has no test of the stream's error",
    ),
    _switch(
        "ram_fill_byte_unchecked",
        "a ZERO page may be filled with any byte",
        "a ZERO page is filled with zero",
        "ram_handle_compressed memsets whatever it reads",
    ),
    _switch(
        "ram_compress_page_dereferences_null",
        "a COMPRESS_PAGE item in loadvm uses buffers that only -incoming creates (EFAULT here)",
        "a COMPRESS_PAGE item is refused",
        "decomp_param is NULL in loadvm: the real process dies",
    ),
    _switch(
        "timers_taken_unclamped",
        "a timer takes any 64-bit expiry",
        "a timer's expiry is at most 2^63-1 or the not-armed marker",
        "timer_get hands a uint64_t to an int64_t parameter: it expires in the past for ever",
    ),
    _switch(
        "disks_revert_before_load",
        "loadvm reverts every disk and resets the machine before it reads the state, and a guest "
        "whose loadvm failed stays stopped; disks are asked for the name one by one",
        "a loadvm that fails leaves disks and machine as they were, and the guest runs on; all "
        "disks must have the snapshot of the same moment and come to rest",
        "load_vmstate: old memory would run on reverted disks",
    ),
    _switch(
        "failed_savevm_changes_disks",
        "a savevm that fails has already deleted the snapshot it was to replace, and other disks "
        "keep the new one",
        "a savevm that fails leaves every disk as it was",
        "the order of work in hmp_savevm: a full disk loses the old snapshot too",
    ),
    _switch(
        "failed_delvm_changes_disks",
        "a delvm that fails on one disk deletes on the others, and deletes what they call by the "
        "same id or name",
        "a delvm that fails leaves every disk as it was; the snapshot is the same id and name on "
        "every disk",
        "hmp_delvm goes on behind an error, with bdrv_snapshot_delete_by_id_or_name on each disk",
    ),
    _switch(
        "partial_snapshots_hidden",
        "info snapshots leaves out what some disks lack, and takes snapshots of different moments "
        "with one id for one",
        "info snapshots shows for each disk what is not on all of them",
        "hmp_info_snapshots; later releases list partial snapshots",
    ),
    _switch(
        "close_errors_ignored",
        "a saved state whose file cannot be flushed at the end counts as saved, and disks that "
        "cannot be brought to rest when the guest is stopped do not matter",
        "it counts as failed, and they refuse the command",
        "hmp_savevm and qmp_xen_save_devices_state drop what qemu_fclose and vm_stop return",
    ),
    _switch(
        "announce_count_is_static",
        "announcements share one count of rounds; a second one after the first aborts",
        "every announcement has its own rounds",
        "static int count in qemu_announce_self_once is never set back",
    ),
)

_ALL: Final = tuple(field.name for field in fields(Profile) if field.name != "name")

STRICT: Final = Profile("strict")
SEED: Final = Profile("seed", **dict.fromkeys(_ALL, True))


def as_markdown() -> str:
    """The table of switches as ``docs/profiles.md`` shows it."""
    rows = [f"| `{s.name}` | {s.seed} | {s.strict} | {s.reason} |" for s in SWITCHES]
    return "\n".join(
        ["| switch | `seed` | `strict` | why they differ |", "|---|---|---|---|", *rows, ""]
    )
