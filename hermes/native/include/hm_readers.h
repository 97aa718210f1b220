/* hm_readers.h -- which cursors of a connection may have something to deliver, and which
 * connections have such cursors.
 *
 * An append wakes cursors: each is put on its connection's list, and the connection on the list of
 * its listener's.  Those who serve connections take them from there.  Waking costs a few
 * instructions, and nothing if the cursor is awake already.
 *
 * One thread owns all of it.
 */
#ifndef HM_READERS_H
#define HM_READERS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct hm_readers hm_readers;

/* A cursor's place among those of its connection. */
typedef struct hm_reader {
    struct hm_reader *next; /* of those that are awake, in turn */
    struct hm_reader *previous;
    hm_readers *owner; /* NULL: nobody is told */
    bool awake;        /* it may have something */
    bool progress;     /* when caught up, it says what it has covered without a message */
} hm_reader;

/* Connections that may have something, in the order in which they were woken. */
typedef struct {
    hm_readers *first;
    hm_readers *last;
} hm_awake;

/* The cursors of one connection that are awake. */
struct hm_readers {
    hm_reader *first;
    hm_reader *last;
    uint32_t awake;
    uint32_t followed; /* cursors, awake or not */
    bool listed;       /* on `list` */
    hm_readers *next;
    hm_readers *previous;
    hm_awake *list;
};

/* Puts a connection on its list, behind the others, unless it is there: true if it was not. */
bool hm_readers_list(hm_readers *readers);
/* Takes it off, if it is on. */
void hm_readers_unlist(hm_readers *readers);
/* Puts the first of the cursors that are awake behind the others. */
void hm_readers_turn(hm_readers *readers);

/* The cursor may have something: true if its connection was put on its list. */
bool hm_reader_wake(hm_reader *reader);
/* The cursor has nothing more. */
void hm_reader_sleep(hm_reader *reader);

#endif
