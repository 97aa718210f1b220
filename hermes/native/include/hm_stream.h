/* hm_stream.h -- a stream: its log, its topics, who wants them, and how far each subscription has
 * read.
 *
 * The topic table maps a name to a small index (seeded hash; the topic of the message before is
 * recognised without hashing).  Filters are deduplicated and kept in a trie by token.  A *new*
 * topic is matched against the trie once and gets an interned list of the filters that want it, so
 * an append costs one look-up and one note per interested selecting filter.  A note is (position,
 * size, sequence), on a bounded ring per filter; consecutive frames share one.  A filter that wants
 * every topic so far takes no notes: its cursors are sent ranges of log memory.  A cursor behind
 * the ring's oldest note walks the log until it has caught up.
 *
 * What a cursor meets, from old to new (any stretch may be empty):
 *
 *     everything_until          complete_from            the log's end
 *   ----- ranges -----|------ walk the log ------|------ notes ------|
 *
 *   everything_until  the first topic that the filter does not want appeared here
 *   complete_from     every wanted message from here on is noted; moves up when the ring overflows
 *
 * One thread owns a stream, its cursors and every ingest that feeds it.  Nothing but the stream
 * appends to its log. hm_topics.h and hm_filters.h hold the two tables; this file joins them with
 * hm_log.h.
 */
#ifndef HM_STREAM_H
#define HM_STREAM_H

#include "hm_filters.h"
#include "hm_log.h"
#include "hm_readers.h"

/* cdef-begin -- opaque streams and cursors. */
typedef struct hm_stream hm_stream;
typedef struct hm_cursor hm_cursor;

#define HM_STREAM_FILTERS_MAX 65536      /* distinct filters of one stream */
#define HM_NOTES_MAX          8192       /* notes a filter keeps; grown from 64 by doubling */
#define HM_STREAM_NOTES_MAX   4194304    /* notes of all filters: 96 MiB; then rings stop growing */
#define HM_APPEND_MAX         1073741824 /* bytes of one append */
#define HM_CURSOR_TAIL 1048576 /* bytes a walk looks at per call: replay never holds the loop */

/* Start of a cursor.
 * LAST: the newest message of each topic it wants, then live.  SEQUENCE: the first message with a
 * sequence >= value.  TIME: the first message appended at or after value, ns; as long as there is
 * none, the cursor has nothing. */
enum {
    HM_START_LATEST = 0,
    HM_START_EARLIEST = 1,
    HM_START_LAST = 2,
    HM_START_SEQUENCE = 3,
    HM_START_TIME = 4,
};

/* Result of hm_cursor_next.
 * NOTHING: caught up.  COPIED: `written` bytes of `out`, one whole BATCH frame.  RANGE: `written`
 * (56) bytes of `out`, then `range` of log memory: one BATCH frame.  GAP: `gap_first`..`gap_last`
 * can't be had; `gap_reason`: HM_EGONE or HM_EDAMAGED.  AGAIN: walked its share of the log and
 * found nothing yet: call again in the next pass.  COLD: bring `range.position` (hm_log_fill), then
 * call again. */
enum {
    HM_DELIVER_NOTHING = 0,
    HM_DELIVER_COPIED = 1,
    HM_DELIVER_RANGE = 2,
    HM_DELIVER_GAP = 3,
    HM_DELIVER_AGAIN = 4,
    HM_DELIVER_COLD = 5,
};

typedef struct {
    uint64_t written; /* bytes put into `out` */
    uint64_t after;
    uint64_t through;
    uint64_t messages;
    uint64_t gap_first;
    uint64_t gap_last;
    hm_range range;
    int32_t kind;
    int32_t gap_reason;
} hm_delivery;

typedef struct {
    uint64_t topics;
    uint64_t topic_bytes; /* memory the topic table takes */
    uint64_t filters;
    uint64_t cursors;
    uint64_t messages; /* appended since open */
    uint64_t bytes;
    uint64_t notes;
    uint64_t walks; /* cursors now walking the log */
} hm_stream_status;

typedef struct {
    uint32_t name_offset; /* into the names buffer of hm_stream_topics */
    uint32_t name_len;
    uint64_t last_sequence; /* 0: no message kept */
    uint64_t messages;      /* appended since the table was built */
} hm_topic_info;

/* Wraps `log` (borrowed: close it after the stream) and builds the topic table from it.  `index`:
 * what batches call this stream.  `topics_max`: bound of the table.  `create`: 0 refuses unknown
 * topics. */
int hm_stream_open(hm_log *log, uint32_t index, uint32_t topics_max, int create,
                   hm_stream **stream);
void hm_stream_close(hm_stream *stream);
hm_log *hm_stream_log(const hm_stream *stream);
void hm_stream_status_get(hm_stream *stream, hm_stream_status *status);

/* Declares a topic, as configuration may where creation is off.  Returns its index or -HM_E*. */
int64_t hm_stream_declare(hm_stream *stream, const uint8_t *name, uint32_t len);
/* Copies topic infos and names from topic index `first` on.  Returns how many; `*names_used` bytes
 * of names. */
int64_t hm_stream_topics(hm_stream *stream, uint32_t first, hm_topic_info *infos, uint32_t capacity,
                         uint8_t *names, uint64_t names_capacity, uint64_t *names_used);

/* A filter is counted in, and topics are matched with it by hm_stream_sweep, so that hm_cursor_open
 * need not match them all at once.  Returns the filter's number; -HM_E* as hm_cursor_open. */
int64_t hm_stream_want(hm_stream *stream, int filter_kind, const uint8_t *filter,
                       uint32_t filter_len);
/* 1 once every topic has been matched with the filter. */
int hm_stream_wanted(const hm_stream *stream, uint32_t filter);
void hm_stream_unwant(hm_stream *stream, uint32_t filter);
/* Matches topics with filters that have come and gone, for as long as `budget` lasts (about a name
 * looked at each).  Returns 1 if there is more to do. */
int hm_stream_sweep(hm_stream *stream, uint64_t budget);

/* Opens a cursor.  `batch_id`: the subscription id its batches carry.  -HM_ETOPIC: illegal filter.
 * A sequence that is not kept any more begins with a gap; one beyond the tail begins at the tail.
 * Every cursor is closed before its stream. */
int hm_cursor_open(hm_stream *stream, int filter_kind, const uint8_t *filter, uint32_t filter_len,
                   uint32_t batch_id, int start, uint64_t value, hm_cursor **cursor);
void hm_cursor_close(hm_cursor *cursor);
/* Has a cursor that was opened at HM_START_LATEST begin as at HM_START_LAST, in steps before its
 * first batch: looks at up to `topics` more topics.  Returns 1 if some are left, 0 at the end,
 * -HM_ENOMEM. Appends in between are live messages. */
int hm_cursor_collect(hm_cursor *cursor, uint32_t topics);
/* The last sequence this cursor has covered (`through` of its last batch; before it: where it
 * stands). */
uint64_t hm_cursor_through(const hm_cursor *cursor);

/* Produces the cursor's next BATCH of at most `limit` bytes of frames (at least one frame) and
 * moves on. `out` has `capacity` >= 56 bytes; a selected frame that does not fit `out` is delivered
 * as a RANGE. `progress`: when caught up and messages nobody here wanted were passed since the last
 * batch, produce an empty batch instead of NOTHING.  Returns 0 or -HM_E*. */
int hm_cursor_next(hm_cursor *cursor, uint8_t *out, uint64_t capacity, uint64_t limit, int progress,
                   uint64_t now_ns, hm_delivery *delivery);

/* Wakes the cursors that may have something since the last call (hm_readers.h).  Returns how many
 * connections were put on the lists of those that may have something. */
uint32_t hm_stream_wake(hm_stream *stream);
/* Wakes every cursor that selects, to say what it has covered when it is caught up. */
void hm_stream_mark_progress(hm_stream *stream);

/* ---- of a log that is a window ---- */

/* Before the first append: shows cursors only what hm_stream_show has said is stored. */
void hm_stream_hold(hm_stream *stream);
/* Frames before `position` (the end, or where a run of hm_log_runs ends), up to `sequence`
 * excluded, are stored: they may be retired, and cursors may have them. */
void hm_stream_show(hm_stream *stream, uint64_t position, uint64_t sequence);
/* Enters the topics of frames of the store, before the first append.  Returns the bytes that are
 * sound and have consecutive sequences. */
int64_t hm_stream_learn(hm_stream *stream, uint64_t position, uint64_t sequence,
                        const uint8_t *frames, uint64_t size);
/* Before its first batch: the cursor begins at `position`, which has `sequence`, for a subscription
 * that wanted to begin at `wanted`: what lies between is a gap, for `reason` (HM_EGONE,
 * HM_EDAMAGED). */
void hm_cursor_seek(hm_cursor *cursor, uint64_t position, uint64_t sequence, uint64_t wanted,
                    int reason);
/* Before its first batch: the cursor has nothing until a message was appended at `time_ns` or
 * later, and begins there. */
void hm_cursor_hold(hm_cursor *cursor, uint64_t time_ns);
/* cdef-end */

/* ---- for connections ---- */

/* Has `owner` told from now on when the cursor may have something, and tells it so. */
void hm_cursor_follow(hm_cursor *cursor, hm_readers *owner);
/* Has nobody told. */
void hm_cursor_unfollow(hm_cursor *cursor);
/* The cursor whose place among the readers this is. */
hm_cursor *hm_reader_cursor(hm_reader *reader);
hm_stream *hm_cursor_stream(const hm_cursor *cursor);
uint32_t hm_cursor_id(const hm_cursor *cursor);
uint32_t hm_stream_index(const hm_stream *stream);
/* Cursors get only what hm_stream_show says. */
bool hm_stream_held(const hm_stream *stream);

/* ---- for the ingest, which has looked up the topics already ---- */

/* Consecutive frames of one topic. */
typedef struct {
    uint32_t topic;
    uint32_t count;
    uint64_t bytes;
    uint64_t last; /* bytes of the last frame */
} hm_span;

/* The index of a zero-padded name, added if need be (which is when it is checked). -HM_ETOPIC,
 * -HM_ELIMIT. */
int64_t hm_stream_topic(hm_stream *stream, const uint8_t *padded, uint32_t len, uint64_t hash);
hm_topics *hm_stream_table(const hm_stream *stream);
/* Appends validated frames whose topics are known, and notes them for the filters that want them: the
 * spans describe them all, in order.  See hm_log_append. */
int hm_stream_commit(hm_stream *stream, const uint8_t *frames, uint64_t size, uint32_t count,
                     const hm_span *spans, uint32_t span_count, const hm_origin *origin,
                     uint64_t now_ns, uint32_t *appended);

_Static_assert(offsetof(hm_delivery, range) == 48 && sizeof(hm_range) == 48, "read by Python");
_Static_assert(offsetof(hm_delivery, kind) == 96, "read by Python");
_Static_assert(sizeof(hm_topic_info) == 24, "read in bulk by Python");

#endif
