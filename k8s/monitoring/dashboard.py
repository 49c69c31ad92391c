#!/usr/bin/env python3
"""k8s/monitoring/dashboard.py >k8s/monitoring/dashboard.json -- the Grafana dashboard from its table.

A dashboard's JSON is mostly layout that nobody reads. What is said about Saffron stands in ROWS below, a line or
a few for each panel: title, unit, queries with their legends, and what a bad value means and what to do then. The
JSON is committed, for people import it as it is; tests/e2e/prometheus.sh finds it when it is stale and runs every
query of it against a real job.

Python 3, standard library only.
"""
import json
import sys

ROLE = "(trainer|data_compose|middleware|embedding_server)"
RATE = "[$__rate_interval]"
# The methods of the hops; the others wait by intention: for the next phase, for a group to form.
HOPS = 'method=~"PutBatch|TrainBatch|LookupBatch|PushGradients|LookupRows|ApplyGradients|StepHeader|ReduceChunk"'


def every(what, *labels):
    """Selector of a metric that all roles have: saffron_<role>_<what>."""
    return '{__name__=~"saffron_%s_%s", %s}' % (ROLE, what, ", ".join(('job="$job"',) + labels))


def one(name, *labels):
    """Selector of one role's metric."""
    return "saffron_%s{%s}" % (name, ", ".join(('job="$job"',) + labels))


def rate(selector, by=None):
    text = "rate(%s%s)" % (selector, RATE)
    return text if by is None else "sum by (%s) (%s)" % (by, text) if by else "sum(%s)" % text


def bucket(selector):
    """Of a histogram's selector, that of its buckets."""
    name, rest = selector.split('", ', 1) if selector.startswith("{") else selector.split("{", 1)
    return name + ('_bucket", ' if selector.startswith("{") else "_bucket{") + rest


def quantile(q, selector, by=""):
    keys = "le" + (", " + by if by else "")
    return "histogram_quantile(%s, sum by (%s) (rate(%s%s)))" % (q, keys, bucket(selector), RATE)


def both(selector, by, legend):
    """Median and 99th percentile of a histogram."""
    return [(quantile(0.5, selector, by), legend + " p50"), (quantile(0.99, selector, by), legend + " p99")]


def mean(name, by=""):
    """Mean of one role's histogram."""
    return "%s / %s" % (rate(one(name + "_sum"), by), rate(one(name + "_count"), by))


def panel(title, unit, about, *queries, kind="timeseries", width=8, **extra):
    flat = []
    for query in queries:
        flat += query if isinstance(query, list) else [query]
    return dict(title=title, unit=unit, about=about, queries=flat, kind=kind, width=width, extra=extra)


WHO = "{{role}} {{instance}}"

ROWS = [
    ("The job at a glance", [
        panel("Samples a second", "short",
              "Samples trained, all trainers together. Falls while the group evaluates or forms again. Bad: far below "
              "what the job did before. Look at the step's parts below: they say which role is slow.",
              (rate(one("trainer_samples_trained_total"), ""), "all trainers"),
              (rate(one("trainer_samples_trained_total"), "instance"), "{{instance}}")),
        panel("Loss", "short",
              "Mean loss of the latest step, per trainer, and of the epoch so far. Falls, then levels. Bad: it rises, or "
              "jumps: a learning rate too high, or data that changed. Above its bound for some steps: SaffronLossSpike. NaN raises "
              "SaffronLossNotFinite.",
              (one("trainer_loss"), "step, {{instance}}"), ("avg(%s)" % one("trainer_epoch_loss"), "epoch so far"),
              ("max(%s)" % one("trainer_loss_bound"), "bound"),
              decimals=4),
        panel("Test AUC and log loss", "short",
              "Of the latest evaluation; 0 before the first one. Bad: AUC under its best (SaffronQualityFell): "
              "overfitting, changed data, or staleness too high for the learning rate.",
              ("max(%s)" % one("trainer_test_auc"), "AUC"), ("max(%s)" % one("trainer_test_logloss"), "log loss"),
              decimals=4),
        panel("Calibration and normalized entropy", "short",
              "Of each head, on the samples that were trained last (65,536 of a trainer) and on the test set. Bad: a "
              "calibration that leaves 1 (scores too high, or too low), an entropy of 1 or above (nothing was learned), or one that rises.",
              ("avg by (head, set) (%s)" % one("trainer_head_calibration"), "calibration, {{head}} {{set}}"),
              ("avg by (head, set) (%s)" % one("trainer_head_normalized_entropy"), "entropy, {{head}} {{set}}"),
              decimals=4),
        panel("Staleness", "short",
              "Permits in use when a batch is looked up: how many batches of a trainer are on their way between lookup "
              "and acknowledged gradients. Never above the bound (global.staleness). At the bound with a trainer that "
              "waits: the path to the embedding servers is too slow, or the bound too low.",
              both(one("trainer_staleness"), "", "at lookup"), ("max(%s)" % one("trainer_permits_used"), "in use, worst trainer"),
              ("max(%s)" % one("trainer_permits"), "bound")),
        panel("Processes ready", "short",
              "Ready processes of each role. Bad: fewer than replicas. `saffron status` and the pod's /status say what a "
              "process waits for.",
              ("sum by (role) (%s)" % every("ready"), "{{role}}"), kind="stat", width=6),
        panel("Phase", "short",
              "What the trainers do: `statistics` of columns that are standardized, `train`, `evaluate` or `done`. Bad: trainers in "
              "different phases for more than seconds.",
              ("count by (phase) (%s == 1)" % one("trainer_phase"), "{{phase}}"), kind="stat", width=4),
        panel("Progress", "short",
              "Epoch (from 0), dense steps, and the group's epoch: how often trainers formed their group. The last grows "
              "by one for each trainer lost and come back.",
              ("max(%s)" % one("trainer_epoch"), "epoch"), ("max(%s)" % one("trainer_steps_total"), "steps"),
              ("max(%s)" % one("trainer_group_epoch"), "group epoch"), ("max(%s)" % one("trainer_world"), "world"),
              kind="stat", width=6),
        panel("Alerts firing", "short",
              "Alerts of this job. Each has a summary and a section in docs/trouble.md.",
              ('count(ALERTS{alertstate="firing", job="$job"}) or vector(0)', "firing"), kind="stat", width=4,
              steps=[("green", None), ("red", 1)]),
        panel("Samples lost", "short",
              "Rows quarantined and batches dropped since the processes started, and samples of the latest evaluation whose score is "
              "not finite (scores_not_finite in docs/trouble.md). Normal: 0, or the few bad rows of the "
              "data. See docs/trouble.md, SaffronRowsQuarantined and SaffronSamplesDropped.",
              ("sum(%s)" % one("data_compose_rows_quarantined_total"), "rows quarantined"),
              ("sum(%s)" % one("trainer_batches_dropped_total"), "batches dropped"),
              ("sum(%s)" % one("trainer_head_nonfinite_samples"), "test scores not finite"), kind="stat", width=4,
              steps=[("green", None), ("orange", 1)]),
    ]),
    ("Where the time of a step goes", [
        panel("Parts of a step, mean", "s",
              "Mean time of a step's parts; together the time between steps. Normal: mostly compute. Much `wait`: no batch is "
              "ready (see queues and hops). Much `reduce` or `header`: a slow trainer or network between trainers.",
              (mean("trainer_step_seconds", "part"), "{{part}}"), width=12, stack=True),
        panel("Parts of a step, p99", "s",
              "The slowest hundredth. Bad: p99 of a part many times its mean: pauses. Compare with loop turns and the "
              "latencies of hops.",
              (quantile(0.99, one("trainer_step_seconds"), "part"), "{{part}}"), width=12),
        panel("Share of time waited, per trainer", "percentunit",
              "Of a trainer's time, the share in which no batch was ready. Above 0.3 an alert says whether the cause is behind the "
              "lookup (SaffronStalenessAtBound) or before it (SaffronTrainersStarved).",
              ("%s / %s" % (rate(one("trainer_step_seconds_sum", 'part="wait"'), "instance"),
                            rate(one("trainer_step_seconds_sum"), "instance")), "{{instance}}"), max=1, width=6),
        panel("Steps a second", "short",
              "Dense steps; all trainers make the same steps, so lines lie on each other. Apart: a trainer is catching up.",
              (rate(one("trainer_steps_total"), "instance"), "{{instance}}"), width=6),
        panel("Learning rate", "short",
              "Of the dense optimizer, as its schedule has it now, and the factor on it and on those of the tables. A loss that "
              "jumps where these do has its cause here.",
              ("max(%s)" % one("trainer_learning_rate"), "dense"),
              ("max(%s)" % one("trainer_learning_rate_factor"), "factor"), width=6),
        panel("Gradient norm", "short",
              "Of all dense gradients before clipping. Bad: it rises step after step: the learning rate is "
              "too large. Always above clip_norm: every step is scaled down.",
              ("max(%s)" % one("trainer_gradient_norm"), "norm"),
              ("max(%s)" % one("trainer_gradient_norm_bound"), "bound of an alarm"), width=6),
    ]),
    ("Checkpoints", [
        panel("Age of the latest checkpoint", "s",
              "What would be lost if all died now; before the first, since the start. Bad: more than twice the interval "
              "(checkpoint.every_seconds): see checkpoint_void in trainer/0's log. Three times: SaffronCheckpointOld.",
              ("max(%s)" % one("trainer_checkpoint_age_seconds"), "age"),
              ("max(%s)" % one("trainer_checkpoint_interval_seconds"), "interval"), width=6),
        panel("Checkpoints made and given up", "short",
              "Since trainer/0 started. Given up: usual when a process was started anew; its reason is in the log.",
              ("sum(%s)" % one("trainer_checkpoints_total"), "made"),
              ("sum(%s)" % one("trainer_checkpoints_void_total"), "given up"),
              ("max(%s)" % one("trainer_checkpoints_void_in_row"), "of them since the latest"),
              ("sum(%s)" % one("trainer_updates_lost_total"), "updates lost"), width=6),
        panel("An exact job going back", "short",
              "Since the job began: times that all roles went back to a checkpoint, because one was lost, and the steps that had to be "
              "made again. Bad: they keep growing: a role dies again and again.",
              ("max(%s)" % one("trainer_went_back"), "went back"), ("max(%s)" % one("trainer_steps_again"), "steps again"), width=6),
        panel("Time of a checkpoint", "s",
              "From its beginning to its manifest, and the part of it in which no step was made. Bad: the latter above 0.1 s: "
              "gradients wait for a slow embedding server.",
              (mean("trainer_checkpoint_seconds"), "whole"), (mean("trainer_checkpoint_hold_seconds"), "no step"), width=6),
        panel("Bytes of a checkpoint", "bytes", "Of all files of the latest one: increments are below full ones.",
              ("max(%s)" % one("trainer_checkpoint_bytes"), "bytes"), width=6),
    ]),
    ("Latency of each hop", [
        panel("Request to reply, p50", "s",
              "At the caller: from a request's sending to its reply, per method. LookupRows and ApplyGradients: middleware to "
              "embedding servers. TrainBatch replies when the batch is finished, so it takes as long as a batch lives.",
              (quantile(0.5, every("request_seconds", HOPS), "role, method"), "{{role}} {{method}}"), width=12),
        panel("Request to reply, p99", "s",
              "Bad: a method many times its median, or over 0.25 s (SaffronRequestsSlow; not TrainBatch and what waits for other trainers). Compare with the "
              "server's own time beside: the difference is network and queues.",
              (quantile(0.99, every("request_seconds", HOPS), "role, method"), "{{role}} {{method}}"), width=12),
        panel("Served in, p50", "s",
              "At the server: from a request's arrival to its reply.",
              (quantile(0.5, every("serve_seconds", HOPS), "role, method"), "{{role}} {{method}}"), width=12),
        panel("Served in, p99", "s",
              "Bad: high at embedding_server: its table or its CPU; high at middleware LookupBatch but not at embedding_server: "
              "one slow embedding server holds up all, see the instances of requests open below.",
              (quantile(0.99, every("serve_seconds", HOPS), "role, method"), "{{role}} {{method}}"), width=12),
        panel("Life of a batch", "s",
              "From PutBatch to the final reply, at data-compose. Grows with data.window and with everything behind it.",
              both(one("data_compose_batch_seconds"), "", "batch")),
        panel("Requests a second", "reqps",
              "Replies, per method. Of equal speed all along the chain, but for the number of embedding servers.",
              (rate(every("request_seconds_count"), "role, method"), "{{role}} {{method}}")),
        panel("Requests failed a second", "reqps",
              "At the caller, and by the server's own word. Normal: 0; some while a process restarts. Bad: steadily more "
              "(SaffronRequestsFailing): the logs name the peer and the error.",
              (rate(every("requests_failed_total"), "role, method"), "{{role}} {{method}}"),
              (rate(every("calls_failed_total"), "role, method"), "{{method}} refused by {{role}}")),
    ]),
    ("Queues", [
        panel("Batches at trainers", "short",
              "By state, all trainers. Normal: most `queued` or `ready`. Most `looking`: lookups are slow. Most `pushing`: "
              "gradients are slow. `stranded`: a middleware was lost, they will come again.",
              ("sum by (state) (%s)" % one("trainer_queue_batches"), "{{state}}"), stack=True),
        panel("Batches at data-compose and middleware", "short",
              "Made but not yet sent, open at data-compose (at most data.window per trainer), open at middleware. Bad: few open "
              "while trainers wait: data-compose is too slow, give the job more of them.",
              ("sum(%s)" % one("data_compose_queue_batches"), "made, not yet sent"),
              ("sum(%s)" % one("data_compose_batches_open"), "open at data_compose"),
              ("sum(%s)" % one("middleware_batches_open"), "open at middleware"),
              ("sum(%s)" % one("trainer_batches_open"), "open at trainers")),
        panel("Requests open", "short",
              "Requests without a reply, at the caller. Bad: grows without end at one instance: its peer is slow or stuck.",
              ("sum by (role, instance, method) (%s)" % every("requests_open"), WHO + " {{method}}")),
        panel("Calls owed a reply", "short",
              "At the server. The one instance whose queue is long is the slow one.",
              ("sum by (role, instance, method) (%s)" % every("calls_open"), WHO + " {{method}}")),
        panel("Bytes waiting for sockets", "bytes",
              "Written and not yet taken by the kernel. Normal: near 0, short peaks. Bad: stays high (SaffronSendQueueLong): the "
              "receiver or the network is slower than the sender.",
              ("sum by (role, instance) (%s)" % every("send_queue_bytes"), WHO)),
        panel("Credit of links", "bytes",
              "What waits to be sent, of the bytes that a process lends its links (4 x global.link.credit). Normal: near 0. Bad: stays high, or links "
              "are paused: a peer does not read.",
              ("sum by (role, instance) (%s)" % every("link_credit_bytes", 'kind="lent"'), WHO + " lent"),
              ("max by (role) (%s)" % every("link_credit_bytes", 'kind="limit"'), "{{role}} limit"),
              (rate(every("link_paused_total"), "role"), "{{role}} paused a second")),
        panel("Bytes reserved for batches", "bytes",
              "At middlewares, reserved at PutBatch for all that a batch will need, and at trainers, at TrainBatch. At its limit new batches wait (back-pressure).",
              ("sum by (instance) (%s)" % one("middleware_reserved_bytes"), "{{instance}}"),
              ("sum by (instance) (%s)" % one("trainer_reserved_bytes"), "{{instance}}")),
        panel("Lookups that wait at embedding servers", "short",
              "Lookups that wait for their turn or for updates before them. Bad: many, all the time: too few workers "
              "(embedding_server.workers) or servers.",
              ("sum by (instance) (%s)" % one("embedding_server_lookups_waiting"), "{{instance}}")),
    ]),
    ("Data-compose", [
        panel("Rows read a second", "short",
              "Equal to samples a second but for evaluation. Bad: one replica far below the others: its splits or its disk.",
              (rate(one("data_compose_rows_read_total"), "instance"), "{{instance}}")),
        panel("Rows quarantined", "percentunit",
              "Of the rows read, those that could not be used. The job stops above max_bad_ratio (0.001). The quarantine files "
              "name file, line and reason.",
              ("%s / %s" % (rate(one("data_compose_rows_quarantined_total"), ""), rate(one("data_compose_rows_read_total"), "")),
               "share")),
        panel("Read, parse and hash a batch", "s",
              "Time to make one batch. Bad: batch rows divided by this is under the samples a second of a replica: add data-composes.",
              both(one("data_compose_parse_seconds"), "", "batch")),
        panel("Bytes read a second", "Bps",
              "From the data files, as they lie on disk.",
              (rate(one("data_compose_read_bytes_total"), "instance"), "{{instance}}")),
    ]),
    ("Middleware", [
        panel("Distinct ids of all ids", "percentunit",
              "The deduplication: of a batch's ids, the share that is looked up and updated. A property of the data and the batch size: "
              "bigger batches, lower share. Bad: it rises suddenly: data changed, or an id column became unique (a session, a time).",
              ("%s / %s" % (rate(one("middleware_distinct_ids_total"), ""), rate(one("middleware_ids_total"), "")), "distinct"), max=1),
        panel("Ids a second", "short", "Ids before and after deduplication.",
              (rate(one("middleware_ids_total"), ""), "ids"), (rate(one("middleware_distinct_ids_total"), ""), "distinct")),
        panel("Work on a batch", "s",
              "Ids to plan (dedup), rows to embeddings (pool), gradients to row sums (scatter): CPU time of the loop. "
              "Bad: their sum times batches a second nears 1 for each loop: more middlewares or middleware.loops.",
              both(one("middleware_dedup_seconds"), "", "dedup"), both(one("middleware_pool_seconds"), "", "pool"),
              both(one("middleware_scatter_seconds"), "", "scatter")),
        panel("Embedding servers reached", "short",
              "Owners that each middleware is connected to, and how many there are. Bad: fewer (SaffronOwnersDown): lookups of their rows wait.",
              ("min(%s)" % one("middleware_owners_up"), "reached by the worst middleware"), ("max(%s)" % one("middleware_owners"), "there are")),
        panel("Batches refused or lost", "short",
              "Per second: refused because full (normal under back-pressure), unknown (a middleware restarted), let go with a dead or idle "
              "trainer. Bad: steady.",
              (rate(one("middleware_refused_full_total"), ""), "refused, full"), (rate(one("middleware_unknown_total"), ""), "unknown"),
              (rate(one("middleware_dropped_dead_total"), ""), "of a dead peer"), (rate(one("middleware_dropped_idle_total"), ""), "idle")),
    ]),
    ("Tables", [
        panel("Rows", "short",
              "Rows of each table, all servers. Grows fast in the first epoch, then only by new ids; a table with a capacity stays under it. "
              "Bad: grows for ever: ids without meaning; admission.type: count, or ttl_seconds (docs/tables.md).",
              ("sum by (table) (%s)" % one("embedding_server_rows"), "{{table}}"), width=12),
        panel("Bytes", "bytes",
              "Memory of each table by kind: live rows, index, slack (freed rows, bookkeeping), allocator (pages beyond them). "
              "Mostly rows. Bad: much slack for long: rows go faster than their memory is given back.",
              ("sum by (table, kind) (%s)" % one("embedding_server_table_bytes"), "{{table}} {{kind}}"), width=12, stack=True),
        panel("Rows of each server", "short",
              "Normal: equal to a few percent. Bad: one server far above the others: a few ids take most of the traffic does not cause "
              "this, a wrong replica count does.",
              ("sum by (instance) (%s)" % one("embedding_server_rows"), "{{instance}}")),
        panel("Rows looked up, applied, created a second", "short",
              "Created near looked up: the model sees mostly new ids.",
              (rate(one("embedding_server_rows_looked_up_total"), ""), "looked up"), (rate(one("embedding_server_rows_applied_total"), ""), "applied"),
              (rate(one("embedding_server_rows_created_total"), ""), "created")),
        panel("Rows found", "percentunit",
              "Of rows looked up, those that were there; others read as their initial value. Rises towards 1.",
              ("%s / %s" % (rate(one("embedding_server_rows_found_total"), ""), rate(one("embedding_server_rows_looked_up_total"), "")), "found"), max=1),
        panel("Rows in a request", "short",
              "Median rows of one lookup and one update at a server. Small (under 100): too many servers for the batch size; overhead rules.",
              both(one("embedding_server_lookup_rows"), "", "lookup"), both(one("embedding_server_apply_rows"), "", "apply")),
        panel("Time in the table", "s",
              "Of one request, the time in the table itself. Bad: p99 far above p50: memory is swapped or moved between NUMA nodes.",
              both(one("embedding_server_lookup_seconds"), "", "lookup"), both(one("embedding_server_apply_seconds"), "", "apply")),
        panel("Time of a worker in its table", "percentunit",
              "Share of all workers' time. Near 1: more workers (embedding_server.workers) or servers.",
              ("(%s + %s) / count(%s)" % (rate(one("embedding_server_lookup_seconds_sum"), ""), rate(one("embedding_server_apply_seconds_sum"), ""),
                                         one("embedding_server_requests_refused_total")), "busy"), max=1),
    ]),
    ("Tables: who has a row", [
        panel("Bytes per row", "bytes",
              "All bytes of a table by its live rows, all servers. Plan memory by it. High while a table is small; bad: rises while rows fall.",
              ("sum by (table) (%s) / sum by (table) (%s)" % (one("embedding_server_table_bytes"), one("embedding_server_rows")), "{{table}}")),
        panel("Rows evicted and expired a second", "short",
              "Evicted: rows that made room for new ones, as many as are created once a table is full. Expired: no gradient for ttl_seconds. "
              "Bad: rows over evicted a second, the time that a row stays, is shorter than the time between two gradients of an id: a larger capacity.",
              (rate(one("embedding_server_rows_evicted_total"), "table"), "{{table}} evicted"),
              (rate(one("embedding_server_rows_expired_total"), "table"), "{{table}} expired")),
        panel("Gradients left out a second", "short",
              "Not admitted: ids that admission gave no row (yet), as wanted. Refused: no room for the row: a full table that evicts nothing, or the memory "
              "cap. Bad: any refused (SaffronRowsRefused).",
              (rate(one("embedding_server_rows_not_admitted_total"), "table"), "{{table}} not admitted"),
              (rate(one("embedding_server_rows_refused_total"), "table"), "{{table}} refused")),
        panel("Memory cap", "bytes",
              "What the tables of each server took of global.embedding_server.memory, and the cap; 0: there is none. At the cap rows are evicted by "
              "their table's policy, or new ids refused. Bad: at the cap and refusing: more servers.",
              ("sum by (instance) (%s)" % one("embedding_server_budget_used_bytes"), "{{instance}}"),
              ("max(sum by (instance) (%s))" % one("embedding_server_budget_bytes"), "cap of one")),
        panel("Slack", "percentunit",
              "Of a table's bytes, those that are no live row and no index. Small tables have much. Bad: over a third for long in a large one.",
              ("sum by (table) (%s) / sum by (table) (%s)" % (one("embedding_server_table_bytes", 'kind=~"slack|allocator"'),
                                                             one("embedding_server_table_bytes")), "{{table}}"), max=1),
    ]),
    ("Checkpoints: rows", [
        panel("Rows that would be lost", "short",
              "Rows of each server that changed since the latest checkpoint's cut. Falls to 0 with each. Bad: rises for ever: no checkpoint is made (the "
              "trainer's log says why), or it is too seldom (checkpoint.every_seconds).",
              ("sum by (instance) (%s)" % one("embedding_server_changed_rows"), "{{instance}}"), width=12),
        panel("Rows written a second", "short",
              "To checkpoints; and of these, copied because an update changed them before they were written. Bad: all of them copied: the disk is slow.",
              (rate(one("embedding_server_checkpoint_rows_total"), ""), "written"),
              (rate(one("embedding_server_checkpoint_copies_total"), ""), "copied")),
        panel("Time of a worker's part of a checkpoint", "s",
              "Of the slowest worker's latest one, from the cut to its file on disk. Bad: near checkpoint.every_seconds: a faster disk, or more seconds.",
              ("max by (instance) (%s)" % one("embedding_server_checkpoint_seconds"), "{{instance}}")),
        panel("Updates that waited, files that failed", "short",
              "Updates that waited a second for room in checkpoint.buffer: training is held up by the disk; a larger buffer helps where it is slow for "
              "moments only. Bad: any failure: the disk is full, or not shared (docs/trouble.md).",
              (rate(one("embedding_server_checkpoint_waits_total"), ""), "waited"),
              (rate(one("embedding_server_checkpoint_failures_total"), ""), "failed")),
    ]),
    ("Memory", [
        panel("Resident memory", "bytes",
              "Of each process. Bad: over 90 % of the limit (SaffronMemoryNearLimit): the kernel will kill it. Embedding servers grow with "
              "rows; all others level off in the first minutes.",
              ("sum by (role, instance) (%s)" % every("memory_bytes", 'kind="resident"'), WHO), width=12),
        panel("By kind", "bytes",
              "The allocator's view, per role. `allocated` is in use; `active` less `allocated` is fragmentation; `retained` is address space, "
              "not memory. Bad: resident grows and allocated does not: fragmentation.",
              ("sum by (role, kind) (%s)" % every("memory_bytes", 'kind!=""'), "{{role}} {{kind}}"), width=12),
        panel("Of its limit", "percentunit",
              "Resident memory divided by the container's limit (without one: the machine's memory).",
              ("max by (role, instance) (%s) / on (role, instance) max by (role, instance) (%s)"
               % (every("memory_bytes", 'kind="resident"'), every("memory_limit_bytes")), WHO), max=1),
        panel("Peak resident memory", "bytes", "Since the process started: what a limit must at least be.",
              ("max by (role) (%s)" % every("peak_resident_bytes"), "{{role}}")),
        panel("Open files", "percentunit",
              "Descriptors of what the limit allows (`ulimit -n`), sockets included. Above 0.9 (SaffronFilesNearLimit) new peers are soon "
              "refused: raise the limit. Bad, too: it grows for ever.",
              ("max by (role, instance) (%s) / on (role, instance) max by (role, instance) (%s)"
               % (every("open_files"), every("open_files_limit")), WHO), max=1),
    ]),
    ("Network", [
        panel("Bytes sent a second, by role", "Bps",
              "All that a role's processes send. The largest is trainers' and middlewares' embeddings and gradients; global.wire.dtype halves it.",
              (rate(every("sent_bytes_total"), "role"), "{{role}}"),
              (rate(every("saved_bytes_total"), "role"), "{{role}}, saved by packing")),
        panel("Bytes received a second, by role", "Bps", "All that a role's processes receive; see what they send.",
              (rate(every("received_bytes_total"), "role"), "{{role}}")),
        panel("Bytes a sample, by hop", "bytes",
              "Bytes of frames sent for training, divided by samples trained, as bytes_per_sample in a run's summary. Bad: rises: fewer duplicates, "
              "see the dedup ratio.",
              ("%s / scalar(%s)" % (rate(every("hop_bytes_total", 'purpose="train"'), "role, to"), rate(one("trainer_samples_trained_total"), "")), "{{role}} > {{to}}")),
        panel("Bytes sent a second, per process", "Bps",
              "Bad: one process near its network card's speed.",
              (rate(every("sent_bytes_total"), "role, instance"), WHO)),
        panel("Links", "short",
              "Broken and made again, refused, frames bad: per second. Normal: 0. Refused: the process that wants in runs other files, or is an "
              "older incarnation; the log says which.",
              (rate(every("reconnects_total"), "role"), "{{role}} made again"), (rate(every("links_refused_total"), "role"), "{{role}} refused"),
              (rate(every("frames_bad_total"), "role"), "{{role}} bad frames")),
        panel("NATS", "short",
              "1: connected. Training goes on without NATS, but nobody can join (SaffronNatsLost).",
              ("min by (role) (%s)" % every("nats_connected"), "{{role}}"), max=1),
    ]),
    ("Processes", [
        panel("CPU", "short",
              "Cores in use. Bad: at the container's limit: it is throttled; raise it or add replicas.",
              (rate(every("cpu_seconds_total"), "role, instance"), WHO)),
        panel("CPU time of a sample", "s",
              "CPU time that a role's processes spent on training, divided by samples trained: evaluation and starting up are left out. Bad: rises "
              "with the same batches: docs/slow.md tells where it may go.",
              ("%s / scalar(%s)" % (rate(every("purpose_cpu_seconds_total", 'purpose="train"'), "role"),
                                    rate(one("trainer_samples_trained_total"), "")), "{{role}}")),
        panel("Event loops busy", "percentunit",
              "Share of time in callbacks, per loop. Near 1: this loop is the bottleneck; more loops (middleware.loops) or replicas.",
              (rate(every("loop_busy_seconds_total"), "role, instance, loop"), WHO + " {{loop}}"), max=1),
        panel("Turn of a loop", "s",
              "How long one turn of an event loop takes: p50, and p99.9. Rule: under 50 ms (SaffronLoopBlocked); longer turns delay "
              "heartbeats and every request.",
              (quantile(0.5, every("loop_turn_seconds"), "role"), "{{role}} p50"), (quantile(0.999, every("loop_turn_seconds"), "role"), "{{role}} p99.9")),
    ]),
    ("Errors and restarts", [
        panel("Starts in the last hour", "short",
              "How often a process started anew within the hour. Bad: again and again (SaffronRestarting): the log's last line of the one before "
              "says why, `kubectl logs --previous`.",
              ("sum by (role) (changes(%s[1h]))" % every("start_time_seconds"), "{{role}}")),
        panel("Log lines at warn and error", "short",
              "In five minutes. An error wants somebody to act; a warning was coped with.",
              ("sum by (role, level) (increase(%s[5m]))" % every("log_messages_total"), "{{role}} {{level}}")),
        panel("Batches dropped and sent again", "short",
              "Per second, at trainers and data-composes. Again: normal while a process restarts. Dropped: after three tries; never normal.",
              (rate(one("trainer_batches_dropped_total"), ""), "dropped"), (rate(one("trainer_batches_retried_total"), ""), "trainer asks again"),
              (rate(one("data_compose_batches_retried_total"), ""), "data_compose sends again")),
        panel("Batches dropped for values that are not finite", "short",
              "Per second, by the feature whose embeddings, or gradients, were NaN or infinite. Bad: any (SaffronGradientsNotFinite).",
              (rate(one("trainer_batches_nonfinite_total"), "feature"), "{{feature}}")),
        panel("Rows with a gradient that is not finite", "short",
              "Left out of the update, per second, at middlewares and embedding servers. Bad: any (SaffronGradientsNotFinite): learning rate, or "
              "dense columns that are not finite or huge. Too large for 16 bits: gradients that trainers sent as the largest value there is.",
              (rate(one("middleware_rows_nonfinite_total"), ""), "middleware"), (rate(one("embedding_server_rows_nonfinite_total"), ""), "embedding_server"),
              (rate(one("trainer_gradients_saturated_total"), ""), "trainer: too large for 16 bits")),
        panel("Batches that a crash would lose", "short",
              "What embedding servers applied since the cut of the last checkpoint; lost: what one that was started anew had lost. Bad: it grows for longer than "
              "checkpoint.every_seconds, for then no checkpoint is published: the log of trainer/0 says why.",
              ("max by (instance) (%s)" % one("embedding_server_window_batches"), "{{instance}}"),
              ("max by (instance) (%s)" % one("embedding_server_lost_batches_total"), "{{instance}} lost")),
        panel("Seconds that a crash would lose", "s",
              "Since the cut of the last checkpoint; before the first, since the start.",
              ("max by (instance) (%s)" % one("embedding_server_window_seconds"), "{{instance}}")),
        panel("Refused and repeated at embedding servers", "short",
              "Per second: requests refused (full, or wrong), updates that came twice and were applied once. Again: normal when a link broke.",
              (rate(one("embedding_server_requests_refused_total"), ""), "refused"), (rate(one("embedding_server_updates_again_total"), ""), "came again"),
              (rate(one("middleware_digest_errors_total"), ""), "digests that differ")),
        panel("Version and start", "short", "What runs: one line per process; versions differ only while an upgrade rolls.",
              (every("info"), WHO + " {{version}}"), kind="table", instant=True),
    ]),
]


def target(ref, expr, legend, instant):
    fields = {"refId": ref, "datasource": DATASOURCE, "editorMode": "code", "expr": expr, "legendFormat": legend}
    fields.update({"instant": True, "range": False, "format": "table"} if instant else {"range": True})
    return fields


DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def defaults(spec):
    """fieldConfig.defaults of a panel."""
    extra = spec["extra"]
    steps = extra.get("steps", [("green", None)])
    fields = {"unit": spec["unit"], "min": 0, "color": {"mode": "palette-classic"},
              "thresholds": {"mode": "absolute", "steps": [{"color": c, "value": v} for c, v in steps]}}
    for key in ("max", "decimals"):
        if key in extra:
            fields[key] = extra[key]
    if spec["kind"] == "stat":
        fields["color"] = {"mode": "thresholds"}
    if spec["kind"] == "timeseries":
        fields["custom"] = {"lineWidth": 1, "fillOpacity": 30 if extra.get("stack") else 5, "showPoints": "never",
                            "spanNulls": False, "stacking": {"mode": "normal" if extra.get("stack") else "none", "group": "A"}}
    return fields


OPTIONS = {
    "timeseries": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                   "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "textMode": "value_and_name",
             "colorMode": "value", "graphMode": "none", "justifyMode": "auto", "orientation": "auto"},
    "table": {"showHeader": True, "cellHeight": "sm"},
}


def grafana_panel(number, spec, x, y, height):
    instant = spec["extra"].get("instant", False)
    return {"id": number, "type": spec["kind"], "title": spec["title"], "description": spec["about"], "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": spec["width"], "h": height},
            "fieldConfig": {"defaults": defaults(spec), "overrides": []}, "options": OPTIONS[spec["kind"]],
            "targets": [target(chr(ord("A") + i), expr, legend, instant) for i, (expr, legend) in enumerate(spec["queries"])]}


def panels():
    """All panels from left to right, a line full and then the next."""
    out, y = [], 0
    for title, specs in ROWS:
        out.append({"id": len(out) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
                    "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y, x, line = y + 1, 0, 0
        for spec in specs:
            height = 4 if spec["kind"] == "stat" else 8
            if x + spec["width"] > 24:
                y, x, line = y + line, 0, 0
            out.append(grafana_panel(len(out) + 1, spec, x, y, height))
            x, line = x + spec["width"], max(line, height)
        y += line
    return out


def variables():
    return [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0, "refresh": 1},
            {"name": "job", "label": "Job", "type": "query", "datasource": DATASOURCE, "hide": 0, "refresh": 2, "sort": 1,
             "definition": "label_values(saffron_trainer_steps_total, job)",
             "query": {"query": "label_values(saffron_trainer_steps_total, job)", "refId": "A"}}]


def dashboard():
    return {"uid": "saffron", "title": "Saffron", "tags": ["saffron"], "schemaVersion": 39, "version": 1, "editable": True,
            "description": "A Saffron job: speed, quality, where the time goes, queues, memory, errors. Made by dashboard.py.",
            "graphTooltip": 1, "refresh": "30s", "timezone": "browser", "time": {"from": "now-1h", "to": "now"},
            "annotations": {"list": []}, "links": [], "templating": {"list": variables()}, "panels": panels()}


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=1)
    sys.stdout.write("\n")
