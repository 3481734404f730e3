/* The load generator of `make bench`: many uploads at once, in C so that it is never what the measurement waits for.

   usage: load --port PORT [--connections N] [--prefix /PATH/]
               [--fragment BYTES --file BYTES --total BYTES]    sessions: Create-Session, Fragments, Close-Session
          load --port PORT --put --fragment BYTES --total BYTES ...    PUT, one file a fragment, for servers without BITS
          load --port PORT --create --seconds S ...             Create-Session only, as many as there is time for
          load --port PORT --idle --connections N               one Ping each, then silence until standard input ends

   Each connection is a thread with a blocking socket: one request, one Ack, as the protocol wants it. Every answer is
   checked; the first wrong one ends the program with exit code 1 and a sentence. One line of JSON on standard output tells
   what was done. An Ack's time runs from the first byte of its request to the last byte of the answer. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PROTOCOL "{7df0354d-249b-430f-820d-3d2a9bef4931}"
#define BLOCK (256 * 1024)
#define PATTERN (4 * 1024 * 1024)
#define SOCKET_MEMORY (256 * 1024 * 1024)   /* more than what can be under way between load and server at once */

struct connection {
    pthread_t thread;
    int socket;
    uint64_t requests, bytes;
    double *ack_times;      /* seconds, of fragments (or PUTs, or Create-Sessions) */
    size_t acks, acks_room;
};

struct answer {
    int status;
    char head[16 * 1024];
};

static int port, connections = 16;
static uint64_t fragment_size = 1 << 20, file_size = 64 << 20, total_size = (uint64_t)1 << 30;
static double seconds = 3;
static const char *prefix = "/";
static uint8_t pattern[PATTERN + BLOCK];    /* byte p of file n is pattern[(p + n * 4099) % PATTERN] */
static atomic_uint_fast64_t next_file;
static double deadline;
static int ballast;
static atomic_uint_fast64_t ballast_gone;

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    fflush(stderr);
    _exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fill_pattern(void)
{
    uint64_t x = 88172645463325252u;
    for (size_t i = 0; i < PATTERN; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(pattern + i, &x, 8);
    }
    memcpy(pattern + PATTERN, pattern, BLOCK);
}

/* As much memory as the server is going to fill, used once already, to be let go fragment by fragment.

   A virtual machine may have handed its free memory back to its host. The first touch of such a page takes many times as
   long as the write that caused it, lands on the server's bill, and depends on who used the memory before. With the ballast
   every page the server is given has just been let go here. */
static void take_ballast(uint64_t size)
{
    if ((ballast = memfd_create("ballast", MFD_CLOEXEC)) < 0)
        fail("memfd_create: %s", strerror(errno));
    for (uint64_t at = 0; at < size; at += BLOCK)
        if (pwrite(ballast, pattern, BLOCK, at) != BLOCK)
            fail("not enough memory for %" PRIu64 " bytes of ballast", size);
}

static void drop_ballast(uint64_t length)
{
    uint64_t at = atomic_fetch_add(&ballast_gone, length);
    if (fallocate(ballast, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length))
        fail("fallocate: %s", strerror(errno));
}

static double cpu_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static int open_socket(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {.tv_sec = 60};
    if (s < 0 || setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int))
        || setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience)
        || setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience)
        || connect(s, (struct sockaddr *)&address, sizeof address))
        fail("cannot connect to 127.0.0.1:%d: %s", port, strerror(errno));
    return s;
}

/* False when the server has turned away: its answer may still be there to read. */
static bool send_all(int s, const void *data, size_t length, int flags)
{
    const char *p = data;
    while (length) {
        ssize_t sent = send(s, p, length, flags | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
            return false;
        if (sent < 0)
            fail("send: %s", strerror(errno));
        p += sent;
        length -= sent;
    }
    return true;
}

/* The value of a header, written into `value`; false when it is not there. */
static bool header(const struct answer *answer, const char *name, char *value, size_t size)
{
    char line[64];
    snprintf(line, sizeof line, "\r\n%s:", name);
    const char *found = strcasestr(answer->head, line);
    if (!found)
        return false;
    found += strlen(line);
    found += strspn(found, " ");
    size_t length = strcspn(found, "\r\n");
    if (length >= size)
        fail("the header %s is too long", name);
    memcpy(value, found, length);
    value[length] = 0;
    return true;
}

static void read_answer(int s, struct answer *answer)
{
    size_t have = 0;
    char *end = NULL, value[32];
    while (!end) {
        ssize_t got = recv(s, answer->head + have, sizeof answer->head - 1 - have, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            fail("no answer: %s", strerror(errno));
        if (got == 0)
            fail(have ? "the connection ended inside an answer" : "the connection ended without an answer");
        have += got;
        answer->head[have] = 0;
        end = strstr(answer->head, "\r\n\r\n");
        if (!end && have == sizeof answer->head - 1)
            fail("the head of an answer is too long");
    }
    if (sscanf(answer->head, "HTTP/1.1 %d", &answer->status) != 1)
        fail("not an HTTP/1.1 answer: %.60s", answer->head);
    size_t body = header(answer, "Content-Length", value, sizeof value) ? strtoull(value, NULL, 10) : 0;
    size_t body_have = answer->head + have - (end + 4);
    if (body_have > body)
        fail("the answer is longer than its Content-Length");
    if (body != body_have)      /* no Ack has a body, and a PUT's fits into one read: an error page */
        fail("the answer has a body: %.600s", answer->head);
    end[2] = 0;
}

static void expect(const struct answer *answer, int status, const char *packet)
{
    char type[32];
    if (answer->status != status)
        fail("%s was answered with:\n%s", packet, answer->head);
    if (strcmp(packet, "PUT") && (!header(answer, "BITS-Packet-Type", type, sizeof type) || strcasecmp(type, "Ack")))
        fail("%s was not answered with an Ack:\n%s", packet, answer->head);
}

/* One request, one answer; the body, if any, is the bytes of `file` from `first` on. */
static void say(struct connection *c, struct answer *answer, const char *head, uint64_t file, uint64_t first, uint64_t length)
{
    bool listening = send_all(c->socket, head, strlen(head), length ? MSG_MORE : 0);
    for (uint64_t at = first; listening && at < first + length;) {
        uint64_t left = first + length - at, piece = left < BLOCK ? left : BLOCK;
        listening = send_all(c->socket, pattern + (at + file * 4099) % PATTERN, piece, 0);
        at += piece;
    }
    read_answer(c->socket, answer);
    c->requests++;
}

static void note_ack(struct connection *c, double began)
{
    if (c->acks == c->acks_room) {
        c->acks_room = c->acks_room ? c->acks_room * 2 : 1024;
        c->ack_times = realloc(c->ack_times, c->acks_room * sizeof *c->ack_times);
        if (!c->ack_times)
            fail("out of memory");
    }
    c->ack_times[c->acks++] = now() - began;
}

static void create_session(struct connection *c, uint64_t file, char *session, size_t size)
{
    struct answer answer;
    char head[1024];
    snprintf(head, sizeof head,
             "BITS_POST %sfile-%" PRIu64 " HTTP/1.1\r\nAccept: */*\r\nBITS-Packet-Type: Create-Session\r\n"
             "BITS-Supported-Protocols: " PROTOCOL "\r\nUser-Agent: bitsferry-bench\r\nHost: 127.0.0.1:%d\r\n"
             "Content-Length: 0\r\nConnection: Keep-Alive\r\n\r\n", prefix, file, port);
    say(c, &answer, head, 0, 0, 0);
    expect(&answer, 200, "Create-Session");
    if (!header(&answer, "BITS-Session-Id", session, size))
        fail("no BITS-Session-Id in:\n%s", answer.head);
}

static void send_fragment(struct connection *c, uint64_t file, const char *session, uint64_t first, uint64_t length)
{
    struct answer answer;
    char head[1024], received[32];
    snprintf(head, sizeof head,
             "BITS_POST %sfile-%" PRIu64 " HTTP/1.1\r\nAccept: */*\r\nBITS-Packet-Type: Fragment\r\n"
             "BITS-Session-Id: %s\r\nContent-Name: file-%" PRIu64 "\r\nContent-Range: bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64 "\r\n"
             "User-Agent: bitsferry-bench\r\nHost: 127.0.0.1:%d\r\nContent-Length: %" PRIu64 "\r\nConnection: Keep-Alive\r\n\r\n",
             prefix, file, session, file, first, first + length - 1, file_size, port, length);
    drop_ballast(length);
    double began = now();
    say(c, &answer, head, file, first, length);
    note_ack(c, began);
    expect(&answer, 200, "Fragment");
    if (!header(&answer, "BITS-Received-Content-Range", received, sizeof received)
        || strtoull(received, NULL, 10) != first + length)
        fail("the Ack of bytes %" PRIu64 "-%" PRIu64 " should count %" PRIu64 ":\n%s", first, first + length - 1,
             first + length, answer.head);
    c->bytes += length;
}

static void close_session(struct connection *c, uint64_t file, const char *session)
{
    struct answer answer;
    char head[1024];
    snprintf(head, sizeof head,
             "BITS_POST %sfile-%" PRIu64 " HTTP/1.1\r\nAccept: */*\r\nBITS-Packet-Type: Close-Session\r\n"
             "BITS-Session-Id: %s\r\nUser-Agent: bitsferry-bench\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n"
             "Connection: Keep-Alive\r\n\r\n", prefix, file, session, port);
    say(c, &answer, head, 0, 0, 0);
    expect(&answer, 200, "Close-Session");
}

static void *upload(void *argument)
{
    struct connection *c = argument;
    char session[256];
    for (uint64_t file; (file = next_file++) < total_size / file_size;) {
        create_session(c, file, session, sizeof session);
        for (uint64_t at = 0; at < file_size; at += fragment_size)
            send_fragment(c, file, session, at, file_size - at < fragment_size ? file_size - at : fragment_size);
        close_session(c, file, session);
    }
    return NULL;
}

static void *put(void *argument)
{
    struct connection *c = argument;
    struct answer answer;
    char head[1024];
    for (uint64_t file; (file = next_file++) < total_size / fragment_size;) {
        snprintf(head, sizeof head,
                 "PUT %sname-%" PRIu64 " HTTP/1.1\r\nAccept: */*\r\nUser-Agent: bitsferry-bench\r\nHost: 127.0.0.1:%d\r\n"
                 "Content-Length: %" PRIu64 "\r\nConnection: Keep-Alive\r\n\r\n", prefix, file, port, fragment_size);
        drop_ballast(fragment_size);
        double began = now();
        say(c, &answer, head, file, 0, fragment_size);
        note_ack(c, began);
        expect(&answer, 201, "PUT");
        c->bytes += fragment_size;
    }
    return NULL;
}

static void *create(void *argument)
{
    struct connection *c = argument;
    char session[256];
    for (double began; (began = now()) < deadline;) {
        create_session(c, next_file++, session, sizeof session);
        note_ack(c, began);
    }
    return NULL;
}

static void ping(struct connection *c)
{
    struct answer answer;
    char head[512];
    snprintf(head, sizeof head,
             "BITS_POST %sidle HTTP/1.1\r\nAccept: */*\r\nBITS-Packet-Type: Ping\r\nUser-Agent: bitsferry-bench\r\n"
             "Host: 127.0.0.1:%d\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n\r\n", prefix, port);
    double began = now();
    say(c, &answer, head, 0, 0, 0);
    note_ack(c, began);
    expect(&answer, 200, "Ping");
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const struct connection *all, double elapsed, double cpu)
{
    uint64_t bytes = 0, requests = 0;
    size_t acks = 0;
    for (int i = 0; i < connections; i++)
        bytes += all[i].bytes, requests += all[i].requests, acks += all[i].acks;
    double *times = malloc((acks + 1) * sizeof *times), *end = times;
    if (!times)
        fail("out of memory");
    for (int i = 0; i < connections; i++)
        for (size_t k = 0; k < all[i].acks; k++)
            *end++ = all[i].ack_times[k];
    qsort(times, acks, sizeof *times, by_size);
    printf("{\"bytes\": %" PRIu64 ", \"requests\": %" PRIu64 ", \"acks\": %zu, \"seconds\": %.6f, \"cpu_seconds\": %.6f, "
           "\"ack_p50\": %.6f, \"ack_p99\": %.6f}\n", bytes, requests, acks, elapsed, cpu,
           acks ? times[acks / 2] : 0, acks ? times[acks * 99 / 100] : 0);
    fflush(stdout);
    free(times);
}

int main(int argc, char **argv)
{
    enum { PORT = 1, CONNECTIONS, PREFIX, FRAGMENT, FILE_SIZE, TOTAL, SECONDS, PUT, CREATE, IDLE };
    static const struct option options[] = {
        {"port", 1, NULL, PORT}, {"connections", 1, NULL, CONNECTIONS}, {"prefix", 1, NULL, PREFIX},
        {"fragment", 1, NULL, FRAGMENT}, {"file", 1, NULL, FILE_SIZE}, {"total", 1, NULL, TOTAL},
        {"seconds", 1, NULL, SECONDS}, {"put", 0, NULL, PUT}, {"create", 0, NULL, CREATE}, {"idle", 0, NULL, IDLE}, {0},
    };
    void *(*work)(void *) = upload;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (option) {
        case PORT: port = atoi(optarg); break;
        case CONNECTIONS: connections = atoi(optarg); break;
        case PREFIX: prefix = optarg; break;
        case FRAGMENT: fragment_size = strtoull(optarg, NULL, 10); break;
        case FILE_SIZE: file_size = strtoull(optarg, NULL, 10); break;
        case TOTAL: total_size = strtoull(optarg, NULL, 10); break;
        case SECONDS: seconds = atof(optarg); break;
        case PUT: work = put; break;
        case CREATE: work = create; break;
        case IDLE: work = NULL; break;
        default: return 2;
        }
    if (port <= 0 || connections <= 0 || !fragment_size || !file_size) {
        fprintf(stderr, "load: --port is needed; sizes and --connections are above zero\n");
        return 2;
    }
    struct connection *all = calloc(connections, sizeof *all);
    if (!all)
        fail("out of memory");
    fill_pattern();
    if (work == upload || work == put)
        take_ballast(total_size + SOCKET_MEMORY);
    double began = now(), cpu_began = cpu_seconds();
    for (int i = 0; i < connections; i++) {
        all[i].socket = open_socket();
        if (!work)
            ping(&all[i]);
    }
    if (!work) {
        report(all, now() - began, cpu_seconds() - cpu_began);
        while (getchar() != EOF)
            ;
        return 0;
    }
    if (ballast)
        drop_ballast(SOCKET_MEMORY);
    began = now(), cpu_began = cpu_seconds();
    deadline = began + seconds;
    for (int i = 0; i < connections; i++)
        if (pthread_create(&all[i].thread, NULL, work, &all[i]))
            fail("cannot start a thread");
    for (int i = 0; i < connections; i++)
        pthread_join(all[i].thread, NULL);
    report(all, now() - began, cpu_seconds() - cpu_began);
    return 0;
}
