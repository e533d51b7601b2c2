/* New TCP connections between network namespaces, several paths compared in one run.
 *
 * connect_bench MILLISECONDS ADDRESS PORT CLIENT SERVER [CLIENT SERVER ...]
 *
 * CLIENT and SERVER are paths of network namespaces.  For each pair a child process enters SERVER,
 * listens on ADDRESS, accepts and closes.  The parent takes the pairs in turn, a few milliseconds
 * each: it enters CLIENT and connects and resets, one connection after another.  Over veth both
 * handshakes and everything between run in the connecting thread's own time, so the time of one
 * connection is that of its packets' way.  Turns this short let every pair meet the same
 * disturbances of a shared machine; the median over turns is what to compare.  Prints for each
 * pair "MEDIAN_CPU_NS MEDIAN_WALL_NS CONNECTIONS CONNECT_P50_NS", the last of single calls of connect.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 4096
#define TURN_NS 4000000LL
#define MAX_PAIRS 16
#define STEP_NS 50
#define STEPS 40000 /* up to 2 ms; what takes longer counts as that */

struct pair {
    int client_netns;
    pid_t server;
    long long connections;
    double *cpu, *wall; /* nanoseconds a connection, of each turn */
    long *calls;        /* how many connects took so many steps */
    int turns;
};

static void die(const char *what) {
    fprintf(stderr, "connect_bench: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_netns(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) die(path);
    return fd;
}

static void enter(int netns) {
    if (setns(netns, CLONE_NEWNET) < 0) die("setns");
}

static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set); /* with one CPU it fails, and nothing is lost */
}

static void serve(int netns, const struct addrinfo *where, int ready) {
    int one = 1;
    enter(netns);
    int fd = socket(where->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, where->ai_addr, where->ai_addrlen) < 0) die("bind");
    if (listen(fd, BACKLOG) < 0) die("listen");
    if (write(ready, "r", 1) != 1) die("write");
    for (;;) {
        int got = accept(fd, NULL, NULL);
        if (got >= 0) close(got);
    }
}

static pid_t start_server(int netns, const struct addrinfo *where) {
    int ready[2];
    char byte;
    if (pipe(ready) < 0) die("pipe");
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin(1);
        close(ready[0]);
        serve(netns, where, ready[1]);
    }
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1) die("server");
    close(ready[0]);
    return child;
}

static long long now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void take_turn(struct pair *pair, const struct addrinfo *where) {
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    enter(pair->client_netns);
    long long cpu = now_ns(CLOCK_THREAD_CPUTIME_ID), start = now_ns(CLOCK_MONOTONIC), now = start;
    int count = 0;
    while (now - start < TURN_NS) {
        int fd = socket(where->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0) die("socket");
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        long long before = now_ns(CLOCK_MONOTONIC);
        if (connect(fd, where->ai_addr, where->ai_addrlen) < 0) die("connect");
        long long steps = (now_ns(CLOCK_MONOTONIC) - before) / STEP_NS;
        pair->calls[steps < STEPS ? steps : STEPS - 1]++;
        close(fd);
        count++;
        now = now_ns(CLOCK_MONOTONIC);
    }
    pair->cpu[pair->turns] = (double)(now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu) / count;
    pair->wall[pair->turns] = (double)(now - start) / count;
    pair->turns++;
    pair->connections += count;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count) {
    qsort(values, count, sizeof *values, ascending);
    return values[count / 2];
}

static long long typical_call_ns(const struct pair *pair) {
    long long seen = 0;
    int step = 0;
    while (step < STEPS - 1 && (seen += pair->calls[step]) * 2 < pair->connections) step++;
    return (long long)step * STEP_NS + STEP_NS / 2;
}

int main(int argc, char **argv) {
    int pairs = (argc - 4) / 2;
    if (argc < 6 || argc % 2 != 0 || pairs > MAX_PAIRS) {
        fprintf(stderr, "usage: connect_bench MILLISECONDS ADDRESS PORT CLIENT SERVER ...\n");
        return 2;
    }
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *where;
    if (getaddrinfo(argv[2], argv[3], &hints, &where) != 0) die("address");
    struct pair all[MAX_PAIRS];
    int turns = (int)(atoll(argv[1]) * 1000000LL / TURN_NS / pairs) + 2;
    for (int i = 0; i < pairs; i++) {
        all[i] = (struct pair){.client_netns = open_netns(argv[4 + 2 * i])};
        all[i].cpu = calloc(turns, sizeof(double));
        all[i].wall = calloc(turns, sizeof(double));
        all[i].calls = calloc(STEPS, sizeof(long));
        if (!all[i].cpu || !all[i].wall || !all[i].calls) die("calloc");
        all[i].server = start_server(open_netns(argv[5 + 2 * i]), where);
    }
    pin(0);
    for (int turn = 0; turn < turns; turn++)
        for (int i = 0; i < pairs; i++) take_turn(&all[(turn + i) % pairs], where);
    for (int i = 0; i < pairs; i++) {
        printf("%.0f %.0f %lld %lld\n", median(all[i].cpu, all[i].turns),
               median(all[i].wall, all[i].turns), all[i].connections, typical_call_ns(&all[i]));
        kill(all[i].server, SIGKILL);
        waitpid(all[i].server, NULL, 0);
    }
    return 0;
}
