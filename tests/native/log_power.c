/* log_power.c -- what a power loss may leave of a log, made from every sync the log asks for.
 *
 * The core is compiled with its system calls renamed to the functions below.  They keep, beside the
 * real files, what a disk is bound to have: the pages of each file that a sync covered, as they
 * were then, and the directory as of its last sync.  A power loss keeps, page by page and at
 * random, either that or what the file holds now, and of the directory any prefix of the changes
 * since.  The log is opened on the result, judged against a model, and goes on from there into its
 * next life.
 *
 *     log_power DIRECTORY SEED LIVES [hot]
 *
 * With `hot`, busy segments are written in slots, lives begin only when there is one, and a life whose
 * process is killed loses nothing at all.
 *
 * A call of the core that makes something durable and is not among them would be taken for none, and
 * what it promised for lost.
 *
 * Some lives end otherwise: the process is killed, so that all it wrote stays, and then a byte of
 * the last synced message changes.  Before all of them, a loss after each change of names that an
 * open makes is tried in turn, and what else chance meets too seldom.
 *
 * Must hold: what a finished sync covered is there, but for the message that was hurt, which is
 * reported as damaged and whose sequence is not used again; whatever is served is what was appended
 * under that sequence on this time line, never a frame of an earlier life; no publisher is
 * remembered beyond what the log has.
 */
#include "hm_log.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE       4096
#define FILES      512
#define OPERATIONS 4096
#define NAME       48
#define MESSAGES   1000000
#define PUBLISHERS 3

static uint64_t state;

static uint64_t draw(uint64_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

/* ---- the disk ---- */

typedef struct {
    ino_t inode;
    int fd; /* keeps the inode, and its number, alive */
    uint8_t *durable;
    uint64_t size; /* durable */
} file;

typedef struct {
    char name[NAME];
    ino_t inode; /* 0: the name goes away */
} entry;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool recording;
static file files[FILES];
static int file_count;
static entry listing[FILES]; /* durable */
static int listed;
static entry changes[OPERATIONS]; /* since */
static int changed;

static int real_openat(int dirfd, const char *name, int flags) {
    return (int)syscall(SYS_openat, dirfd, name, flags, 0600);
}

static file *find_file(ino_t inode) {
    for (int i = 0; i < file_count; i++)
        if (files[i].inode == inode)
            return &files[i];
    return NULL;
}

static file *know_file(int dirfd, const char *name) {
    struct stat status;
    int fd = real_openat(dirfd, name, O_RDONLY | O_CLOEXEC);
    assert(fd >= 0 && fstat(fd, &status) == 0);
    file *known = find_file(status.st_ino);
    if (known) {
        close(fd);
        return known;
    }
    assert(file_count < FILES);
    files[file_count] = (file){status.st_ino, fd, NULL, 0};
    return &files[file_count++];
}

static void change(const char *name, ino_t inode) {
    assert(changed < OPERATIONS && strlen(name) < NAME);
    strcpy(changes[changed].name, name);
    changes[changed++].inode = inode;
}

static void apply(const entry *wanted) {
    for (int i = 0; i < listed; i++) {
        if (strcmp(listing[i].name, wanted->name) == 0) {
            if (wanted->inode)
                listing[i].inode = wanted->inode;
            else
                listing[i] = listing[--listed];
            return;
        }
    }
    if (wanted->inode) {
        assert(listed < FILES);
        listing[listed++] = *wanted;
    }
}

/* A crash may keep the first `count` changes of the directory. */
static void keep_changes(int count) {
    for (int i = 0; i < count; i++)
        apply(&changes[i]);
    memmove(changes, changes + count, (size_t)(changed - count) * sizeof *changes);
    changed -= count;
}

/* [begin, end) of the file is on disk as it is now; the rest as it was. */
static void harden(file *hard, uint64_t begin, uint64_t end) {
    struct stat status;
    assert(fstat(hard->fd, &status) == 0);
    uint64_t size = (uint64_t)status.st_size;
    uint8_t *grown = calloc(1, size + PAGE);
    assert(grown);
    memcpy(grown, hard->durable ? hard->durable : grown, hard->size < size ? hard->size : size);
    free(hard->durable);
    hard->durable = grown;
    hard->size = size;
    end = end < size ? end : size;
    if (begin < end)
        assert(pread(hard->fd, grown + begin, end - begin, (off_t)begin) >= 0);
}

int openat(int dirfd, const char *name, int flags, ...) {
    pthread_mutex_lock(&lock);
    bool exists = faccessat(dirfd, name, F_OK, 0) == 0;
    int fd = real_openat(dirfd, name, flags);
    int error = errno;
    if (fd >= 0 && recording && (flags & O_CREAT) && !exists)
        change(name, know_file(dirfd, name)->inode);
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

int renameat(int from_dirfd, const char *from, int to_dirfd, const char *to) {
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_renameat2, from_dirfd, from, to_dirfd, to, 0);
    if (result == 0 && recording) {
        ino_t inode = know_file(to_dirfd, to)->inode;
        change(from, 0); /* a crash between the two is harsher than a journal allows */
        change(to, inode);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int unlinkat(int dirfd, const char *name, int flags) {
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_unlinkat, dirfd, name, flags);
    if (result == 0 && recording)
        change(name, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int fd) {
    struct stat status;
    pthread_mutex_lock(&lock);
    assert(fstat(fd, &status) == 0);
    if (recording && S_ISDIR(status.st_mode)) {
        keep_changes(changed);
    } else if (recording) {
        file *hard = find_file(status.st_ino);
        assert(hard);
        harden(hard, 0, UINT64_MAX);
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

int fdatasync(int fd) {
    return fsync(fd);
}

int syncfs(int fd) {
    (void)fd;
    pthread_mutex_lock(&lock);
    for (int i = 0; recording && i < file_count; i++)
        harden(&files[i], 0, UINT64_MAX);
    if (recording)
        keep_changes(changed);
    pthread_mutex_unlock(&lock);
    return 0;
}

/* Which file is mapped at an address, and where. */
static file *mapped(const void *address, uint64_t *offset) {
    char line[512];
    file *found = NULL;
    FILE *maps = fopen("/proc/self/maps", "r");
    assert(maps);
    while (!found && fgets(line, sizeof line, maps)) {
        unsigned long begin, end, from, inode;
        char access[8], device[16];
        if (sscanf(line, "%lx-%lx %7s %lx %15s %lu", &begin, &end, access, &from, device, &inode) ==
                6 &&
            (unsigned long)address >= begin && (unsigned long)address < end) {
            *offset = from + (unsigned long)address - begin;
            found = find_file(inode);
            break;
        }
    }
    fclose(maps);
    return found;
}

int msync(void *address, size_t size, int flags) {
    (void)flags;
    uint64_t offset = 0;
    pthread_mutex_lock(&lock);
    file *hard = recording ? mapped(address, &offset) : NULL;
    assert(hard || !recording);
    if (hard)
        harden(hard, offset, (offset + size + PAGE - 1) / PAGE * PAGE);
    pthread_mutex_unlock(&lock);
    return 0;
}

static void write_survivor(const char *directory, const entry *kept, uint64_t odds) {
    char path[512];
    struct stat status;
    const file *from = find_file(kept->inode);
    assert(from && fstat(from->fd, &status) == 0);
    uint64_t now = (uint64_t)status.st_size;
    uint64_t size = draw(100) < odds ? now : from->size;
    snprintf(path, sizeof path, "%s/%s", directory, kept->name);
    int fd = real_openat(AT_FDCWD, path, O_CREAT | O_EXCL | O_WRONLY);
    assert(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    for (uint64_t at = 0; at < size; at += PAGE) {
        uint8_t page[PAGE] = {0};
        uint64_t part = size - at < PAGE ? size - at : PAGE;
        if (draw(100) < odds) {
            if (at < now)
                assert(pread(from->fd, page, part, (off_t)at) >= 0);
        } else if (at < from->size) {
            memcpy(page, from->durable + at, from->size - at < part ? from->size - at : part);
        }
        assert(pwrite(fd, page, part, (off_t)at) == (ssize_t)part);
    }
    close(fd);
}

static void forget_disk(void) {
    for (int i = 0; i < file_count; i++) {
        close(files[i].fd);
        free(files[i].durable);
    }
    file_count = listed = changed = 0;
}

/* Whether a file is one of those that are lost.  With frames go their images. */
static bool is_lost(const char *name, const char *suffix) {
    bool image = strcmp(name, "hot") == 0 && suffix && strcmp(suffix, ".log") == 0;
    return suffix && (image || strstr(name, suffix));
}

/* The lock is held.  `kept`: changes of the directory; `odds`: in percent, that of a page what the
 * file holds now is kept; of files with the suffix `lost`, never. */
static void keep(const char *survivor, int kept, uint64_t odds, const char *lost) {
    keep_changes(kept);
    assert(mkdir(survivor, 0700) == 0);
    for (int i = 0; i < listed; i++)
        write_survivor(survivor, &listing[i], is_lost(listing[i].name, lost) ? 0 : odds);
    recording = false;
    forget_disk();
}

/* `killed`: only the process has died, and the disk gets all. */
static void lose_power(const char *survivor, bool killed) {
    pthread_mutex_lock(&lock);
    static const uint64_t odds[] = {0, 10, 50, 90, 100};
    uint64_t chance = killed ? 100 : odds[draw(5)];
    keep(survivor, killed ? changed : (int)draw((uint64_t)changed + 1), chance, NULL);
    pthread_mutex_unlock(&lock);
}

/* The next life begins with what survived, all of it on disk. */
static void start_recording(const char *directory) {
    DIR *stream = opendir(directory);
    assert(stream);
    for (struct dirent *at; (at = readdir(stream));) {
        if (at->d_name[0] == '.')
            continue;
        file *known = know_file(dirfd(stream), at->d_name);
        harden(known, 0, UINT64_MAX);
        change(at->d_name, known->inode);
    }
    closedir(stream);
    keep_changes(changed);
    recording = true;
}

static void stop_recording(void) {
    pthread_mutex_lock(&lock);
    recording = false;
    forget_disk();
    pthread_mutex_unlock(&lock);
}

static void remove_directory(const char *directory) {
    DIR *stream = opendir(directory);
    assert(stream);
    for (struct dirent *at; (at = readdir(stream));)
        if (at->d_name[0] != '.')
            syscall(SYS_unlinkat, dirfd(stream), at->d_name, 0);
    closedir(stream);
    rmdir(directory);
}

static bool has_hot(const char *directory) {
    char path[512];
    snprintf(path, sizeof path, "%s/hot", directory);
    return access(path, F_OK) == 0;
}

/* ---- the model ---- */

typedef struct {
    uint64_t id;     /* unique over all lives */
    uint64_t length; /* bytes of payload */
    uint64_t at;     /* the log's sequence of it on this time line; 0: none */
    bool served;     /* the last look at the log found it */
    bool hurt;       /* its bytes were changed on disk, when it was there */
} message;

/* Publishers keep everything they ever sent; what they have not heard of as durable they send again
 * after each crash, if not at once then before anything new. */
typedef struct {
    message *sent; /* by the publisher's sequence */
    uint64_t last;
    uint64_t acked;
    bool behind; /* since a crash it has not sent again what is not acknowledged */
} sender;

typedef struct {
    uint32_t publisher;
    uint64_t sequence; /* the publisher's; 0: none, or lost */
} origin;

static origin *model; /* by the log's sequence */
static sender senders[PUBLISHERS];
static uint64_t next_id = 1;
static uint64_t clock_ns = 1000000000;
static uint64_t segment_bytes;
static bool hot; /* segments are written in slots */
static uint64_t resent, refilled;
static uint64_t lost_first; /* sequences that the last look at the log missed at its beginning */

static message *message_at(uint64_t sequence) {
    const origin *from = &model[sequence];
    return from->sequence ? &senders[from->publisher].sent[from->sequence] : NULL;
}

static void identify(uint32_t publisher, uint8_t id[16]) {
    memset(id, 0, 16);
    id[0] = (uint8_t)(publisher + 1);
}

static hm_log *open_log(const char *directory) {
    hm_log_options options = {.segment_bytes = segment_bytes,
                              .retention_bytes = 8 * segment_bytes,
                              .message_max = HM_MESSAGE_MAX,
                              .spares = 2,
                              .hot_bytes = hot ? 8 * segment_bytes : 0};
    hm_log_report report;
    hm_log *log = NULL;
    int error = hm_log_open(directory, &options, NULL, &report, &log);
    if (error) {
        fprintf(stderr, "open: %s\n", hm_error_text(error));
        abort();
    }
    return log;
}

/* Appends the publisher's messages [first, first + count). */
static void append_run(hm_log *log, uint32_t publisher, uint64_t first, uint32_t count) {
    static uint8_t frames[65536];
    uint64_t size = 0, sequence, position;
    uint32_t appended;
    hm_origin run = {.first_sequence = first};
    hm_log_status status;

    identify(publisher, run.publisher);
    hm_log_status_get(log, &status);
    for (uint32_t i = 0; i < count; i++) {
        message *sent = &senders[publisher].sent[first + i];
        uint64_t payload[160] = {sent->id};
        int64_t written =
            hm_frame_encode(frames + size, sizeof frames - size, HM_MESSAGE, (const uint8_t *)"t.a",
                            3, NULL, 0, (const uint8_t *)payload, (uint32_t)sent->length, 0, 0);
        assert(written > 0 && status.next_sequence + i < MESSAGES);
        size += (uint64_t)written;
        sent->at = status.next_sequence + i;
        model[sent->at] = (origin){publisher, first + i};
    }
    int error =
        hm_log_append(log, frames, size, count, &run, clock_ns, &sequence, &position, &appended);
    assert(error == 0 && sequence == status.next_sequence);
}

/* Whether the log takes this message for one that it has, as a broker asks it. */
static bool known(hm_log *log, uint32_t publisher, uint64_t sequence) {
    uint8_t id[16];
    identify(publisher, id);
    return sequence <= hm_log_publisher(log, id) && !hm_log_misses(log, id, sequence);
}

/* Sends again what is not acknowledged; what the log knows is skipped. */
static void send_again(hm_log *log, uint32_t publisher) {
    sender *from = &senders[publisher];
    uint64_t sequence = from->acked + 1;
    while (sequence <= from->last) {
        uint32_t count = 0;
        while (count < 12 && sequence + count <= from->last &&
               !known(log, publisher, sequence + count))
            count++;
        if (count) {
            uint8_t id[16];
            identify(publisher, id);
            refilled += sequence <= hm_log_publisher(log, id);
            append_run(log, publisher, sequence, count);
        }
        resent += count;
        sequence += count ? count : 1;
    }
    from->behind = false;
}

static void append(hm_log *log) {
    uint32_t publisher = (uint32_t)draw(PUBLISHERS), count = 1 + (uint32_t)draw(draw(3) ? 2 : 12);
    sender *from = &senders[publisher];
    if (from->behind)
        send_again(log, publisher);
    uint64_t first = from->last + 1;
    for (uint32_t i = 0; i < count; i++) {
        assert(from->last + 1 < MESSAGES);
        from->sent[++from->last] =
            (message){.id = next_id++, .length = sizeof(uint64_t) * (1 + draw(draw(4) ? 20 : 160))};
    }
    clock_ns += draw(3000000);
    append_run(log, publisher, first, count);
}

/* A sync has ended: some publishers hear that what is in the log is durable, others do not. */
static void acknowledge(void) {
    for (uint32_t i = 0; i < PUBLISHERS; i++)
        if (!senders[i].behind && draw(2))
            senders[i].acked = senders[i].last;
}

static void check_run(hm_log *log, const hm_range *range) {
    uint64_t size, at = 0, sequence = range->first_sequence, needed;
    hm_segment *segment = hm_log_pin(log, range->segment);
    assert(segment);
    const uint8_t *frames = hm_segment_memory(segment, &size) + range->offset;
    while (at < range->size) {
        hm_slice slice;
        int64_t span =
            hm_frame_check(frames + at, range->size - at, HM_MESSAGE_MAX, &slice, &needed);
        uint64_t id;
        assert(span > 0 && slice.sequence == sequence);
        memcpy(&id, frames + at + slice.payload_offset, sizeof id);
        message *found = message_at(sequence);
        if (found == NULL || found->id != id || found->at != sequence) {
            fprintf(stderr, "sequence %lu is message %lu, expected %lu at %lu\n", sequence, id,
                    found ? found->id : 0, found ? found->at : 0);
            abort();
        }
        if (found->served) {
            fprintf(stderr, "sequence %lu is message %lu a second time\n", sequence, id);
            abort();
        }
        found->served = true;
        at += (uint64_t)span;
        sequence++;
    }
    assert(sequence == range->next_sequence);
    hm_segment_release(segment);
}

/* A message whose bytes are changed on disk: one of them, at random. */
typedef struct {
    uint64_t sequence; /* 0: none */
    uint64_t segment;
    uint64_t offset; /* in the file */
} hurt;

static hurt find_message(hm_log *log, uint64_t sequence) {
    hm_range at, frame;
    hm_log_locate(log, sequence, &at);
    int found = hm_log_read(log, at.position, 1, &frame);
    assert(found == 1 && frame.first_sequence == sequence);
    return (hurt){frame.first_sequence, frame.segment,
                  HM_LOG_SEGMENT_HEADER + frame.offset + draw(frame.size)};
}

static void change_byte(const char *directory, const hurt *victim) {
    char path[512];
    uint8_t byte;
    snprintf(path, sizeof path, "%s/%020lu.log", directory, victim->segment);
    int fd = real_openat(AT_FDCWD, path, O_RDWR);
    assert(fd >= 0 && pread(fd, &byte, 1, (off_t)victim->offset) == 1);
    byte ^= (uint8_t)(1 + draw(255));
    assert(pwrite(fd, &byte, 1, (off_t)victim->offset) == 1);
    close(fd);
}

static void lose(uint64_t from, uint64_t to, uint64_t kept_from, uint64_t synced) {
    for (uint64_t sequence = from; sequence < to; sequence++) {
        if (sequence >= kept_from && sequence <= synced && model[sequence].sequence) {
            fprintf(stderr, "sequence %lu was on disk and is lost\n", sequence);
            abort();
        }
    }
}

/* Reads everything.  `kept_from`: oldest message before; `synced`: the last one that a finished sync
 * covered. */
static void read_all(hm_log *log, uint64_t kept_from, uint64_t synced) {
    hm_log_status status;
    hm_range range;
    for (uint32_t i = 0; i < PUBLISHERS; i++)
        for (uint64_t sequence = 1; sequence <= senders[i].last; sequence++)
            senders[i].sent[sequence].served = false;
    hm_log_status_get(log, &status);
    uint64_t at = status.start_position, expected = status.first_sequence;
    lost_first = 0;
    for (int kind; (kind = hm_log_read(log, at, 5000, &range)) != 0;) {
        if (kind == 1) {
            if (range.first_sequence != expected) {
                fprintf(stderr, "%lu where %lu should be\n", range.first_sequence, expected);
                abort();
            }
            check_run(log, &range);
            expected = range.next_sequence;
            at += range.size;
        } else {
            if (kind != -HM_EDAMAGED || range.position <= at) {
                fprintf(stderr, "read at %lu: %s, go on at %lu\n", at, hm_error_text(kind),
                        range.position);
                abort();
            }
            lose(expected, range.first_sequence, kept_from, synced);
            if (expected == status.first_sequence)
                lost_first = range.first_sequence - expected;
            expected = range.first_sequence;
            at = range.position;
        }
    }
    assert(expected == status.next_sequence);
}

/* Whether nothing is left of the log: no message, and no checkpoint. */
static bool is_bare(hm_log *log) {
    hm_log_status status;
    hm_log_status_get(log, &status);
    bool bare = status.first_sequence == status.next_sequence;
    for (uint32_t i = 0; i < PUBLISHERS; i++) {
        uint8_t id[16];
        identify(i, id);
        bare = bare && hm_log_publisher(log, id) == 0;
    }
    return bare;
}

/* What the log knows of each publisher is what it has of it: neither more, else a message that is
 * sent again would be skipped and is nowhere, nor less, else it would be there twice. */
static void check_senders(hm_log *log, uint64_t first) {
    bool bare = is_bare(log);
    for (uint32_t i = 0; i < PUBLISHERS; i++) {
        for (uint64_t sequence = 1; sequence <= senders[i].last; sequence++) {
            message *sent = &senders[i].sent[sequence];
            bool trimmed = sent->at && sent->at < first;
            bool has = known(log, i, sequence);
            if (trimmed && (lost_first || bare))
                continue; /* nothing may say which publishers the first ones were of */
            if (trimmed ? !has && sequence > senders[i].acked : has != sent->served) {
                fprintf(stderr, "message %lu of publisher %u, last at %lu, %s: the log %s it\n",
                        sequence, i, sent->at,
                        trimmed        ? "trimmed"
                        : sent->served ? "there"
                                       : "lost",
                        has ? "knows" : "does not know");
                abort();
            }
        }
    }
}

/* Everything that is not too old is there, once. */
static void check_complete(hm_log *log) {
    hm_log_status status;
    hm_log_status_get(log, &status);
    read_all(log, 0, 0);
    for (uint32_t i = 0; i < PUBLISHERS; i++) {
        for (uint64_t sequence = 1; sequence <= senders[i].last; sequence++) {
            const message *sent = &senders[i].sent[sequence];
            bool excused = sent->hurt || (sent->at && sent->at < status.first_sequence);
            if (!sent->served && !excused && !senders[i].behind) {
                fprintf(stderr, "message %lu of publisher %u is nowhere (last at %lu, %s)\n",
                        sequence, i, sent->at,
                        sequence <= senders[i].acked ? "acknowledged" : "not acknowledged");
                abort();
            }
        }
    }
}

static void judge(hm_log *log, uint64_t kept_from, uint64_t synced, uint64_t written) {
    hm_log_status status;

    hm_log_status_get(log, &status);
    if (getenv("LOG_POWER_VERBOSE"))
        fprintf(stderr, "was %lu..%lu, synced %lu; is %lu..%lu\n", kept_from, written, synced,
                status.first_sequence, status.next_sequence);
    assert(status.next_sequence <= written);
    assert(status.next_sequence > synced);
    lose(1, status.first_sequence, kept_from, synced);
    read_all(log, kept_from, synced);
    check_senders(log, status.first_sequence);
    for (uint64_t sequence = status.first_sequence; sequence < written; sequence++) {
        message *sent = message_at(sequence);
        bool here = sent && sent->at == sequence;
        if (here && !sent->served)
            sent->at = 0;
        if (!here || !sent->served)
            model[sequence] = (origin){0};
    }
    for (uint32_t i = 0; i < PUBLISHERS; i++) {
        senders[i].behind = true;
        if (draw(3))
            send_again(log, i);
    }
    check_complete(log);
}

static void forget_senders(void) {
    memset(model, 0, MESSAGES * sizeof *model);
    for (uint32_t i = 0; i < PUBLISHERS; i++) {
        senders[i].last = senders[i].acked = 0;
        senders[i].behind = false;
    }
}

/* A life without a sync, whose messages reach the disk and whose records do not: it held none.  In
 * the next one the same sequences are used again; now the records reach the disk, the messages do
 * not, and of the changes of the directory only the first `kept`.  False: there were no more. */
static bool lose_names(const char *root, int kept) {
    char directory[3][256];
    bool more = false;
    for (int life = 0; life < 3; life++)
        snprintf(directory[life], sizeof *directory, "%s/%d-%d", root, kept, life);
    assert(mkdir(directory[0], 0700) == 0);
    start_recording(directory[0]);
    hm_log *log = open_log(directory[0]);
    for (int life = 1; life < 3; life++) {
        hm_log_status before;
        append(log);
        hm_log_status_get(log, &before);
        pthread_mutex_lock(&lock);
        more = kept < changed;
        if (life == 1)
            keep(directory[life], changed, 100, ".index");
        else
            keep(directory[life], more ? kept : changed, 100, ".log");
        pthread_mutex_unlock(&lock);
        hm_log_close(log);
        start_recording(directory[life]);
        log = open_log(directory[life]);
        judge(log, before.first_sequence, 0, before.next_sequence);
    }
    hm_log_close(log);
    stop_recording();
    for (int life = 0; life < 3; life++)
        remove_directory(directory[life]);
    forget_senders();
    return more;
}

/* So many segments of messages of the first publisher. */
static void append_many(hm_log *log, uint64_t segments) {
    sender *from = &senders[0];
    for (uint64_t bytes = 0; bytes <= segments * segment_bytes; bytes += 1000) {
        from->sent[++from->last] = (message){.id = next_id++, .length = 1000};
        append_run(log, 0, from->last, 1);
    }
}

static uint64_t next_sequence(hm_log *log) {
    hm_log_status status;
    hm_log_status_get(log, &status);
    return status.next_sequence;
}

/* A record that was synced is extended, its segment sealed and its index mapped no more, and only
 * then comes the next sync. */
static void lose_extension(const char *root) {
    char directory[256], survivor[256];
    snprintf(directory, sizeof directory, "%s/extended", root);
    snprintf(survivor, sizeof survivor, "%s/extended-1", root);
    assert(mkdir(directory, 0700) == 0);
    start_recording(directory);
    hm_log *log = open_log(directory);
    append_many(log, 0);
    assert(hm_log_sync_wait(log, 60000000000u) == 0);
    append_many(log, 7);
    assert(hm_log_sync_wait(log, 60000000000u) == 0);
    uint64_t next = next_sequence(log);
    pthread_mutex_lock(&lock);
    keep(survivor, 0, 0, NULL);
    pthread_mutex_unlock(&lock);
    hm_log_close(log);
    start_recording(survivor);
    log = open_log(survivor);
    judge(log, 1, next - 1, next);
    hm_log_close(log);
    stop_recording();
    remove_directory(directory);
    remove_directory(survivor);
    forget_senders();
}

/* The newest segment of a closed log is removed. */
static void lose_newest(const char *root) {
    char directory[256], newest[512];
    snprintf(directory, sizeof directory, "%s/newest", root);
    assert(mkdir(directory, 0700) == 0);
    hm_log *log = open_log(directory);
    append_many(log, 2);
    uint64_t next = next_sequence(log);
    hurt last = find_message(log, next - 1);
    assert(hm_log_close(log) == 0);
    snprintf(newest, sizeof newest, "%s/%020lu.log", directory, last.segment);
    assert(syscall(SYS_unlinkat, AT_FDCWD, newest, 0) == 0);
    log = open_log(directory);
    if (next_sequence(log) < next) {
        fprintf(stderr, "sequences from %lu on are given out again\n", next_sequence(log));
        abort();
    }
    hm_log_close(log);
    remove_directory(directory);
    forget_senders();
}

/* A message is hurt, and can be sent again, also when its segment is trimmed and only checkpoints
 * remember that. */
static void lose_one(const char *root) {
    char directory[256];
    snprintf(directory, sizeof directory, "%s/one", root);
    assert(mkdir(directory, 0700) == 0);
    hm_log *log = open_log(directory);
    senders[1].sent[++senders[1].last] = (message){.id = next_id++, .length = 1000};
    append_run(log, 1, 1, 1);
    hurt victim = find_message(log, 1);
    append_many(log, 1);
    assert(hm_log_close(log) == 0);
    change_byte(directory, &victim);
    for (int open = 0; open < 3; open++) {
        log = open_log(directory);
        if (known(log, 1, 1)) {
            fprintf(stderr, "a lost message cannot be sent again at open %d\n", open);
            abort();
        }
        append_many(log, 10); /* more than are kept */
        hm_log_close(log);
    }
    remove_directory(directory);
    forget_senders();
}

/* A message is hurt, which only its own segment tells: the checkpoint of the next one is older than
 * the damage.  The log is opened, its segment is trimmed, and the power goes before any sync. */
static void lose_trimmed(const char *root) {
    char directory[256], survivor[256];
    snprintf(directory, sizeof directory, "%s/trimmed", root);
    snprintf(survivor, sizeof survivor, "%s/trimmed-1", root);
    assert(mkdir(directory, 0700) == 0);
    hm_log *log = open_log(directory);
    senders[1].sent[++senders[1].last] = (message){.id = next_id++, .length = 1000};
    append_run(log, 1, 1, 1);
    hurt victim = find_message(log, 1);
    append_many(log, 2);
    assert(hm_log_close(log) == 0);
    change_byte(directory, &victim);
    start_recording(directory);
    log = open_log(directory);
    for (hm_log_status status = {0}; status.first_sequence <= 1;) {
        append_many(log, 1);
        hm_log_status_get(log, &status);
    }
    pthread_mutex_lock(&lock);
    keep(survivor, changed, 0, NULL);
    pthread_mutex_unlock(&lock);
    hm_log_close(log);
    start_recording(survivor);
    log = open_log(survivor);
    if (known(log, 1, 1)) {
        fprintf(stderr, "a lost message cannot be sent again once its segment is trimmed\n");
        abort();
    }
    hm_log_close(log);
    stop_recording();
    remove_directory(directory);
    remove_directory(survivor);
    forget_senders();
}

/* No message of several segments reaches the disk, but their checkpoints do. */
static void lose_frames(const char *root) {
    char directory[256], survivor[256];
    snprintf(directory, sizeof directory, "%s/frames", root);
    snprintf(survivor, sizeof survivor, "%s/frames-1", root);
    assert(mkdir(directory, 0700) == 0);
    start_recording(directory);
    hm_log *log = open_log(directory);
    append_many(log, 3);
    pthread_mutex_lock(&lock);
    keep(survivor, changed, 100, ".log");
    pthread_mutex_unlock(&lock);
    hm_log_close(log);
    start_recording(survivor);
    log = open_log(survivor);
    if (known(log, 0, 1)) {
        fprintf(stderr, "a message that was lost with all others cannot be sent again\n");
        abort();
    }
    hm_log_close(log);
    stop_recording();
    remove_directory(directory);
    remove_directory(survivor);
    forget_senders();
}

static uint64_t count_served(hm_log *log) {
    uint64_t served = 0;
    read_all(log, 0, 0);
    for (uint64_t sequence = 1; sequence <= senders[0].last; sequence++)
        served += senders[0].sent[sequence].served;
    return served;
}

/* Two pages of a segment that was not synced are lost, and few messages stand between them: they are
 * served as well when the segment was synced since. */
static void lose_pages(const char *root) {
    char directory[256], survivor[256], first[512];
    static const uint8_t zeros[PAGE];
    snprintf(directory, sizeof directory, "%s/pages", root);
    snprintf(survivor, sizeof survivor, "%s/pages-1", root);
    snprintf(first, sizeof first, "%s/%020d.log", survivor, 1);
    assert(mkdir(directory, 0700) == 0);
    start_recording(directory);
    hm_log *log = open_log(directory);
    append_many(log, 1);
    pthread_mutex_lock(&lock);
    keep(survivor, changed, 100, NULL);
    pthread_mutex_unlock(&lock);
    hm_log_close(log);
    int fd = real_openat(AT_FDCWD, first, O_RDWR);
    assert(fd >= 0 && pwrite(fd, zeros, PAGE, PAGE) == PAGE);
    assert(pwrite(fd, zeros, PAGE, 3 * PAGE) == PAGE);
    close(fd);
    log = open_log(survivor);
    uint64_t before = count_served(log);
    assert(before > 0 && before < senders[0].last && lost_first > 0);
    assert(hm_log_close(log) == 0);
    log = open_log(survivor);
    uint64_t after = count_served(log);
    if (after != before) {
        fprintf(stderr, "%lu messages are served after a sync, %lu before\n", after, before);
        abort();
    }
    hm_log_close(log);
    remove_directory(directory);
    remove_directory(survivor);
    forget_senders();
}

/* Until the helper has made the first slot; the spares get it. */
static void await_slot(hm_log *log) {
    hm_log_status status = {0};
    append(log);
    for (int tries = 0; status.hot == 0; tries++) {
        hm_log_status_get(log, &status);
        assert(tries < 600000);
        usleep(100);
    }
}

int main(int argc, char **argv) {
    assert(argc == 4 || argc == 5);
    hot = argc == 5 && strcmp(argv[4], "hot") == 0;
    char directory[256], survivor[256];
    state = strtoull(argv[2], NULL, 10) * 2654435769u + 88172645463325252u;
    int lives = atoi(argv[3]);
    segment_bytes = draw(2) ? 16384 : 65536;
    model = calloc(MESSAGES, sizeof *model);
    assert(model);
    for (uint32_t i = 0; i < PUBLISHERS; i++) {
        senders[i].sent = calloc(MESSAGES, sizeof *senders[i].sent);
        assert(senders[i].sent);
    }
    for (int kept = 0; lose_names(argv[1], kept); kept++)
        continue;
    lose_extension(argv[1]);
    lose_newest(argv[1]);
    lose_one(argv[1]);
    lose_trimmed(argv[1]);
    lose_frames(argv[1]);
    lose_pages(argv[1]);
    snprintf(directory, sizeof directory, "%s/0", argv[1]);
    assert(mkdir(directory, 0700) == 0);
    uint64_t checked = 0, cuts = 0, synced_lives = 0, hurt_lives = 0, hot_lives = 0;
    start_recording(directory);
    hm_log *log = open_log(directory);
    for (int life = 1; life <= lives; life++) {
        if (hot)
            await_slot(log);
        for (uint64_t steps = draw(draw(4) ? 60 : 4); steps > 0; steps--) {
            append(log);
            uint64_t what = draw(20);
            if (what == 0) {
                assert(hm_log_sync_wait(log, 60000000000u) == 0);
                acknowledge();
            } else if (what == 1)
                assert(hm_log_sync_begin(log) == 0);
        }
        uint64_t end = draw(8);
        bool clean = end == 0, killed = end == 1;
        hm_log_status before;
        hm_log_status_get(log, &before);
        uint64_t synced = before.synced_sequence;
        if (clean) {
            assert(hm_log_close(log) == 0);
            synced = before.next_sequence - 1;
            acknowledge();
        }
        hurt victim = {0};
        if (killed && synced >= before.first_sequence && model[synced].sequence)
            victim = find_message(log, synced);
        snprintf(survivor, sizeof survivor, "%s/%d", argv[1], life);
        lose_power(survivor, killed);
        if (has_hot(survivor))
            victim.sequence = 0; /* what is hurt in a file is laid over */
        hot_lives += has_hot(survivor);
        if (victim.sequence) {
            message_at(victim.sequence)->hurt = true;
            change_byte(survivor, &victim);
            model[victim.sequence].sequence = 0;
        }
        if (!clean)
            hm_log_close(log);
        remove_directory(directory);
        strcpy(directory, survivor);
        start_recording(directory);
        log = open_log(directory);
        hm_log_status after;
        hm_log_status_get(log, &after);
        if (killed && !victim.sequence && after.next_sequence != before.next_sequence) {
            fprintf(stderr, "a kill lost messages from %lu on\n", after.next_sequence);
            abort();
        }
        judge(log, before.first_sequence, synced, before.next_sequence);
        cuts += after.next_sequence < before.next_sequence;
        synced_lives += synced > 0;
        hurt_lives += victim.sequence > 0;
        checked++;
    }
    hm_log_close(log);
    stop_recording();
    remove_directory(directory);
    free(model);
    for (uint32_t i = 0; i < PUBLISHERS; i++)
        free(senders[i].sent);
    printf(
        "%lu lives checked, segments of %lu bytes, %lu with synced messages, %lu that lost some, "
        "%lu with a hurt one, %lu with slots left, %lu messages sent again and taken, of which %lu "
        "runs "
        "behind others\n",
        checked, segment_bytes, synced_lives, cuts, hurt_lives, hot_lives, resent, refilled);
    return 0;
}
