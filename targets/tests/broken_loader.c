/* A loader of migration streams with three memory bugs, for tests of the target `command`.
 *
 * It reads a stream from the file it is given: header, configuration, sections up to the EOF
 * byte.  It knows the real-time clock and the global state of the reference's machine; every
 * other device is passed over up to its footer.  Exit status 0 is for a stream that was
 * loaded, 1 for one that was refused, with the reason on stderr.
 *
 * The bugs, by what a stream must have:
 *   1. a device's name that is longer than NAME_SIZE: read_counted() writes past a heap block;
 *   2. a clock whose CMOS index is beyond its 128 bytes: load_rtc() writes past a global array;
 *   3. the same device twice: its first entry is freed, but run_post_load() still comes by it.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SECTION_EOF = 0x00, SECTION_START = 0x01, SECTION_PART = 0x02, SECTION_END = 0x03,
    SECTION_FULL = 0x04, SECTION_VMDESC = 0x06, SECTION_CONFIGURATION = 0x07,
    SECTION_COMMAND = 0x08, SECTION_FOOTER = 0x7e,
    FILE_MAX = 16 << 20, SECTIONS_MAX = 256, NAME_SIZE = 64,
    CMOS_SIZE = 128, RTC_REST = 28, RUNSTATE_SIZE = 100
};

struct stream {
    const uint8_t *data;
    size_t size, at;
};

struct entry {
    uint32_t section_id, instance_id, version_id;
    char *name;
};

static struct entry *entries[SECTIONS_MAX]; /* by device, the latest of each */
static unsigned entry_count;
static struct entry *in_order[SECTIONS_MAX]; /* as they were loaded */
static unsigned loaded_count;
static uint32_t cmos_written[CMOS_SIZE];
static uint32_t versions_seen;

static void refuse(const struct stream *s, const char *reason)
{
    fprintf(stderr, "broken_loader: %s at offset %zu\n", reason, s->at);
    exit(1);
}

static const uint8_t *take(struct stream *s, size_t size)
{
    const uint8_t *data = s->data + s->at;

    if (size > s->size - s->at) {
        refuse(s, "the stream ends too early");
    }
    s->at += size;
    return data;
}

static uint8_t get_byte(struct stream *s)
{
    return *take(s, 1);
}

static uint32_t get_be32(struct stream *s)
{
    const uint8_t *b = take(s, 4);

    return (uint32_t)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
}

/* A name: one byte that counts, and as many that follow. */
static char *read_counted(struct stream *s)
{
    uint8_t count = get_byte(s);
    const uint8_t *text = take(s, count);
    char *name = malloc(NAME_SIZE);

    memcpy(name, text, count);
    name[count < NAME_SIZE ? count : NAME_SIZE - 1] = 0;
    return name;
}

static int stands_footer(const struct stream *s, size_t at, uint32_t section_id)
{
    const uint8_t *b = s->data + at;

    return b[0] == SECTION_FOOTER && b[1] == section_id >> 24 && b[2] == (uint8_t)(section_id >> 16)
        && b[3] == (uint8_t)(section_id >> 8) && b[4] == (uint8_t)section_id;
}

/* Passes over what is left of a device, and over the footer of its section. */
static void skip_to_footer(struct stream *s, uint32_t section_id)
{
    for (size_t at = s->at; at + 5 <= s->size; at++) {
        if (stands_footer(s, at, section_id)) {
            s->at = at + 5;
            return;
        }
    }
    refuse(s, "a section has no footer");
}

static void load_rtc(struct stream *s)
{
    const uint8_t *data = take(s, CMOS_SIZE);
    uint8_t index = get_byte(s);

    for (int i = 0; i < CMOS_SIZE; i++) {
        cmos_written[i] = data[i];
    }
    take(s, RTC_REST);
    cmos_written[index] |= 0x100; /* the byte that the guest has selected */
}

static void load_globalstate(struct stream *s)
{
    uint32_t size = get_be32(s);
    const uint8_t *text = take(s, RUNSTATE_SIZE);

    if (size == 0 || size > RUNSTATE_SIZE || text[size - 1] != 0) {
        refuse(s, "the run state is no string");
    }
}

static struct entry *find_entry(uint32_t section_id)
{
    for (unsigned i = 0; i < entry_count; i++) {
        if (entries[i]->section_id == section_id) {
            return entries[i];
        }
    }
    return NULL;
}

/* Where the entry of this device goes: a later one takes the place of an earlier one. */
static struct entry **place_for(const char *name, uint32_t instance_id)
{
    for (unsigned i = 0; i < entry_count; i++) {
        if (entries[i]->instance_id == instance_id && strcmp(entries[i]->name, name) == 0) {
            free(entries[i]->name);
            free(entries[i]);
            return &entries[i];
        }
    }
    return &entries[entry_count++];
}

static void load_section(struct stream *s)
{
    struct entry *entry = calloc(1, sizeof(*entry));

    entry->section_id = get_be32(s);
    entry->name = read_counted(s);
    entry->instance_id = get_be32(s);
    entry->version_id = get_be32(s);
    if (loaded_count == SECTIONS_MAX) {
        refuse(s, "too many sections");
    }
    if (strcmp(entry->name, "mc146818rtc") == 0) {
        load_rtc(s);
    } else if (strcmp(entry->name, "globalstate") == 0) {
        load_globalstate(s);
    }
    skip_to_footer(s, entry->section_id);
    *place_for(entry->name, entry->instance_id) = entry;
    in_order[loaded_count++] = entry;
}

static void load_part(struct stream *s)
{
    uint32_t section_id = get_be32(s);

    if (find_entry(section_id) == NULL) {
        refuse(s, "a part of a section that has not begun");
    }
    skip_to_footer(s, section_id);
}

static void load_command(struct stream *s)
{
    const uint8_t *head = take(s, 4);

    take(s, head[2] << 8 | head[3]);
}

static void run_post_load(void)
{
    for (unsigned i = 0; i < loaded_count; i++) {
        versions_seen += in_order[i]->version_id;
    }
}

static void load_stream(struct stream *s)
{
    if (get_be32(s) != 0x5145564d) {
        refuse(s, "not a migration stream");
    }
    if (get_be32(s) != 3) {
        refuse(s, "another version of the format");
    }
    for (;;) {
        switch (get_byte(s)) {
        case SECTION_CONFIGURATION:
            take(s, get_be32(s));
            while (s->at < s->size && s->data[s->at] == 0x05) { /* subsections: pass over one */
                take(s, 1);
                take(s, get_byte(s));
                take(s, 4 + 16);
            }
            break;
        case SECTION_START:
        case SECTION_FULL:
            load_section(s);
            break;
        case SECTION_PART:
        case SECTION_END:
            load_part(s);
            break;
        case SECTION_COMMAND:
            load_command(s);
            break;
        case SECTION_EOF:
            run_post_load();
            return;
        default:
            refuse(s, "a section of unknown type");
        }
    }
}

static uint8_t *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(FILE_MAX);

    if (file == NULL || data == NULL) {
        fprintf(stderr, "broken_loader: cannot read %s\n", path);
        exit(2);
    }
    *size = fread(data, 1, FILE_MAX, file);
    fclose(file);
    return data;
}

int main(int argc, char **argv)
{
    struct stream s = { NULL, 0, 0 };

    if (argc != 2) {
        fprintf(stderr, "usage: broken_loader FILE\n");
        return 2;
    }
    s.data = read_file(argv[1], &s.size);
    load_stream(&s);
    return 0;
}
