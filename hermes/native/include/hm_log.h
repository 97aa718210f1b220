/* hm_log.h -- one stream's append-only log: segments in mapped files, or in anonymous memory.
 *
 * A position is an absolute byte count over the life of the log; the frames of consecutive segments
 * stand at consecutive positions, so the position after a frame is its position plus its size,
 * always. A sequence counts messages, from 1.
 *
 * DIR/<base sequence, 20 digits>.log     4,096-byte header, then frames
 * DIR/<base sequence, 20 digits>.index   64-byte append records: who appended what, where and when
 * DIR/spare-<n>.log                      prepared ahead, or retired and waiting to be used again
 * DIR/hot                                memory of busy segments, before it is in their files
 *
 * An append record (docs/log-format.md) is written or extended before the tail
 * moves.  It carries the publisher's id and first sequence, the stream's first sequence, the
 * position, the broker's monotone append time, and {count, crc}, which are one aligned 8-byte
 * store.  Consecutive appends of one publisher with contiguous sequences extend the last record
 * until it covers HM_INDEX_SPAN bytes or HM_INDEX_TICK ns.  So the same records are the origin
 * records, the index by sequence and by time, and the marks that let a range be cut at a frame
 * without walking.  A new segment's index begins with one count-0 record per known publisher: the
 * duplicate filter survives every trim.
 *
 * Threads: one writer and reader, the owner (every call, unless said otherwise); one helper thread
 * inside, which prepares segments, syncs, and populates; pins may be released from any thread.
 */
#ifndef HM_LOG_H
#define HM_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "hm_error.h"
#include "hm_frame.h"

/* cdef-begin -- an opaque log, plain structs for what Python reads. */
typedef struct hm_log hm_log;
typedef struct hm_segment hm_segment; /* pinned memory of one segment */

#define HM_LOG_SEGMENT_HEADER 4096 /* bytes before the first frame: one page */
#define HM_INDEX_SPAN 65536   /* bytes one append record may cover: what a range read may walk */
#define HM_INDEX_TICK 1000000 /* ns one append record may cover: the grain of a start by time */
/* Publishers remembered per stream.  With more, the longest silent of the identity that has most
 * goes first if it has over 256, else the longest silent of all. */
#define HM_LOG_PUBLISHERS_MAX 16384
#define HM_LOG_SPARES_MAX     16 /* more would only hide that the disk is too slow */

enum {                         /* what hm_log_events reports, as a set */
       HM_LOG_EVENT_SYNC = 1,  /* a sync ended: the status says how */
       HM_LOG_EVENT_SPACE = 2, /* appends were refused for want of space, and there is some now */
};

typedef struct {
    uint64_t segment_bytes;   /* file size, header included; a multiple of 4,096 */
    uint64_t retention_bytes; /* of frames kept; 0: no bound by bytes.  The active segment always
                                 stays */
    uint64_t retention_ns;    /* age by append time; 0: no bound by age */
    uint64_t
        disk_bytes; /* the log's files may take this much, spares included; 0: what the disk has */
    uint32_t message_max; /* bytes of payload: what recovery believes */
    uint32_t spares;      /* segments kept ready; 1 is enough for a steady writer */
    uint64_t hot_bytes;   /* of slots that all logs of the process may have; 0: none */
    uint64_t given_out;   /* sequences up to here are known to have been delivered: they are not
                             given to other messages; 0: nothing is known */
} hm_log_options;

/* Report of opening a log.  Counts of messages and bytes are of what is served now. */
typedef struct {
    uint64_t segments;
    uint64_t messages;
    uint64_t bytes;
    uint64_t cut_bytes;      /* torn tail cut away */
    uint64_t damaged_ranges; /* quarantined */
    uint64_t damaged_bytes;
    uint64_t missing;     /* sequences lost in them */
    uint64_t end_missing; /* of these, at the end: the newest messages are gone */
    int32_t end_damaged;  /* 1: a copy of the end mark is not sound */
} hm_log_report;

typedef struct {
    uint64_t first_sequence; /* oldest kept */
    uint64_t next_sequence;  /* of the next append: first == next means empty */
    uint64_t start_position;
    uint64_t end_position;
    uint64_t synced_sequence; /* everything below next of the last finished sync: sequences <= this
                                 are on disk */
    uint64_t segments;
    uint64_t spares;
    uint64_t recycled;   /* segments used again, since open */
    uint64_t trimmed;    /* segments retired, since open */
    uint64_t syncs;      /* finished, since open */
    uint64_t appends;    /* calls, since open */
    uint64_t pinned;     /* retired segments that a reader still holds */
    uint64_t cold_rolls; /* rolls that found no prepared segment */
    int32_t failed;      /* 0, or the -HM_E* with which appends are refused */
    int32_t failed_errno;
    uint64_t last_time_ns; /* append time of the newest message, about; 0: none is known */
    uint64_t hot;          /* segments, spares among them, that are written in a slot */
    uint64_t hot_bytes;    /* of slots that the log has */
} hm_log_status;

/* A run of whole frames within one segment. */
typedef struct {
    uint64_t position;
    uint64_t first_sequence; /* of the first frame */
    uint64_t next_sequence;  /* after the last frame */
    uint64_t size;           /* bytes */
    uint64_t segment;        /* base sequence of the segment: names it */
    uint64_t offset;         /* of the run within hm_segment_memory */
} hm_range;

/* The publisher of a run.  All zero: no publisher is named, no duplicate filter. */
typedef struct {
    uint8_t publisher[16];
    uint64_t
        first_sequence; /* the publisher's own, of the run's first message; runs are contiguous */
} hm_origin;

/* Opens or creates the log in `directory` (which exists and is locked by the caller), verifying
 * every frame.  `*log` is set only on 0.  `progress`, if not NULL, counts bytes verified, for
 * another thread. */
int hm_log_open(const char *directory, const hm_log_options *options, uint64_t *progress,
                hm_log_report *report, hm_log **log);
/* The same contract in anonymous memory.  `retention_bytes` must not be 0. */
int hm_log_open_memory(const hm_log_options *options, hm_log **log);

/* Seals, syncs (files), stops the helper and frees; pinned memory lives on until it is released.
 * Returns the sync's result.  NULL is allowed. */
int hm_log_close(hm_log *log);

/* Appends `count` whole, validated MESSAGE frames that fill `size` bytes: copies and stamps them.
 * `now_ns` is the broker's clock.  If it goes back by up to a second, append times stay what they
 * were; by more, a new segment begins: times are in order within each.  All or nothing unless the
 * disk fails between two segments, in which case `*appended` says how many messages are in the log.
 * -HM_ENOSPACE: refused for now; -HM_EIO: refused until opened again; -HM_ELENGTH: a frame larger
 * than a segment. */
int hm_log_append(hm_log *log, const uint8_t *frames, uint64_t size, uint32_t count,
                  const hm_origin *origin, uint64_t now_ns, uint64_t *first_sequence,
                  uint64_t *first_position, uint32_t *appended);

/* Fetches the memory that the bytes [offset, offset + size) of the next append will be copied to.
 * Called for each frame just before it is checked, the copy finds its destination in the cache: the
 * check hides the wait for memory. */
void hm_log_expect(const hm_log *log, uint64_t offset, uint64_t size);

/* The last sequence of `publisher` in this log, 0 if unknown. */
uint64_t hm_log_publisher(hm_log *log, const uint8_t *publisher);

/* Whether the log had this message of `publisher`, at or below its last sequence, and has lost it
 * since: sent again, it is no repetition. */
int hm_log_misses(const hm_log *log, const uint8_t *publisher, uint64_t sequence);

/* The longest run of whole frames at `position` of at most `limit` bytes (at least one frame,
 * whatever its size), within one segment.  Returns 1; 0 at the tail; -HM_EGONE: retention has
 * passed it; -HM_EDAMAGED: quarantined.  On both, `range->position` and `first_sequence` are where
 * to go on.  -HM_ECOLD: see hm_log_fill. */
int hm_log_read(hm_log *log, uint64_t position, uint64_t limit, hm_range *range);

/* The first position with a sequence >= `sequence`, or an append time >= `time_ns`: sets position
 * and first_sequence.  At or past the tail: the tail.  Before the start: the start.  By
 * time, what is damaged directly before comes first: when it was appended is not known.  Likewise a
 * segment whose times are those of a wrong clock, ahead of the newest or behind earlier ones: it
 * was appended at some time between the segments around it. */
void hm_log_locate(hm_log *log, uint64_t sequence, hm_range *at);
void hm_log_locate_time(hm_log *log, uint64_t time_ns, hm_range *at);
/* The time of the newest append, about. */
uint64_t hm_log_newest_time(const hm_log *log);

/* Pins the segment named `segment` (hm_range.segment).  NULL: no such segment any more. */
hm_segment *hm_log_pin(hm_log *log, uint64_t segment);
/* The pinned memory, from the first frame on, and how many bytes are mapped there. */
const uint8_t *hm_segment_memory(const hm_segment *segment, uint64_t *size);
/* Pins a pinned segment once more; any thread. */
void hm_segment_retain(hm_segment *segment);
/* Any thread; the last release of a retired segment unmaps or recycles it. */
void hm_segment_release(hm_segment *segment);

/* Applies retention now.  `now_ns` judges age, and may be another clock than that of appends: one
 * that trusts no sudden step.  Returns the number of segments retired. */
int hm_log_trim(hm_log *log, uint64_t now_ns);

/* Asks the helper to sync everything appended so far; several calls are one sync (group commit).
 * Memory: -HM_EINVAL. */
int hm_log_sync_begin(hm_log *log);
/* Blocks until everything appended so far is on disk, or the sync has failed. */
int hm_log_sync_wait(hm_log *log, uint64_t timeout_ns);
/* A descriptor that becomes readable when a sync ends or appends are taken again; -1: none.
 * hm_log_events drains it and returns a set of HM_LOG_EVENT_*. */
int hm_log_fileno(const hm_log *log);
int hm_log_events(hm_log *log);

/* For tests of what depends on a failing disk: the next syncs fail with this errno; 0: no more. */
void hm_log_fault(hm_log *log, int error);
/* For such tests: the next writes from slots to files fail with this errno; 0: no more. */
void hm_log_carry_fault(hm_log *log, int error);

/* Asks the helper to bring [position, position + size) into memory.  A hint. */
void hm_log_populate(hm_log *log, uint64_t position, uint64_t size);
/* A reader has left [position, position + size): the memory that was fetched for it may be given up.
 * False: there was no room for the hint. */
int hm_log_forget(hm_log *log, uint64_t position, uint64_t size);

void hm_log_status_get(hm_log *log, hm_log_status *status);

/* ---- a window: the newest part of a stream in memory, in front of a store that has all of it ----
 *
 * Appends go to the window; its owner passes them to the store (hm_log_runs) and reports what the
 * store has (hm_log_stored).  Bytes that the store lacks are never retired, and bounded.  What is
 * older than the window is read as -HM_ECOLD until it has been brought (hm_log_fill). */

#define HM_LOG_COLD_MAX 16 /* stretches of older frames kept in memory; the longest unused goes */

/* Consecutive messages of one append record, in one segment. */
typedef struct {
    uint8_t publisher[16]; /* all zero: nobody in particular */
    uint64_t publisher_first;
    uint64_t first_sequence;
    uint64_t position;
    uint64_t size;
    uint64_t time_ns;
    uint64_t segment;
    uint64_t offset;
    uint64_t count;
} hm_log_run;

/* hm_log_open_memory for a stream whose store ends at `next_sequence` and `end_position`, and
 * begins at `first_sequence` and `start_position`.  `unstored_max`: bytes that the store may be
 * behind; then appends are refused (-HM_ENOSPACE). */
int hm_log_open_window(const hm_log_options *options, uint64_t first_sequence,
                       uint64_t start_position, uint64_t next_sequence, uint64_t end_position,
                       uint64_t unstored_max, hm_log **log);
/* Lists the runs appended from `position` (the end, or where a run began or ended) on, oldest
 * first. Returns how many of at most `capacity`. */
uint32_t hm_log_runs(hm_log *log, uint64_t position, hm_log_run *runs, uint32_t capacity);
/* The store has what stands before `position`. */
void hm_log_stored(hm_log *log, uint64_t position);
/* The store has forgotten what stands before. */
void hm_log_store_begins(hm_log *log, uint64_t sequence, uint64_t position);
/* Refuses appends with a -HM_E*; 0: no more. */
void hm_log_refuse(hm_log *log, int error);
/* Says what the store knows of a publisher. */
int hm_log_remember(hm_log *log, const uint8_t *publisher, uint64_t last);
/* Brings frames that stand at `position`: as many as are sound, whose bytes are returned.  Copies.
 */
int64_t hm_log_fill(hm_log *log, uint64_t position, uint64_t sequence, const uint8_t *frames,
                    uint64_t size);
/* The store cannot read the frames at `position`: they are read as damaged. */
int hm_log_fill_hole(hm_log *log, uint64_t position, uint64_t sequence, uint64_t end,
                     uint64_t next_sequence);
/* cdef-end */

/* Where what can be read begins, the store included. */
uint64_t hm_log_start(const hm_log *log, uint64_t *sequence);
/* Bytes of sound MESSAGE frames with consecutive sequences from `*sequence` on, which is moved
 * behind the last. */
uint64_t hm_log_sound(const uint8_t *frames, uint64_t size, uint64_t *sequence);

_Static_assert(sizeof(hm_origin) == 24, "fixed");
_Static_assert(sizeof(hm_range) == 48, "read by Python");
_Static_assert(sizeof(hm_log_run) == 80, "read by Python");

#endif
