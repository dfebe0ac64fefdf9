/* The hook behind ps_os.h's seam that tests arm: at the nth call of a verb or point, fail or die. */
#include "ps_os.h"

#include <signal.h>
#include <unistd.h>

bool ps_fault_parse(const char *text, ps_fault_plan *plan) {
  memset(plan, 0, sizeof *plan);
  const char *colon = strchr(text, ':');
  if (!colon || colon == text || (size_t)(colon - text) >= sizeof plan->name) return false;
  memcpy(plan->name, text, (size_t)(colon - text));
  char *end;
  plan->nth = strtoll(colon + 1, &end, 10);
  plan->times = 1;
  if (plan->nth < 1 || *end != ':') return false;
  if (strcmp(end + 1, "kill") == 0) {
    plan->action = PS_FAULT_KILL;
    return true;
  }
  if (strncmp(end + 1, "errno=", 6) != 0) return false;
  plan->os_errno = (int)strtol(end + 7, &end, 10);
  if (*end == ':') plan->times = strtoll(end + 1, &end, 10);
  plan->action = PS_FAULT_ERRNO;
  return plan->os_errno > 0 && plan->times >= 1 && *end == '\0';
}

int ps_fault_hook(void *context, const char *name) {
  ps_fault_plan *plan = context;
  if (plan->action == PS_FAULT_NONE) return 0;
  bool any = strcmp(plan->name, "*") == 0;
  if (!any && strcmp(plan->name, name) != 0) return 0;
  int64_t n = __atomic_add_fetch(&plan->seen, 1, __ATOMIC_SEQ_CST);
  if (plan->action == PS_FAULT_KILL) {
    if (n == plan->nth) {
      kill(getpid(), SIGKILL);
      for (;;) pause(); /* the signal takes the whole process; no store may follow it */
    }
    return 0;
  }
  return n >= plan->nth && n - plan->nth < plan->times ? plan->os_errno : 0;
}
