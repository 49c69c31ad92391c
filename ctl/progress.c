/* ctl/progress.c -- the bar, the plain lines, and how figures are written.
 *
 * Before the first batch there is nothing to count: then the line says who waits for whom. The share of
 * the work that is done is known once an epoch's size is: from the data set, or after the first epoch. */
#include "ctl/progress.h"
#include "runtime/base/clock.h"
#include "runtime/base/strbuf.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LINE_EVERY_NS (5 * RT_S)
#define BAR_CELLS     12 /* the whole line fits in 80 columns */

void ctl_progress_init(struct ctl_progress *progress, bool quiet)
{
    const char *term = getenv("TERM");

    *progress = (struct ctl_progress){.quiet = quiet};
    progress->terminal = isatty(STDOUT_FILENO) && (!term || strcmp(term, "dumb") != 0);
}

static void wipe(struct ctl_progress *progress)
{
    if (progress->drawn)
        fputs("\r\033[K", stdout);
    progress->drawn = false;
}

void ctl_progress_say(struct ctl_progress *progress, const char *fmt, ...)
{
    va_list args;

    if (progress->quiet)
        return;
    wipe(progress);
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

const char *ctl_thousands(double value, char *out, size_t size)
{
    char digits[32];
    size_t n, w = 0;

    if (!(value >= 0 && value < 1e18)) {
        snprintf(out, size, "-");
        return out;
    }
    snprintf(digits, sizeof(digits), "%" PRIu64, (uint64_t)(value + 0.5));
    n = strlen(digits);
    for (size_t i = 0; i < n && w + 2 < size; i++) {
        if (i > 0 && (n - i) % 3 == 0)
            out[w++] = ',';
        out[w++] = digits[i];
    }
    out[w] = '\0';
    return out;
}

/* Of all epochs, 0..1; NaN when the size of an epoch is not known. */
static double share_done(const struct ctl_view *view)
{
    double total = view->samples_per_epoch * view->epochs;
    double done =
        view->samples_trained + (isnan(view->samples_dropped) ? 0 : view->samples_dropped);

    if (!(total > 0) || isnan(done))
        return (double)NAN;
    return done < total ? done / total : 1;
}

static void add_bar(struct rt_strbuf *line, double share)
{
    int full = (int)(share * BAR_CELLS);

    rt_strbuf_addf(line, "[");
    for (int i = 0; i < BAR_CELLS; i++)
        rt_strbuf_addf(line, "%s", i < full ? "#" : ".");
    rt_strbuf_addf(line, "] ");
}

static void add_figures(struct rt_strbuf *line, const struct ctl_view *view, bool bar)
{
    double share = share_done(view);
    char text[32];

    /* The trainer counts epochs from 0. */
    if (view->epochs > 0 && view->epoch >= 0)
        rt_strbuf_addf(line, "epoch %.0f/%.0f  ", fmin(view->epoch + 1, view->epochs),
                       view->epochs);
    if (!isnan(share)) {
        if (bar)
            add_bar(line, share);
        rt_strbuf_addf(line, "%.0f%%  ", 100 * share);
    }
    if (!bar || isnan(share))
        rt_strbuf_addf(line, "%s samples  ",
                       ctl_thousands(view->samples_trained, text, sizeof(text)));
    if (view->samples_per_second > 0)
        rt_strbuf_addf(line, "%s/s", ctl_thousands(view->samples_per_second, text, sizeof(text)));
    if (!isnan(view->loss))
        rt_strbuf_addf(line, "  loss %.4f", view->loss);
    if (!isnan(view->test_auc))
        rt_strbuf_addf(line, "  AUC %.4f", view->test_auc);
    if (strcmp(view->phase, "evaluate") == 0)
        rt_strbuf_addf(line, "  evaluating");
    if (share > 0.01 && share < 1 && view->train_seconds > 0) {
        unsigned left = (unsigned)(view->train_seconds * (1 - share) / share + 0.5);

        rt_strbuf_addf(line, "  left %u:%02u", left / 60, left % 60);
    }
}

/* A line that wraps could not be wiped again. */
static int terminal_columns(void)
{
    struct winsize size;

    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
}

void ctl_progress_show(struct ctl_progress *progress, const struct ctl_view *view,
                       const char *waiting)
{
    bool training = view->samples_trained > 0;
    uint64_t now = rt_now_ns();
    struct rt_strbuf line;
    char phase[64];

    if (progress->quiet)
        return;
    snprintf(phase, sizeof(phase), "%d %.16s %.0f", training, view->phase, view->epoch);
    if (!progress->terminal && now - progress->said_ns < LINE_EVERY_NS &&
        strcmp(phase, progress->said_phase) == 0)
        return;
    rt_strbuf_init(&line);
    if (training)
        add_figures(&line, view, progress->terminal);
    else
        rt_strbuf_addf(&line, "starting%s%s", waiting[0] ? ": " : "", waiting);
    if (progress->terminal) {
        wipe(progress);
        printf("%.*s", terminal_columns() - 1, line.text);
        progress->drawn = true;
    } else {
        puts(line.text);
        progress->said_ns = now;
        snprintf(progress->said_phase, sizeof(progress->said_phase), "%s", phase);
    }
    fflush(stdout);
    rt_strbuf_release(&line);
}

void ctl_progress_end(struct ctl_progress *progress)
{
    wipe(progress);
    fflush(stdout);
}
