/* stream_internal.h -- what the files behind hm_stream.h share. */
#ifndef HM_STREAM_PARTS_H
#define HM_STREAM_PARTS_H

#include "hm_stream.h"

/* A run of consecutive frames that a filter wants. */
typedef struct {
    uint64_t position;
    uint64_t sequence; /* of the first frame */
    uint32_t size;     /* bytes */
    uint32_t count;    /* frames */
} hm_note;

_Static_assert(HM_APPEND_MAX < UINT32_MAX, "a note's size has 32 bits");

/* One filter's state in this stream.  `head` and `tail` are free-running. */
typedef struct {
    hm_note *notes;
    uint64_t head;
    uint64_t tail;
    uint64_t complete_from;    /* position: every wanted message from here on is noted */
    uint64_t everything_until; /* position: every message before it is wanted */
    struct hm_cursor *cursors;
    uint32_t capacity; /* notes: 0 or a power of two */
    uint32_t cursor_count;
    uint32_t ready_at; /* index in stream->ready, if `ready` */
    uint32_t turning;  /* index in stream->everything, if `everything` */
    uint8_t everything;
    uint8_t ready;
    uint8_t used;
} hm_interest;

struct hm_stream {
    hm_log *log;
    hm_topics *topics;
    hm_filters *filters;
    uint64_t end_position;
    uint64_t next_sequence;
    uint64_t shown_position; /* cursors may have what stands before: the end, unless it is held */
    uint64_t shown_sequence;
    int held;
    hm_interest *interests; /* by filter number */
    uint32_t interest_room;
    uint32_t everything_count;
    uint32_t *everything; /* filters that want everything so far; has interest_room places */
    uint32_t *ready;      /* likewise: filters with news */
    uint32_t ready_count;
    uint32_t index;
    uint32_t topics_max;
    int create;
    uint32_t cursors;
    uint64_t messages;
    uint64_t bytes;
    uint64_t note_room; /* notes that all rings together have room for */
};

typedef struct {
    uint64_t position;
    uint64_t sequence;
} hm_newest;

struct hm_cursor {
    hm_reader reader; /* the first member: hm_reader_cursor */
    hm_stream *stream;
    struct hm_cursor *next; /* of the same filter */
    struct hm_cursor *previous;
    uint64_t position;  /* of the next frame to look at */
    uint64_t sequence;  /* of that frame */
    uint64_t covered;   /* `through` of the last batch; less than sequence - 1 if unwanted messages
                          were passed */
    uint64_t note;      /* notes before this one end at or before `position` */
    uint64_t populated; /* hints were left up to here */
    uint64_t forgotten; /* and what stands before was given up */
    uint64_t not_before_ns; /* what was appended before is passed over; 0: nothing is */
    uint64_t gap_last;      /* a gap to report first: from covered + 1; 0: none */
    hm_newest *newest; /* start=last: what is to be sent before `position`; a heap, oldest first */
    uint32_t newest_count;
    uint32_t collected; /* topics looked at for it */
    uint32_t filter;
    uint32_t batch_id;
    int gap_reason;
};

/* Notes a run for one filter. */
void hm_interest_note(hm_stream *stream, uint32_t filter, uint64_t position, uint64_t sequence,
                      uint64_t size, uint32_t count);
/* Puts the filter on the list of those with news. */
void hm_interest_news(hm_stream *stream, uint32_t filter);
/* Counts a filter in, without a cursor: its notes begin with hm_interest_open.  Returns its number or
 * -HM_E*. */
int64_t hm_interest_want(hm_stream *stream, int kind, const uint8_t *text, uint32_t len);
/* Counts a cursor's filter in and has it settled.  Returns its number or -HM_E*. */
int64_t hm_interest_open(hm_stream *stream, int kind, const uint8_t *text, uint32_t len);
/* One user of the filter less. */
void hm_interest_close(hm_stream *stream, uint32_t filter);
/* A topic was added: filters that wanted everything so far may have ceased to. */
void hm_interest_topic(hm_stream *stream, uint32_t index);

static inline uint64_t hm_note_end(const hm_note *note) {
    return note->position + note->size;
}

static inline hm_note *hm_note_at(const hm_interest *interest, uint64_t index) {
    return &interest->notes[index & (interest->capacity - 1)];
}

#endif
