/* hm_maps.c -- which sealed segments are mapped: the ones used last, and what is referred to. */
#include <assert.h>

#include "log_internal.h"

/* Only sealed segments with files are listed: an active one is written, and memory has no file to
 * map again. */
static bool may_be_unmapped(const hm_segment *segment) {
    return segment->sealed && segment->pool->dirfd >= 0 && !segment->retired && !segment->cut &&
           !segment->placeholder;
}

static void list_first(hm_log *log, hm_segment *segment) {
    segment->listed = true;
    segment->used_after = NULL;
    segment->used_before = log->used_last;
    if (log->used_last) {
        log->used_last->used_after = segment;
    } else {
        log->used_first = segment;
    }
    log->used_last = segment;
    log->mapped++;
}

void hm_log_forget_map(hm_log *log, hm_segment *segment) {
    if (!segment->listed) {
        return;
    }
    hm_segment *before = segment->used_before, *after = segment->used_after;
    assert(log->mapped > 0 && (after != NULL || log->used_last == segment));
    if (after) {
        after->used_before = before;
    } else {
        log->used_last = before;
    }
    if (before) {
        before->used_after = after;
    } else {
        log->used_first = after;
    }
    segment->used_before = segment->used_after = NULL;
    segment->listed = false;
    log->mapped--;
}

void hm_log_unmap(hm_log *log, uint64_t keep) {
    hm_segment *segment = log->used_first;
    while (segment && log->mapped > keep) {
        hm_segment *after = segment->used_after;
        if (hm_segment_unmap(segment)) {
            hm_log_forget_map(log, segment);
        }
        segment = after;
    }
}

int hm_log_map(hm_log *log, hm_segment *segment) {
    if (log->used_last == segment || !may_be_unmapped(segment)) {
        return 0;
    }
    int error = hm_segment_map(segment);
    if (error == -HM_EMAPS) {
        hm_log_unmap(log, 0);
        error = hm_segment_map(segment);
    }
    if (error) {
        return error;
    }
    hm_log_forget_map(log, segment);
    list_first(log, segment);
    if (log->mapped > HM_MAPPED_MAX) {
        hm_segment_retain(segment); /* the one that is asked for stays */
        hm_log_unmap(log, HM_MAPPED_MAX);
        hm_segment_release(segment);
    }
    return 0;
}
