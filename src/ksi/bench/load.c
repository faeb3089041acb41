/* Load generator: sends prepared lines over Unix sockets, keeps a window of them in flight, counts newlines that come
   back. Spends as little as it can, so that what is measured is the server.

   usage: load SOCKET FILE CONNECTIONS WINDOW COUNT
   FILE holds the lines; they are sent round and round. Prints: answers seconds errors (lines with "ok":false). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (1 << 18)
static const char *text;
static size_t *starts;
static size_t lines;

struct peer { int fd; size_t next; long owed; size_t offset; };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int dial(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) { perror("connect"); exit(2); }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

/* Write as many owed lines as the socket takes; lines follow each other in memory, so a run of them is one write. */
static void pay(struct peer *p) {
    while (p->owed > 0) {
        size_t run = lines - p->next;
        if ((long)run > p->owed) run = p->owed;
        size_t from = starts[p->next] + p->offset, size = starts[p->next + run] - from;
        ssize_t sent = write(p->fd, text + from, size);
        if (sent < 0) { if (errno == EAGAIN) return; perror("write"); exit(2); }
        size_t end = from + sent;
        while (p->next < lines && starts[p->next + 1] <= end) { p->next++; p->owed--; }
        p->offset = end - starts[p->next];
        if (p->next == lines) { p->next = 0; p->offset = 0; }
    }
}

int main(int argc, char **argv) {
    if (argc != 6) { fprintf(stderr, "usage: load SOCKET FILE CONNECTIONS WINDOW COUNT\n"); return 2; }
    int connections = atoi(argv[3]); long window = atol(argv[4]), count = atol(argv[5]);
    int file = open(argv[2], O_RDONLY);
    struct stat info;
    if (file < 0 || fstat(file, &info)) { perror("file"); return 2; }
    text = mmap(NULL, info.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    starts = malloc(sizeof(size_t) * (info.st_size + 2));
    starts[lines++] = 0;
    for (off_t i = 0; i < info.st_size; i++) if (text[i] == '\n') starts[lines++] = i + 1;
    lines--;
    struct peer *peers = calloc(connections, sizeof *peers);
    struct pollfd *polls = calloc(connections, sizeof *polls);
    long asked = 0, answered = 0, errors = 0;
    for (int i = 0; i < connections; i++) {
        peers[i].fd = polls[i].fd = dial(argv[1]);
        peers[i].next = (lines / connections) * i % lines;
        peers[i].owed = window;
        asked += window;
    }
    static char buffer[BUFFER];
    double begin = now();
    for (int i = 0; i < connections; i++) pay(&peers[i]);
    while (answered < count) {
        for (int i = 0; i < connections; i++) polls[i].events = POLLIN | (peers[i].owed > 0 ? POLLOUT : 0);
        if (poll(polls, connections, 30000) <= 0) { fprintf(stderr, "no answer for 30 s\n"); return 3; }
        for (int i = 0; i < connections; i++) {
            if (polls[i].revents & (POLLIN | POLLHUP)) {
                ssize_t got = read(peers[i].fd, buffer, BUFFER - 1);
                if (got == 0) { fprintf(stderr, "connection closed\n"); return 3; }
                if (got < 0) { if (errno == EAGAIN) continue; perror("read"); return 2; }
                buffer[got] = 0;
                long seen = 0;
                for (char *c = buffer; (c = memchr(c, '\n', buffer + got - c)); c++) seen++;
                for (char *c = buffer; (c = strstr(c, "\"ok\":false")); c += 10) errors++;
                answered += seen;
                long more = count - asked < seen ? count - asked : seen;
                if (more > 0) { asked += more; peers[i].owed += more; }
            }
            if (peers[i].owed > 0) pay(&peers[i]);
        }
    }
    printf("%ld %.6f %ld\n", answered, now() - begin, errors);
    return 0;
}
