/* zmq_subscriber.c -- a C program on the system's libzmq: SUB, counts what it gets.
 *
 *     zmq_subscriber ADDRESS PREFIX COUNT
 *
 * Prints "ready" when a first message has come (it is not counted), and the count and the bytes of
 * the payloads when COUNT more have.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_SUB);
    if (zmq_connect(socket, argv[1]) != 0 ||
        zmq_setsockopt(socket, ZMQ_SUBSCRIBE, argv[2], strlen(argv[2])) != 0)
        return 1;
    long count = atol(argv[3]), messages = 0, bytes = 0;
    int ready = 0;
    while (messages < count) {
        char topic[256], payload[4096];
        int more = 0;
        size_t size = sizeof more;
        if (zmq_recv(socket, topic, sizeof topic, 0) < 0)
            return 1;
        zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size);
        int length = more ? zmq_recv(socket, payload, sizeof payload, 0) : -1;
        if (length < 0)
            return 1;
        if (length == 5 && memcmp(payload, "probe", 5) == 0) {
            if (!ready)
                printf("ready\n"), fflush(stdout);
            ready = 1;
            continue;
        }
        messages++;
        bytes += length;
    }
    printf("{\"received\": %ld, \"bytes\": %ld}\n", messages, bytes);
    zmq_close(socket);
    zmq_ctx_term(context);
    return 0;
}
