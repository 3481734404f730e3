/* The plain C loop: the least a server can do to store uploads, the yardstick of `make bench`.

   usage: loop PORT FOLDER [--no-sync | --discard]

   One thread, one epoll, one buffer of 256 KiB: read a head, read() the body, write() it into the session's file, fdatasync()
   before the Ack. No splice, no pools, and nothing of what makes a real server: no rights, no resuming, no checks, no
   timeouts, no crash safety beyond the fdatasync. A session lives on the connection that created it, its file stays in FOLDER.
   With --discard nothing is kept: what a client costs can be measured against that. Port 0 takes a free one; the line
   `listening on http://127.0.0.1:PORT/` says which. SIGTERM ends it. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PROTOCOL "{7df0354d-249b-430f-820d-3d2a9bef4931}"

struct connection {
    int socket, file;       /* file: that of the session, -1 before Create-Session */
    uint64_t session;       /* its number, the tail of the session id */
    uint64_t body_left;     /* bytes of the fragment that are still to come */
    uint64_t next;          /* what the Ack of the fragment will say */
    size_t head_length;
    char head[8192];
};

static char block[256 * 1024];
static const char *folder;
static bool sync_fragments = true, discard;

static void fail(const char *what)
{
    fprintf(stderr, "loop: %s: %s\n", what, strerror(errno));
    exit(1);
}

static const char *header(const struct connection *c, const char *name)
{
    char line[64];
    snprintf(line, sizeof line, "\r\n%s:", name);
    const char *found = strcasestr(c->head, line);
    return found ? found + strlen(line) + strspn(found + strlen(line), " ") : NULL;
}

static bool is_packet(const struct connection *c, const char *type)
{
    const char *value = header(c, "BITS-Packet-Type");
    return value && !strncasecmp(value, type, strlen(type));
}

static bool answer(struct connection *c, const char *status, const char *more)
{
    char ack[512];
    int length = snprintf(ack, sizeof ack,
                          "HTTP/1.1 %s\r\nPragma: no-cache\r\nBITS-Packet-Type: Ack\r\n%sContent-Length: 0\r\n\r\n", status, more);
    return write(c->socket, ack, length) == length;
}

static bool ack_fragment(struct connection *c)
{
    char more[64];
    if (sync_fragments && fdatasync(c->file))
        fail("fdatasync");
    snprintf(more, sizeof more, "BITS-Received-Content-Range: %" PRIu64 "\r\n", c->next);
    return answer(c, "200 OK", more);
}

static void close_session(struct connection *c)
{
    if (c->file >= 0)
        close(c->file);
    c->file = -1;
}

static bool create_session(struct connection *c)
{
    static uint64_t sessions;
    char path[4096], more[256];
    close_session(c);
    c->session = ++sessions;
    snprintf(path, sizeof path, "%s/session-%012" PRIx64, folder, c->session);
    c->file = discard ? open("/dev/null", O_WRONLY | O_CLOEXEC) : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (c->file < 0)
        fail(path);
    snprintf(more, sizeof more,
             "BITS-Protocol: " PROTOCOL "\r\nBITS-Session-Id: {00000000-0000-0000-0000-%012" PRIX64 "}\r\n"
             "Accept-Encoding: identity\r\n", c->session);
    return answer(c, "200 OK", more);
}

/* The head is complete: answer it, or get ready for its body. */
static bool take_head(struct connection *c)
{
    const char *length = header(c, "Content-Length"), *range = header(c, "Content-Range");
    uint64_t first, last, total;

    c->body_left = length ? strtoull(length, NULL, 10) : 0;
    if (is_packet(c, "Create-Session"))
        return create_session(c);
    if (is_packet(c, "Fragment")) {
        if (c->file < 0 || !range
            || sscanf(range, "bytes %" SCNu64 "-%" SCNu64 "/%" SCNu64, &first, &last, &total) != 3
            || last + 1 - first != c->body_left)
            return answer(c, "400 Bad Request", "") && false;
        c->next = last + 1;
        return c->body_left > 0 || ack_fragment(c);
    }
    if (is_packet(c, "Close-Session") || is_packet(c, "Cancel-Session"))
        close_session(c);
    return answer(c, "200 OK", "");
}

static bool take_body(struct connection *c, const char *data, size_t length)
{
    while (length) {
        ssize_t written = write(c->file, data, length);
        if (written < 0)
            fail("write");
        data += written;
        length -= written;
        c->body_left -= written;
    }
    return c->body_left > 0 || ack_fragment(c);
}

/* What was just read is in the block: a piece of a body, a head, or the end of one with the start of the other. */
static bool feed(struct connection *c, const char *data, size_t length)
{
    while (length) {
        if (c->body_left) {
            size_t piece = length < c->body_left ? length : c->body_left;
            if (!take_body(c, data, piece))
                return false;
            data += piece;
            length -= piece;
            continue;
        }
        size_t before = c->head_length, room = sizeof c->head - 1 - before;
        size_t piece = length < room ? length : room;
        memcpy(c->head + before, data, piece);
        c->head[before + piece] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end && piece == room)
            return false;
        size_t used = end ? (size_t)(end + 4 - c->head) - before : piece;
        c->head_length += used;
        data += used;
        length -= used;
        if (end) {
            end[2] = 0;
            c->head_length = 0;
            if (!take_head(c))
                return false;
        }
    }
    return true;
}

static void end_connection(struct connection *c)
{
    close_session(c);
    close(c->socket);
    free(c);
}

static int listen_on(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int))
        || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024)
        || getsockname(listener, (struct sockaddr *)&address, &size))
        fail("listen");
    printf("listening on http://127.0.0.1:%d/\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void accept_connection(int listener, int epoll)
{
    int socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (socket < 0)
        return;
    struct connection *c = calloc(1, sizeof *c);
    if (!c)
        fail("calloc");
    c->socket = socket;
    c->file = -1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c}))
        fail("epoll_ctl");
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: loop PORT FOLDER [--no-sync | --discard]\n");
        return 2;
    }
    folder = argv[2];
    discard = argc > 3 && !strcmp(argv[3], "--discard");
    sync_fragments = !discard && !(argc > 3 && !strcmp(argv[3], "--no-sync"));
    signal(SIGPIPE, SIG_IGN);

    int epoll = epoll_create1(EPOLL_CLOEXEC), listener = listen_on(atoi(argv[1]));
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL}))
        fail("epoll_ctl");
    for (;;) {
        struct epoll_event events[64];
        int ready = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                accept_connection(listener, epoll);
                continue;
            }
            ssize_t got = read(c->socket, block, sizeof block);
            if (got < 0 && (errno == EAGAIN || errno == EINTR))
                continue;
            if (got <= 0 || !feed(c, block, got))
                end_connection(c);
        }
    }
}
