/* The plain C sender: the least a client can do to send a file, the yardstick of `bench/client_cpu.py`.

   usage: sendfile PORT TARGET FILE

   One blocking connection to 127.0.0.1: Create-Session, the whole file as one Fragment by sendfile(), Close-Session. It hears no
   early answer, shows no progress, resumes nothing. Prints its CPU time in seconds. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROTOCOL "{7df0354d-249b-430f-820d-3d2a9bef4931}"

static char answer[8192];

static void fail(const char *what)
{
    fprintf(stderr, "sendfile: %s: %s\n", what, strerror(errno));
    exit(1);
}

__attribute__((format(printf, 2, 3))) static void say(int line, const char *format, ...)
{
    char head[4096];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(head, sizeof head, format, values);
    va_end(values);
    if (send(line, head, length, MSG_NOSIGNAL) != length)
        fail("send");
}

static void hear(int line)
{
    size_t have = 0;
    do {
        ssize_t got = recv(line, answer + have, sizeof answer - 1 - have, 0);
        if (got <= 0)
            fail("no answer");
        answer[have += got] = 0;
    } while (!strstr(answer, "\r\n\r\n"));
    if (strncmp(answer, "HTTP/1.1 200 ", 13)) {
        fprintf(stderr, "sendfile: the server said %.60s\n", answer);
        exit(1);
    }
}

int main(int count, char **arguments)
{
    if (count != 4) {
        fprintf(stderr, "usage: sendfile PORT TARGET FILE\n");
        return 2;
    }
    const char *target = arguments[2];
    struct stat status;
    int file = open(arguments[3], O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status))
        fail(arguments[3]);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int line = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (line < 0 || setsockopt(line, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int))
        || connect(line, (struct sockaddr *)&address, sizeof address))
        fail("connect");

    say(line, "BITS_POST %s HTTP/1.1\r\nHost: bench\r\nBITS-Packet-Type: Create-Session\r\n"
              "BITS-Supported-Protocols: " PROTOCOL "\r\nContent-Length: 0\r\n\r\n", target);
    hear(line);
    char session[64];
    char *found = strcasestr(answer, "\r\nBITS-Session-Id:");
    if (!found || sscanf(found + 18, "%63s", session) != 1)
        fail("no session id");

    off_t size = status.st_size, offset = 0;
    say(line, "BITS_POST %s HTTP/1.1\r\nHost: bench\r\nBITS-Packet-Type: Fragment\r\nBITS-Session-Id: %s\r\n"
              "Content-Range: bytes 0-%jd/%jd\r\nContent-Length: %jd\r\n\r\n",
        target, session, (intmax_t)size - 1, (intmax_t)size, (intmax_t)size);
    while (offset < size)
        if (sendfile(line, file, &offset, size - offset) <= 0)
            fail("sendfile");
    hear(line);

    say(line, "BITS_POST %s HTTP/1.1\r\nHost: bench\r\nBITS-Packet-Type: Close-Session\r\nBITS-Session-Id: %s\r\n"
              "Content-Length: 0\r\n\r\n", target, session);
    hear(line);

    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("%.6f\n", used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    return 0;
}
