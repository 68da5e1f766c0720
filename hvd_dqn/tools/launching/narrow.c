/* Preloaded into a launcher (LD_PRELOAD), so that it listens on one network interface instead of all:
 * mpirun has no option for that. HVD_DQN_LISTEN_ON names the interface. The library acts in the
 * processes named below and does not reach their children, such as the ranks. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <ifaddrs.h>
#include <libgen.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *const LAUNCHERS[] = {"prterun", "prte", "orterun", "mpiexec.hydra"};

static int active;
/* An interface without an address of a family listens on that family's loopback address. */
static struct in_addr old_address;
static struct in6_addr new_address;

static int is_launcher(void) {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = '\0';
  const char *name = basename(path);
  for (size_t i = 0; i < sizeof LAUNCHERS / sizeof *LAUNCHERS; i++)
    if (strcmp(name, LAUNCHERS[i]) == 0) return 1;
  return 0;
}

/* Take this library, the first of the list, out of what children preload. The variable stays, since
 * horovodrun names it among those that mpirun passes on. */
static void release_children(void) {
  const char *listed = getenv("LD_PRELOAD");
  const char *others = listed ? strchr(listed, ':') : NULL;
  setenv("LD_PRELOAD", others ? others + 1 : "", 1);
}

static void find_addresses(const char *interface) {
  struct ifaddrs *all;
  old_address.s_addr = htonl(INADDR_LOOPBACK);
  new_address = in6addr_loopback;
  if (getifaddrs(&all) != 0) return;
  for (const struct ifaddrs *one = all; one; one = one->ifa_next) {
    if (!one->ifa_addr || strcmp(one->ifa_name, interface) != 0) continue;
    if (one->ifa_addr->sa_family == AF_INET)
      old_address = ((const struct sockaddr_in *)one->ifa_addr)->sin_addr;
    const struct in6_addr *found = &((const struct sockaddr_in6 *)one->ifa_addr)->sin6_addr;
    if (one->ifa_addr->sa_family == AF_INET6 && !IN6_IS_ADDR_LINKLOCAL(found)) new_address = *found;
  }
  freeifaddrs(all);
}

__attribute__((constructor)) static void begin(void) {
  const char *interface = getenv("HVD_DQN_LISTEN_ON");
  if (!interface || !is_launcher()) return;
  find_addresses(interface);
  release_children();
  active = 1;
}

static int is_stream(int fd) {
  int type = 0;
  socklen_t size = sizeof type;
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

__attribute__((visibility("default"))) int bind(int fd, const struct sockaddr *address,
                                                socklen_t size) {
  static int (*next)(int, const struct sockaddr *, socklen_t);
  if (!next) next = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "bind");
  struct sockaddr_storage narrow;
  if (active && size <= sizeof narrow && is_stream(fd)) {
    memcpy(&narrow, address, size);
    struct sockaddr_in *old = (struct sockaddr_in *)&narrow;
    struct sockaddr_in6 *new = (struct sockaddr_in6 *)&narrow;
    if (narrow.ss_family == AF_INET && old->sin_addr.s_addr == htonl(INADDR_ANY))
      old->sin_addr = old_address;
    if (narrow.ss_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&new->sin6_addr))
      new->sin6_addr = new_address;
    return next(fd, (const struct sockaddr *)&narrow, size);
  }
  return next(fd, address, size);
}
