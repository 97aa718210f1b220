/* hm_readers.c -- the lists of those that may have something to deliver. */
#include "hm_readers.h"

#include <assert.h>
#include <stddef.h>

bool hm_readers_list(hm_readers *readers) {
    hm_awake *list = readers->list;
    if (readers->listed)
        return false;
    readers->listed = true;
    readers->next = NULL;
    readers->previous = list->last;
    if (list->last != NULL)
        list->last->next = readers;
    else
        list->first = readers;
    list->last = readers;
    return true;
}

void hm_readers_unlist(hm_readers *readers) {
    hm_awake *list = readers->list;
    if (!readers->listed)
        return;
    readers->listed = false;
    if (readers->previous != NULL)
        readers->previous->next = readers->next;
    else
        list->first = readers->next;
    if (readers->next != NULL)
        readers->next->previous = readers->previous;
    else
        list->last = readers->previous;
}

static void push(hm_reader *reader) {
    hm_readers *readers = reader->owner;
    reader->next = NULL;
    reader->previous = readers->last;
    if (readers->last != NULL)
        readers->last->next = reader;
    else
        readers->first = reader;
    readers->last = reader;
    readers->awake++;
}

static void pull(hm_reader *reader) {
    hm_readers *readers = reader->owner;
    assert(readers->awake > 0);
    if (reader->previous != NULL)
        reader->previous->next = reader->next;
    else
        readers->first = reader->next;
    if (reader->next != NULL)
        reader->next->previous = reader->previous;
    else
        readers->last = reader->previous;
    readers->awake--;
}

bool hm_reader_wake(hm_reader *reader) {
    if (reader->awake || reader->owner == NULL)
        return false;
    reader->awake = true;
    push(reader);
    return hm_readers_list(reader->owner);
}

void hm_reader_sleep(hm_reader *reader) {
    if (!reader->awake)
        return;
    reader->awake = reader->progress = false;
    pull(reader);
}

void hm_readers_turn(hm_readers *readers) {
    hm_reader *first = readers->first;
    if (first == readers->last)
        return;
    pull(first);
    push(first);
}
