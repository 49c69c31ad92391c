/* ctl/main.c -- `saffron`, the operator's command. */
#include "ctl/checkpoint.h"
#include "ctl/diff.h"
#include "ctl/export.h"
#include "ctl/import.h"
#include "ctl/inspect.h"
#include "ctl/local.h"
#include "ctl/plan.h"
#include "ctl/program.h"
#include "ctl/ranks.h"
#include "ctl/rollback.h"
#include "ctl/status.h"
#include "ctl/trace.h"
#include "ctl/verify.h"
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"
#include "runtime/process/version.h"

#include <argp.h>
#include <stdio.h>
#include <string.h>

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} command[] = {
    {"local", ctl_local, "train one job on this machine, with all roles as processes"},
    {"status", ctl_status, "what the roles of a running job are doing"},
    {"stop", ctl_stop, "stop a running job"},
    {"export", ctl_export, "save the model of a running job, or make one of a checkpoint"},
    {"import", ctl_import, "a saved model into a running job"},
    {"checkpoint", ctl_checkpoint, "have a running job make a checkpoint now"},
    {"checkpoints", ctl_checkpoints, "the checkpoints of a folder"},
    {"verify", ctl_verify, "read all of them: are they good?"},
    {"inspect", ctl_inspect, "what a checkpoint is"},
    {"diff", ctl_diff, "what two checkpoints differ in"},
    {"rollback", ctl_rollback, "have a job go back to a checkpoint: newer ones are set aside"},
    {"plan", ctl_plan, "what a job takes: servers, memory, connections, traffic; starts nothing"},
    {"trace", ctl_trace, "the traces of a run's processes (--trace) made one file"},
    {"ranks", ctl_ranks, "a trainer's processes of one host, in a container (launch.sh calls it)"},
};

static void usage(FILE *out)
{
    fputs("Usage: saffron COMMAND [OPTION...]\n\n", out);
    for (size_t i = 0; i < ARRAY_LEN(command); i++)
        fprintf(out, "  %-11s %s\n", command[i].name, command[i].help);
    fputs("\n  saffron COMMAND --help   the options of a command\n"
          "  saffron --version        print the version\n",
          out);
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";

    argp_err_exit_status = 2;
    argp_program_version = "saffron " RT_VERSION;
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        usage(stdout);
        return 0;
    }
    if (strcmp(word, "--version") == 0) {
        puts(argp_program_version);
        return 0;
    }
    ctl_program_find_models();
    for (size_t i = 0; i < ARRAY_LEN(command); i++) {
        if (strcmp(word, command[i].name) == 0) {
            char *title = rt_xasprintf("saffron %s", word);
            int status;

            argv[1] = title;
            status = command[i].run(argc - 1, argv + 1);
            rt_free(title);
            return status;
        }
    }
    if (word[0])
        fprintf(stderr, "saffron: unknown command '%s'\n", word);
    usage(stderr);
    return 2;
}
