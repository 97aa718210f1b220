/* log_internal.h -- what the files that make up a log share; no part of the API.
 *
 *   hm_pool.c        the quota, and what the system says of storage
 *   hm_format.c      encoded pages: header, seal, synced marks
 *   hm_segment.c     one segment: its memory, its files, its references
 *   hm_index.c       its append records
 *   hm_hot.c         segments written in memory that is used again and again, and carried to files
 *   hm_publishers.c  the duplicate filter
 *   hm_helper.c      the thread that prepares, warms, carries and populates
 *   hm_sync.c        its syncs, and the marks that tell of them
 *   hm_fault.c       mapped files that fault
 *   hm_walk.c        verifying a segment's frames: recovery and the offline tools share it
 *   hm_files.c       finding and mapping what stands in a directory
 *   hm_recover.c     from a directory to a list of sound segments
 *   hm_maps.c        which segments are mapped
 *   hm_roll.c        the list of segments: the next one, retention
 *   hm_append.c      copying, stamping, records
 *   hm_read.c        ranges, positions by sequence and time, pins
 *   hm_window.c      a log in memory in front of another store
 *   hm_log.c         opening, closing, syncing, status
 */
#ifndef HM_LOG_PARTS_H
#define HM_LOG_PARTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "../base/hm_platform.h"
#include "hm_fault.h"
#include "hm_log.h"

#define HM_PAGE 4096
/* No log gets that far: what claims a larger sequence or position is damaged, and sums cannot
 * overflow. */
#define HM_LOG_FARTHEST   (UINT64_C(1) << 62)
#define HM_FRAME_SMALLEST HM_FRAME_HEADER /* bytes: no topic, no payload */
#define HM_INDEX_CHUNK    262144          /* bytes an index file grows by, at most: 4,096 records */
#define HM_WARM_SLICE     32768           /* bytes populated per call: 0.1 ms on a cold host */
#define HM_WARM_BULK      262144          /* likewise, where the log is written fast */
#define HM_WARM_FIRST     4194304 /* bytes made warm before a log has shown that it is busy */
#define HM_WARM_REST      31      /* times as long as a slice took the helper rests, at most */
#define HM_WARM_REST_MIN  200000  /* ns: what is shorter is not worth the helper's going to sleep */
#define HM_WARM_LEAD      4   /* times as fast as the log is written it is made warm, at least */
#define HM_NUDGE_STEP 1048576 /* bytes after which the helper hears how fast the log is written */
#define HM_LOG_MISSING_MAX                                                                         \
    4096 /* ranges that are lost and may be sent again, per log; the oldest is given up */
#define HM_HINTS_MAX 32 /* hints that may wait; more are dropped, they are hints */
#define HM_SYNC_EACH_MAX                                                                           \
    16 /* segments synced one by one; beyond, the file system is asked once, first */
#define HM_BACK_SLACK_NS                                                                           \
    1000000000               /* ns that append times are held when the clock goes back less */
#define HM_FOLD_MAX    16384 /* bytes of records that are kept without a map */
#define HM_FOLD_BEHIND 4     /* segments behind the active one that are looked at for it */
#define HM_MAPPED_MAX  400   /* sealed segments of a log that are mapped though nobody reads them */
#define HM_STARVED_WAIT_NS 100000000 /* ns between tries to get a segment on a full disk */
#define HM_HOT_SLOTS_MAX   8         /* slots of a log: 256 MiB of a busy one's newest messages */
#define HM_HOT_IDLE_NS                                                                             \
    10000000000 /* ns without a new segment after which a log gives up slots that are free */
#define HM_CARRY_BYTES 4194304 /* bytes carried per write: each is a wake-up of the helper */
#define HM_CARRY_REST_NS                                                                           \
    1000000000 /* ns after which what fills no such piece is carried: less than the kernel waits */

/* Where frames that begin aligned can end at most. */
static inline uint64_t hm_align_down(uint64_t offset) {
    return offset / HM_FRAME_ALIGN * HM_FRAME_ALIGN;
}

/* The header page of a segment file; every other byte of the page is zero.
 *
 *   offset size field
 *        0    8 magic          "HMLOG\r\n\0"
 *        8    4 version        1
 *       12    4 header_size    4096
 *       16    8 base_sequence  of the first frame; also the file's name
 *       24    8 base_position  of the first frame
 *       32    8 created_ns     CLOCK_REALTIME
 *       40    8 generation     lives of this file: 1, then one more each time it is recycled
 *       48    8 segment_bytes  size of the file when it was made
 *       56    4 crc            CRC-32C of bytes 0..56
 *       60    4 reserved       0
 *      512    8 seal magic     "HMSEAL\r\n"; all zero until the segment is sealed
 *      520    8 end            offset in the file after the last frame
 *      528    8 next_sequence  after the last frame
 *      536    8 last_time_ns   append time of the last append
 *      544    8 records        in the index file
 *      552    4 crc            CRC-32C of bytes 512..552, continued from the header's crc
 *      556    4 reserved       0
 *     1024   32 synced mark    two of them, written in turn: what the last syncs covered
 *     1056   32
 *
 * A synced mark; all 32 bytes are zero until there is one.
 *
 *        0    8 end            offset in the file after the last frame that is on disk
 *        8    8 next_sequence  after that frame
 *       16    4 crc            CRC-32C of bytes 0..16, continued from the header's crc
 *       20   12 reserved       0
 */
#define HM_HEADER_VERSION 1
#define HM_HEADER_SIZE    64
#define HM_SEAL_OFFSET    512
#define HM_SEAL_SIZE      48
#define HM_SYNCED_OFFSET  1024
#define HM_SYNCED_SIZE    32 /* of each of the two */

typedef struct {
    uint64_t base_sequence;
    uint64_t base_position;
    uint64_t created_ns;
    uint64_t generation;
    uint64_t segment_bytes;
    uint32_t crc;
} hm_header;

typedef struct {
    uint64_t end;
    uint64_t next_sequence;
    uint64_t last_time_ns;
    uint64_t records;
} hm_seal;

/* Frames before this were on disk. */
typedef struct {
    uint64_t end;
    uint64_t next_sequence; /* 0: not known */
} hm_synced;

/* An append record.
 *
 *   offset size field
 *        0   16 publisher        all zero: nobody in particular
 *       16    8 publisher_first  the publisher's sequence of the first message; 0 with nobody
 *       24    8 first_sequence   the stream's
 *       32    8 position         of the first message
 *       40    8 time_ns          the broker's monotone append time
 *       48    4 count            messages; 0: only says that publisher_first comes next (duplicate
 * filter) 52    4 crc              CRC-32C of bytes 0..52; never 0 (a 0 is written as 1) 56    8
 * reserved         0
 *
 * Bytes 48..56 are one aligned store, made last: while they are zero there is no record. */
typedef struct {
    uint8_t publisher[16];
    uint64_t publisher_first;
    uint64_t first_sequence;
    uint64_t position;
    uint64_t time_ns;
    _Atomic uint64_t count_crc;
    uint64_t reserved;
} hm_record;
_Static_assert(sizeof(hm_record) == 64, "an append record is 64 bytes");
_Static_assert(offsetof(hm_record, count_crc) == 48, "layout");

/* A range whose frames cannot be believed: [position, end), sequences [first, next). */
typedef struct {
    uint64_t position;
    uint64_t end;
    uint64_t first_sequence;
    uint64_t next_sequence;
    int32_t error; /* -HM_E* of the frame at `position` */
} hm_damage;

typedef struct hm_pool hm_pool;

/* Memory of a segment's size in the file "hot". */
typedef struct {
    uint8_t *map;
    hm_fault *fault;     /* one that has had a fault is not used again */
    uint64_t warmed;     /* bytes of it populated */
    bool ready;          /* all of it is */
    hm_segment *segment; /* whose map it is; NULL: it is free */
} hm_slot;

typedef struct {
    int fd;       /* -1: there is no file yet */
    bool refused; /* this place has no slots: the file system cannot write around its cache */
    bool full;    /* or there is no room for more */
    bool enough;  /* one that was free too long was given up, and no spare has lacked one since */
    uint32_t count;
    hm_slot slots[HM_HOT_SLOTS_MAX];
    uint64_t carried_ns; /* CLOCK_MONOTONIC when something was carried last */
    uint64_t used_ns;    /* and when a segment got a slot, or one more was made */
    bool growing;        /* the helper makes the last slot, without the lock */
} hm_hot;

struct hm_segment {
    _Atomic uint32_t refs; /* the log's own, the helper's while it works on it, and every pin */
    hm_pool *pool;         /* counted reference */
    hm_segment *next;      /* in whichever list of the pool it stands; under the pool's lock */

    /* Written by the owner; stable once sealed. */
    uint8_t *map;      /* header page, then frames */
    uint64_t map_size; /* also where frames must end */
    uint64_t end;      /* offset after the last frame */
    uint64_t base_sequence;
    uint64_t base_position; /* of offset HM_LOG_SEGMENT_HEADER */
    uint64_t next_sequence;
    uint64_t first_time_ns; /* the log's time when it began */
    uint64_t last_time_ns;
    uint64_t floor_ns; /* the greatest append time of the segments before it */
    uint64_t generation;
    hm_record *records;
    uint64_t record_count;
    uint64_t record_capacity; /* records that have storage behind them */
    uint64_t index_reserved;  /* bytes of address space at `records` */
    uint64_t index_slots;     /* heap_records: slots of the index file, which is left as it is */
    hm_damage *damage;
    uint32_t damage_count;
    uint32_t examined;   /* faults of both mappings that `damage` is right about */
    hm_fault *map_fault; /* NULL: memory */
    hm_fault *records_fault;
    uint32_t header_crc;
    uint32_t spare_number; /* its name while it is a spare */
    int fd;                /* -1: memory, or sealed */
    int index_fd;
    int direct_fd; /* writes around the page cache; -1: not hot */
    enum { HM_NAME_NONE, HM_NAME_SPARE, HM_NAME_BASE } name; /* NONE: memory, or unlinked */
    bool
        placeholder; /* stands for an active segment that the disk had no room for; holds nothing */
    bool sealed;
    bool shrunk;     /* its file was cut to what it holds */
    bool adopted;    /* found at open: views of an earlier log may still map its file */
    bool retired;    /* no longer part of the log */
    bool recyclable; /* retired, counted in `circulating`: becomes a spare with the last release */
    bool heap_records; /* `records` were rebuilt in private memory */
    bool folded;       /* or copied there from a sound index file, which is mapped no more */
    bool cut;          /* its map is longer than its file */

    hm_slot *slot;         /* its map is one; NULL: its file, or memory */
    _Atomic uint64_t tail; /* `end`, for the helper */

    /* The owner's: its place among the sealed segments that are mapped, by their last use. */
    bool listed;
    hm_segment *used_before;
    hm_segment *used_after;

    /* Under the pool's lock. */
    uint64_t carried;    /* bytes of the slot that its file has */
    bool fetched;        /* of what is in memory of it, some is there for readers only */
    bool header_stale;   /* the file has another header page */
    bool carries;        /* it is part of the log */
    bool complete;       /* it is sealed */
    uint64_t disk_bytes; /* what it counts for in the quota */
    uint64_t warmed;     /* bytes of the map populated */
    bool piecemeal;      /* hm_segment_read_ahead(.., false) was last */
    uint64_t synced_end; /* bytes of the map on disk */
    uint64_t synced_records;
    bool unsynced;      /* it stands in the pool's list of sealed segments that a sync must cover */
    bool sync_unmapped; /* it was not mapped when a sync took it; the owner may map it meanwhile */
    hm_segment *unsynced_next;
};

/* A stretch of a segment that a reader comes to, or has left. */
typedef struct {
    hm_segment *segment; /* referenced */
    uint64_t offset;
    uint64_t size;
    bool behind; /* it has left it */
} hm_hint;

/* The thread that syncs index files beside the helper.  `runs`, `refused`: whose syncs they are. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t change;
    pthread_t thread;
    bool runs;
    bool refused; /* the process may have no more threads */

    /* Under the lock. */
    const void *todo; /* NULL: nothing */
    int error;        /* of the last one */
    bool stops;
} hm_partner;

/* How far a log had come when it was on disk; zeros: nothing is known. */
typedef struct {
    uint64_t next_sequence;
    uint64_t position;
    uint64_t first_sequence; /* of the oldest message kept */
    uint64_t first_position;
} hm_end;

/* What a log, its helper and its pinned segments share; lives as long as any of them. */
struct hm_pool {
    _Atomic uint32_t refs;
    pthread_mutex_t lock;
    pthread_cond_t wake; /* the helper waits */
    pthread_cond_t done; /* the owner waits for a sync, or for the segment in the helper's hands */
    hm_log_options options;
    int dirfd;      /* -1: memory */
    hm_event event; /* closed: memory */
    int end_fd;     /* of the end mark; -1: memory, or it cannot be written */
    pid_t process;  /* that opened the log: a forked child must not write to its files */
    bool closing;
    bool swept; /* the log is closed: the names of spares may be another log's by now */

    hm_segment *ready; /* spares that can be used at once */
    uint32_t ready_count;
    hm_segment *returned; /* retired segments without readers, to be made spares */
    uint32_t circulating; /* retired, renamed to spare, still referenced or in `returned` */
    uint32_t spare_next;  /* number of the next spare file */
    uint64_t index_chunk; /* bytes an index file grows by */
    bool preparing;       /* the helper makes a segment ready, without the lock */
    bool heating;         /* or gives one a slot that was ready */
    bool spare_wanted;
    bool starved; /* an append was refused for want of space; hm_helper.c alone takes it back */
    uint64_t starved_bytes; /* of an index: what it needs at least beside a segment */
    uint64_t relieved_ns;   /* CLOCK_MONOTONIC when it was taken back last */
    uint64_t disk_used;
    uint64_t retired_pinned;
    uint64_t recycled;

    hm_hot hot;
    int carry_fault; /* errno the next carries shall fail with; tests only */

    hm_segment *warm; /* the active segment, referenced */
    uint64_t warm_target;
    uint64_t written_ns; /* ns that HM_NUDGE_STEP bytes took to be written; 0: not known */
    uint64_t rest_ns;    /* CLOCK_MONOTONIC before which the helper makes nothing warm */

    uint64_t sync_asked; /* requests; a request is over when sync_served reaches it */
    uint64_t sync_served;
    bool sync_runs;          /* the helper reads what is mapped, without the lock */
    uint64_t sync_target;    /* sequence after the last message the newest request covers */
    hm_end sync_mark;        /* and the end mark to write when it has ended */
    hm_segment *sync_active; /* and its segment, referenced */
    uint64_t sync_end;
    uint64_t sync_records;
    uint64_t synced_next; /* sequences below this are on disk */
    uint64_t syncs;
    hm_segment *unsynced;
    bool directory_dirty;
    uint32_t events; /* what hm_log_events reports */
    hm_partner partner;
    int sync_fault; /* errno the next sync shall fail with; tests only */

    hm_hint hints[HM_HINTS_MAX]; /* the oldest first */
    uint32_t hint_count;

    _Atomic int32_t failed; /* 0 or -HM_EIO: appends are refused */
    int32_t failed_errno;
};

static inline uint64_t hm_pad8(uint64_t size) {
    return (size + 7) & ~(uint64_t)7;
}

/* Size of the sound MESSAGE frame at `data`. */
static inline uint64_t hm_frame_span(const uint8_t *data) {
    uint16_t flags;
    uint32_t payload;
    memcpy(&flags, data + offsetof(hm_frame_header, flags), sizeof flags);
    memcpy(&payload, data + offsetof(hm_frame_header, payload_len), sizeof payload);
    uint64_t size = HM_FRAME_HEADER + hm_pad8(flags & 0xffU) + hm_pad8(payload);
    if (flags & HM_FRAME_PROPERTIES) {
        uint32_t properties;
        memcpy(&properties, data + HM_FRAME_HEADER + hm_pad8(flags & 0xffU), sizeof properties);
        size += hm_pad8((uint64_t)properties + sizeof properties);
    }
    return size;
}

static inline uint64_t hm_frame_sequence(const uint8_t *data) {
    uint64_t sequence;
    memcpy(&sequence, data + offsetof(hm_frame_header, sequence), sizeof sequence);
    return sequence;
}

static inline uint64_t hm_segment_position(const hm_segment *segment, uint64_t offset) {
    return segment->base_position + offset - HM_LOG_SEGMENT_HEADER;
}

static inline uint64_t hm_segment_offset(const hm_segment *segment, uint64_t position) {
    return position - segment->base_position + HM_LOG_SEGMENT_HEADER;
}

/* Pages of the segment's files that could not be read or written, and hold zeros now. */
static inline uint32_t hm_segment_faults(const hm_segment *segment) {
    return hm_fault_count(segment->map_fault) + hm_fault_count(segment->records_fault);
}

static inline uint64_t hm_segment_end_position(const hm_segment *segment) {
    return hm_segment_position(segment, segment->end);
}

/* hm_pool.c ---------------------------------------------------------------------------------- */

/* Takes `bytes` more from the quota: 0 or -HM_ENOSPACE. */
int hm_segment_charge(hm_segment *segment, uint64_t bytes);
/* Gives [offset, offset + size) of a file storage: 0 or -HM_E*. */
int hm_file_allocate(int fd, uint64_t offset, uint64_t size);
/* Waits for [begin, end) of the mapping to be on disk: 0 or errno. */
int hm_map_sync(void *map, uint64_t begin, uint64_t end);
/* The code for an errno: -HM_ENOSPACE, -HM_EFSIZE, -HM_EFILES, -HM_ENOMEM, or -HM_EIO. */
int hm_code_of(int error);

/* hm_format.c -------------------------------------------------------------------------------- */

void hm_header_encode(uint8_t *page, const hm_header *header);
/* 0; -HM_EMAGIC, -HM_EVERSION (sound, but newer), -HM_ECRC. */
int hm_header_decode(const uint8_t *page, hm_header *header);
void hm_seal_encode(uint8_t *page, uint32_t header_crc, const hm_seal *seal);
/* 0; -HM_EEMPTY: not sealed; -HM_ECRC. */
int hm_seal_decode(const uint8_t *page, uint32_t header_crc, hm_seal *seal);
/* `turn`: counts the marks, so that one that is cut short leaves the one before. */
void hm_synced_encode(uint8_t *page, uint32_t header_crc, uint64_t turn, const hm_synced *synced);
/* The farther of the sound marks.  Returns the offset of an unsound one, 0 if there is none. */
uint32_t hm_synced_decode(const uint8_t *page, uint32_t header_crc, hm_synced *synced);

/* hm_segment.c ------------------------------------------------------------------------------- */

void hm_pool_unref(hm_pool *pool);
/* Makes a segment of the pool's size: a spare file, or memory.  Takes and drops the lock itself. */
int hm_segment_make(hm_pool *pool, hm_segment **made);
/* A segment without files and without room. */
int hm_segment_placeholder(hm_pool *pool, hm_segment **made);
/* A segment of its own size in memory that holds `frames` and no records; in no list. */
int hm_segment_copy(hm_pool *pool, const uint8_t *frames, uint64_t size, hm_segment **made);
/* Whether a page that is not there yet brings its neighbours with it.  Good for who reads in order
 * or writes fast; but what the kernel prepares then is megabytes in one go, tens of milliseconds.
 */
void hm_segment_read_ahead(hm_segment *segment, bool ahead);
/* Gives a returned segment a fresh index, so that it can be used again. */
int hm_segment_refit(hm_segment *segment);
/* Unlinks what is a spare, unmaps, frees; nobody refers to it any more. */
void hm_segment_destroy(hm_segment *segment);
/* Writes the header, then gives the files their names.  `records` may hold count-0 records already.
 */
int hm_segment_install(hm_segment *segment, uint64_t created_ns);
/* Keeps the few records of a sealed segment in private memory instead of a map of the index file: a
 * process has 65,530 maps.  Not while a sync may be writing them. */
void hm_segment_fold(hm_segment *segment);
/* Unmaps the files of a sealed segment.  False: they are read, or must stay. */
bool hm_segment_unmap(hm_segment *segment);
/* Maps them again.  0; -HM_EDAMAGED: they are gone or were cut; -HM_EFILES, -HM_EMAPS, -HM_EIO. */
int hm_segment_map(hm_segment *segment);
/* Gives up pages of a mapped, sealed segment: in memory nowhere, until they are read again. */
void hm_segment_drop_pages(hm_segment *segment, uint64_t offset, uint64_t size);
/* Writes the seal; `shrink`: gives back what is unused.  Closes the descriptors. */
void hm_segment_seal(hm_segment *segment, bool shrink);
/* Takes the segment out of the directory and drops the log's reference.  It becomes a spare once
 * nobody refers to it, if it has its full size and spares are few; else it is unlinked. */
void hm_segment_retire(hm_segment *segment);
void hm_segment_name(char *out, size_t size, uint64_t base, const char *suffix);
void hm_spare_name(char *out, size_t size, uint32_t number, const char *suffix);
uint64_t hm_index_reserve(uint64_t segment_bytes);

/* hm_hot.c ----------------------------------------------------------------------------------- */

/* Gives a spare, which is in no list, a slot for its map, if one is free. */
void hm_hot_heat(hm_segment *segment, uint64_t now_ns);
/* Whether a slot is free.  Lock held. */
bool hm_hot_has_slot(hm_pool *pool);
/* The segment has no map any more, and its slot is free.  Lock held. */
void hm_hot_give(hm_segment *segment);
/* Whether the file of a hot segment has all of it.  Lock held. */
bool hm_hot_is_carried(const hm_segment *segment);
/* Lists the hot segments of the log whose files have all of them, at most HM_HOT_SLOTS_MAX.  For the
 * owner. */
uint32_t hm_hot_carried(hm_pool *pool, hm_segment **segments);
/* Whether one slot more is wanted, and there may be one.  Lock held. */
bool hm_hot_wants_slot(const hm_pool *pool);
/* Makes the next `slice` bytes of a new slot warm.  False: there is none to be had.  Lock held on entry
 * and exit, not in between. */
bool hm_hot_grow(hm_pool *pool, uint64_t slice, uint64_t now_ns);
/* Has the segment's file hold what the slot holds before `end`.  0 or errno.  For one thread at a
 * time, without the lock: the helper, or the owner once it has stopped. */
int hm_hot_carry(hm_segment *segment, uint64_t end);
/* Carries a piece of the oldest segment that lacks one.  False: none does.  Lock held on entry and
 * exit, not in between. */
bool hm_hot_carry_next(hm_pool *pool, uint64_t now_ns);
/* CLOCK_MONOTONIC at which something is to be carried that is not yet; 0: nothing is.  Lock held. */
uint64_t hm_hot_next_look(const hm_pool *pool);
/* Has all files hold everything, on disk, and removes "hot".  0 or errno: it stays.  The helper has
 * stopped. */
int hm_hot_finish(hm_pool *pool);
/* Gives up the last slots that are free, if the log has taken none for a while.  For the owner. */
void hm_hot_shrink(hm_pool *pool, uint64_t now_ns);
/* Unmaps and closes what is left. */
void hm_hot_free(hm_pool *pool);
/* Lays the slots that a process left over the segments' files, and removes "hot".  0 or -HM_E*. */
int hm_hot_restore(int dirfd);
/* The slot of a segment whose file, mapped at `file`, lacks some of it: `*image` is a private map to be
 * unmapped, of `*size` bytes; NULL: the file has everything.  0 or -HM_E*. */
int hm_hot_image(int dirfd, uint64_t base, const uint8_t *file, uint64_t file_bytes,
                 uint8_t **image, uint64_t *size);

/* hm_index.c --------------------------------------------------------------------------------- */

static inline uint32_t hm_record_count(const hm_record *record) {
    /* relaxed: the owner reads what it wrote itself. */
    return (uint32_t)atomic_load_explicit(&record->count_crc, memory_order_relaxed);
}

uint32_t hm_record_crc_body(const hm_record *record);
uint64_t hm_record_count_crc(uint32_t body_crc, uint32_t count);
/* 0; -HM_EEMPTY: no record; -HM_ECRC: damaged. */
int hm_record_check(const hm_record *record);
/* Room for `count` more records.  0, -HM_ENOSPACE, -HM_EIO. */
int hm_index_room(hm_segment *segment, uint64_t count);
/* Writes the next record; there is room. */
hm_record *hm_index_add(hm_segment *segment, const hm_origin *origin, uint64_t sequence,
                        uint64_t position, uint64_t time_ns, uint32_t count);
/* Index of the last record with position / sequence <= value, or 0. */
uint64_t hm_index_by_position(const hm_segment *segment, uint64_t position);
uint64_t hm_index_by_sequence(const hm_segment *segment, uint64_t sequence);
/* Index of the first record with time_ns >= value, or record_count. */
uint64_t hm_index_by_time(const hm_segment *segment, uint64_t time_ns);

/* hm_publishers.c ---------------------------------------------------------------------------- */

typedef struct hm_publishers hm_publishers;
enum { HM_USE_ALL, HM_USE_OWNED, HM_USES };
typedef struct {
    uint32_t newer, older; /* index + 1 */
} hm_use;
typedef struct {
    uint8_t id[16];
    uint64_t last;
    uint32_t chain;      /* next in the bucket, index + 1 */
    hm_use use[HM_USES]; /* in the order of use: of all, and of its owner's */
} hm_publisher;

/* The ids of publishers that belong to an identity begin with these two bytes, then two that
 * are the same for all of the identity's: hermes.broker.owners makes them. */
#define HM_OWNED_MARK_0 0xf5
#define HM_OWNED_MARK_1 0x0e

/* Messages of a publisher, [first, next) in its own sequence, that the log had and has lost: they
 * are no repetitions when they are sent again. */
typedef struct {
    uint8_t publisher[16];
    uint64_t first;
    uint64_t next;
} hm_missing;

hm_publishers *hm_publishers_new(void);
void hm_publishers_free(hm_publishers *table);
hm_publisher *hm_publishers_find(hm_publishers *table, const uint8_t *id);
/* Notes `last` for `id`; the longest silent makes room, of the owner that has far the most.  The entry, valid until the next call;
 * NULL: no memory. */
hm_publisher *hm_publishers_set(hm_publishers *table, const uint8_t *id, uint64_t last);
/* The log has [first, next) of `id`; what it has beyond that stays. */
hm_publisher *hm_publishers_keep(hm_publishers *table, const uint8_t *id, uint64_t first,
                                 uint64_t next);
/* The log had [first, next) of `id`, and has lost it. */
void hm_publishers_lose(hm_publishers *table, const uint8_t *id, uint64_t first, uint64_t next);
/* `first` comes next of `id`: what is not known before it is there, but for the last `lost`. */
void hm_publishers_expect(hm_publishers *table, const uint8_t *id, uint64_t first, uint64_t lost);
bool hm_publishers_misses(const hm_publishers *table, const uint8_t *id, uint64_t sequence);
/* The first range lost of `id` that begins at `from` or behind, or NULL. */
const hm_missing *hm_publishers_missing(const hm_publishers *table, const uint8_t *id,
                                        uint64_t from);
uint32_t hm_publishers_missing_count(const hm_publishers *table);
uint32_t hm_publishers_count(const hm_publishers *table);
/* From the longest silent to the latest. */
hm_publisher *hm_publishers_oldest(hm_publishers *table);
hm_publisher *hm_publishers_newer(hm_publishers *table, const hm_publisher *publisher);

static inline bool hm_publisher_nobody(const uint8_t *id) {
    uint64_t words[2];
    memcpy(words, id, sizeof words);
    return (words[0] | words[1]) == 0;
}

/* hm_helper.c -------------------------------------------------------------------------------- */

void *hm_helper_main(void *pool);
/* Waits for the segment that the helper is making, and makes one of a returned one.  False: there was
 * neither, so no room has come free and nothing is ready.  For the owner. */
bool hm_helper_hurry(hm_pool *pool);
void hm_pool_event(hm_pool *pool, uint32_t event);

/* hm_sync.c ---------------------------------------------------------------------------------- */

/* One sync of everything asked for; the lock is held on entry and exit, not in between. */
void hm_sync_all(hm_pool *pool);
/* Ends the thread, if there is one.  The helper has stopped. */
void hm_partner_stop(hm_partner *partner);

/* hm_log.c ----------------------------------------------------------------------------------- */

typedef struct hm_window hm_window;

struct hm_log {
    hm_pool *pool;
    pthread_t helper;
    bool helper_runs;
    hm_segment *active; /* the last of `segments` */
    uint64_t nudge_at;  /* offset in the active segment at which the helper wants to know */
    uint64_t nudged_at; /* and at which it heard last; 0: of this segment it has not yet */
    uint64_t nudged_ns; /* `time_ns` then */
    uint64_t next_sequence;
    uint64_t end_position;
    uint64_t time_ns;             /* of the last append: goes back only where a segment begins */
    uint32_t last_body_crc;       /* of the last record, so that extending it is one CRC step */
    uint64_t last_publisher_next; /* the publisher's sequence that would extend it */
    hm_publisher *last_publisher; /* of the last record; NULL: nobody */
    bool last_extensible;

    hm_segment **segments; /* oldest first: segments[first .. first + count) */
    uint64_t segments_capacity;
    uint64_t segments_first;
    uint64_t segments_count;
    uint64_t sealed_bytes;  /* of frames in all but the active one */
    hm_segment *used_last;  /* of the sealed segments that are mapped */
    hm_segment *used_first; /* whose map is given up first */
    uint64_t mapped;        /* how many they are */

    hm_publishers *publishers;
    hm_window *window; /* NULL: no store behind it */
    uint64_t trimmed;
    uint64_t appends;
    uint64_t cold_rolls;
};

static inline hm_segment *hm_log_oldest(const hm_log *log) {
    return log->segments[log->segments_first];
}

static inline uint64_t hm_segment_frame_bytes(const hm_segment *segment) {
    return segment->end - HM_LOG_SEGMENT_HEADER;
}

/* hm_maps.c ---------------------------------------------------------------------------------- */

/* Has the files of `segment` mapped, and gives up the map that was not used for longest where there
 * are too many.  0 or what hm_segment_map returns. */
int hm_log_map(hm_log *log, hm_segment *segment);
/* Gives up the maps of sealed segments that nobody reads, but for `keep` of them. */
void hm_log_unmap(hm_log *log, uint64_t keep);
/* `segment` is no longer part of the log. */
void hm_log_forget_map(hm_log *log, hm_segment *segment);

/* hm_read.c ---------------------------------------------------------------------------------- */

/* The messages of segment `index`, from the oldest on, were appended at the returned time or
 * before. */
uint64_t hm_log_latest_time(const hm_log *log, uint64_t index);

/* hm_roll.c ---------------------------------------------------------------------------------- */

/* Adds `segment` as the newest. */
int hm_log_add_segment(hm_log *log, hm_segment *segment);
/* A segment to go on in: a prepared one or a new one.  0, -HM_ENOSPACE, ... */
int hm_log_take(hm_log *log, hm_segment **taken);
/* Gives it to the spares. */
void hm_log_put_back(hm_log *log, hm_segment *segment);
/* Makes `segment` the active one and seals the one before; on a failing file system the log fails.
 */
int hm_log_install(hm_log *log, hm_segment *segment, uint64_t now_ns);
void hm_log_activate(hm_log *log, hm_segment *segment);
void hm_log_seal_active(hm_log *log, bool shrink);
int hm_log_roll(hm_log *log, uint64_t now_ns);
/* The clock says that append times so far were ahead: goes on with `now_ns` in a segment of its
 * own, or holds the time where there is no room for one. */
void hm_log_step_back(hm_log *log, uint64_t now_ns);
/* Gives up the slots of segments that their files have all of and that nobody reads. */
void hm_log_cool(hm_log *log);
/* Retires what is too many or, unless `now_ns` is 0, too old; `capacity`: of the active segment, and
 * of the one to come. */
void hm_log_retire_due(hm_log *log, uint64_t capacity, uint64_t now_ns);
/* Whether `error` is a want that can pass: of space, memory, descriptors, or a limit of the
 * process. */
bool hm_log_is_want(int error);
/* Notes a refusal for want of space, so that the helper looks for some.  Returns `error`. */
int hm_log_starve(hm_log *log, int error);
/* Tells the helper that the tail has passed `nudge_at`. */
void hm_log_nudge(hm_log *log);

/* hm_walk.c ---------------------------------------------------------------------------------- */

/* One pass over a segment's frames.  The first group is the caller's, the second the answer. */
typedef struct {
    const uint8_t *map;
    uint64_t end; /* offset at which frames end at the latest */
    uint64_t base_sequence;
    uint64_t base_position;
    uint64_t next_sequence; /* sequences from here on do not belong here; UINT64_MAX: not known */
    uint64_t covered;       /* sequences from here on no record covers; UINT64_MAX: not known */
    bool sealed;            /* `end` and `next_sequence` are exact; taken back if it ends earlier */
    bool last;              /* nothing was written behind it: it ends where something is unsound */
    hm_synced synced;       /* but what was synced is damaged, and does not end it */
    const hm_record *marks; /* sound records in order, or NULL */
    uint64_t mark_count;
    uint64_t *progress; /* NULL, or counts bytes for another thread */

    uint64_t offset;   /* after the last sound frame (or damage with sound frames behind it) */
    uint64_t expected; /* sequence that would come next */
    uint64_t messages;
    uint64_t bytes;
    int32_t tail_error; /* 0, or why nothing sound stands at `offset` although something should */
    uint64_t bad_marks; /* marks that contradict sound frames */
    hm_damage *damage;  /* to be freed by the caller */
    uint32_t damage_count;
    bool out_of_memory;
} hm_walk;

void hm_walk_run(hm_walk *walk);
/* Adds a range to walk->damage, joined with the one before if they touch. */
void hm_walk_add_damage(hm_walk *walk, uint64_t offset, uint64_t end, uint64_t next_sequence,
                        int32_t error);
/* Bytes of the sound MESSAGE frame with `sequence` at `offset`, or -HM_E*. */
int64_t hm_walk_check(const hm_walk *walk, uint64_t offset, uint64_t sequence);

/* The sound records among `slots` that fit one another and the segment.  Returns how many were
 * copied to `out`; `*unsound` counts the others, `*next_sequence` is what the sound ones cover. */
uint64_t hm_records_sift(const hm_record *slots, uint64_t count, uint64_t base_sequence,
                         uint64_t base_position, hm_record *out, uint64_t *unsound,
                         uint64_t *next_sequence);

/* Position of the first record that says where a segment with `base` begins, or `otherwise`. */
uint64_t hm_records_position(const hm_record *slots, uint64_t count, uint64_t base,
                             uint64_t otherwise);

/* A segment's two files, mapped for reading or writing; empty files are mapped as NULL.  No
 * descriptor is kept: a log may have more segments than a process may have files. */
typedef struct {
    uint8_t *map;
    uint64_t size;
    hm_record *slots;
    uint64_t slot_count;
    uint64_t slot_bytes; /* of the index file */
    hm_fault *map_fault;
    hm_fault *slots_fault;
    bool has_index;
    bool parked;             /* both are mapped no more */
    int header_error;        /* of the header page: 0 or -HM_E* */
    int seal_error;          /* 0, -HM_EEMPTY: not sealed, -HM_ECRC */
    uint32_t synced_unsound; /* offset of a synced mark that is not sound, 0: none */
    hm_header header;
    hm_seal seal;
    hm_synced synced;
} hm_files;

/* Sequence up to which the records say who sent what; UINT64_MAX: they say so of everything, or are
 * damaged or gone.  Slots of zeros, records that are missing at the end of a sealed segment, and
 * those that leave out sequences never reached the disk. */
uint64_t hm_records_covered(const hm_files *files, uint64_t base_sequence);

/* How far the frames of the last segment were on disk, by its own marks and the log's end mark. */
hm_synced hm_synced_extent(const hm_files *files, uint64_t base_sequence, uint64_t base_position,
                           const hm_end *end);

/* 0 or -HM_E*; damage is not an error here. */
int hm_files_open(int dirfd, uint64_t base, bool writable, hm_files *files);
void hm_files_close(hm_files *files);
/* Unmaps both, and maps them again.  0 or -HM_E*; -HM_EIO: they have another size by now. */
void hm_files_park(hm_files *files);
int hm_files_unpark(int dirfd, uint64_t base, hm_files *files);

/* Base sequences of the segment files in a directory, ascending.  `litter`, if not NULL, gets the
 * names of leftover files.  The caller frees. */
typedef struct {
    uint64_t *bases;
    uint64_t count;
    char **litter; /* spare-* files and index files without a log file */
    uint64_t litter_count;
} hm_listing;

int hm_listing_read(int dirfd, hm_listing *listing);
void hm_listing_free(hm_listing *listing);

/* hm_end.c ----------------------------------------------------------------------------------- */

/* 0; -HM_EEMPTY: there is no mark; -HM_ECRC: none that is sound.  `*damaged`: one of the two copies
 * is not sound. */
int hm_end_read(int dirfd, hm_end *end, bool *damaged);
/* A descriptor to write it with, or -1. */
int hm_end_open(int dirfd);
/* False: it may be half written. */
bool hm_end_write(int fd, const hm_end *end);

/* hm_window.c -------------------------------------------------------------------------------- */

hm_window *hm_window_new(uint64_t unstored_max);
void hm_window_free(hm_window *window);
/* Whether the store has all of `segment`; true without a store. */
bool hm_window_may_retire(const hm_log *log, const hm_segment *segment);
/* 0, or why `size` bytes more are refused now. */
int hm_window_admit(const hm_log *log, uint64_t size);
/* The brought segment with `position`; NULL: -HM_ECOLD or -HM_EGONE, with `range` set. */
hm_segment *hm_window_find(hm_log *log, uint64_t position, hm_range *range, int *error);
/* The brought segment of that name, or NULL. */
hm_segment *hm_window_named(const hm_log *log, uint64_t base_sequence);

/* hm_recover.c ------------------------------------------------------------------------------- */

/* Fills an empty log from its directory: every segment but a new active one. */
int hm_log_recover(hm_log *log, uint64_t *progress, hm_log_report *report);

#endif
