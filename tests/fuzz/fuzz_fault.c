/* The text that tells a test which call is to fail. */
#include "fuzz.h"

FUZZ_TARGET(fault) {
  ps_fault_plan plan;
  char *text = malloc(size + 1), again[160];
  FUZZ_CHECK(text);
  if (size) memcpy(text, data, size);
  text[size] = 0;
  if (ps_fault_parse(text, &plan)) {
    FUZZ_CHECK(plan.name[0] && memchr(plan.name, 0, sizeof plan.name) && plan.nth >= 1 && plan.times >= 1);
    if (plan.action == PS_FAULT_ERRNO) {
      FUZZ_CHECK(plan.os_errno > 0);
      if (plan.nth > 3) plan.nth = 3;
      for (int64_t i = 1; i <= 4; i++) {
        bool fails = i >= plan.nth && i - plan.nth < plan.times;
        FUZZ_CHECK(ps_fault_hook(&plan, plan.name) == (fails ? plan.os_errno : 0));
      }
      FUZZ_CHECK(strcmp(plan.name, "*") == 0 || ps_fault_hook(&plan, "!") == 0 ||
                 strcmp(plan.name, "!") == 0);
    } else {
      FUZZ_CHECK(plan.action == PS_FAULT_KILL);
    }
    snprintf(again, sizeof again, "%s:%" PRId64 ":errno=5:%" PRId64, plan.name, plan.nth, plan.times);
    ps_fault_plan read;
    FUZZ_CHECK(ps_fault_parse(again, &read) && read.nth == plan.nth && strcmp(read.name, plan.name) == 0);
  }
  free(text);
}
