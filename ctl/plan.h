/* ctl/plan.h -- `saffron plan`: what a job will take, before it runs. */
#ifndef CTL_PLAN_H
#define CTL_PLAN_H

/* argv[0] is what --help calls the command. Returns the exit status. */
int ctl_plan(int argc, char **argv);

#endif
