/* hu_outward.h -- what a client of a group says, on its way to its session: it passes as it comes,
 * but frames that begin or end a subscription are collected, and noted for their owner.
 *
 *     the client's bytes --> collect --> queue --> session        the rest of a frame that is not
 *                               |          ^                      collected passes behind the queue
 *                               v          |
 *                             notes       say
 *
 * The end of a subscription that the group has taken over is noted and goes nowhere: the broker has
 * ended it already.  So that nobody takes one over that has just been ended, hu_outward_take only
 * does so when all notes have been read.
 *
 * What is no frame passes as it is: the broker says what is wrong.  Sans-IO.  One thread at a time
 * collects and sends; any thread may do the rest meanwhile.
 */
#ifndef HU_OUTWARD_H
#define HU_OUTWARD_H

#include "hu_select.h"

/* cdef-begin -- an opaque filter. */
typedef struct hu_outward hu_outward;

#define HU_NOTE_MAX  4096   /* bytes of a frame that is noted: larger ones stay on unicast */
#define HU_NOTES_MAX 131072 /* bytes of notes that wait for their owner to read them */
#define HU_SAID_MAX  16384  /* bytes of the owner's that wait to go out */
#define HU_ENDING    128    /* bytes of an Unsubscribe frame, at most */

/* NULL: no memory. */
hu_outward *hu_outward_new(void);
void hu_outward_free(hu_outward *outward);
/* What goes out before any more of the client's; how many bytes. */
uint64_t hu_outward_queued(hu_outward *outward, const uint8_t **data);
/* So many bytes of it have gone out. */
void hu_outward_sent(hu_outward *outward, uint64_t size);
/* Bytes of a frame that are still to go out as they come; only when nothing is queued. */
uint64_t hu_outward_passing(hu_outward *outward);
/* So many bytes of it have gone out. */
void hu_outward_passed(hu_outward *outward, uint64_t size);
/* Takes the client's next bytes, where nothing is queued or passes: how many; 0: not before notes
 * have been read. */
uint64_t hu_outward_collect(hu_outward *outward, const uint8_t *data, uint64_t size);

/* Has a whole frame of the owner's go out as soon as it may stand there.  0: there is no room. */
int hu_outward_say(hu_outward *outward, const uint8_t *frame, uint64_t size);
/* As hu_outward_say, for an Unsubscribe frame; when the client says the same, that is noted, and
 * does not go out.  0: not now. */
int hu_outward_take(hu_outward *outward, const uint8_t *frame, uint64_t size);
/* What was taken is over without that. */
void hu_outward_forget(hu_outward *outward, const uint8_t *frame, uint64_t size);
/* Whether there are notes. */
int hu_outward_noted(hu_outward *outward);
/* The next note, HU_NOTE_MAX bytes at most: its size; 0: there is none; -HM_EFULL: there was no
 * room for one, and all that is known of subscriptions that were not taken is old. */
int64_t hu_outward_read(hu_outward *outward, uint8_t *out);
/* cdef-end */

#endif
