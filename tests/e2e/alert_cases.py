"""tests/e2e/alert_cases.py RULES >TEST -- unit tests of the alert rules, for `promtool test rules` (JSON is YAML too).

Each case has the series of a good hour and a bad one, a sample a minute. At the end of the good hour nothing may
fire; twenty minutes into the bad one exactly the case's alert. In the cases of QUIET nothing ever does. A rule
without a case is an error. Values are promtool's: `5x60` is 61 times 5, `0+3x60` grows by 3 each minute.

All cases are one test, told apart by their label job: promtool takes a second for each test.

Python 3, standard library only.
"""
import json
import re
import sys

GOOD_COUNTER, GOOD_ZERO = "0+100x120", "0x120"


def series(name, values, role="trainer", **labels):
    labels = {"job": "JOB", "role": role, "instance": role + "-0", **labels}
    return {"series": "%s{%s}" % (name, ", ".join('%s="%s"' % pair for pair in labels.items() if pair[1])),
            "values": re.sub(r"(NaN|Inf)x(\d+)", lambda found: " ".join([found.group(1)] * (int(found.group(2)) + 1)), values)}


def own(role, what, values, **labels):
    return series("saffron_%s_%s" % (role, what), values, role, **labels)


def histogram(role, what, good, bad, **labels):
    """Two buckets, `good` and +Inf seconds: 100 observations a minute in the first, and in the bad hour only in `bad`'s."""
    return [own(role, what + "_bucket", "0+100x60 6000x60", le=good, **labels),
            own(role, what + "_bucket", "0+100x120", le=bad, **labels),
            own(role, what + "_bucket", "0+100x120", le="+Inf", **labels)]


def steps(wait, permits_used):
    """Of a trainer's minute, seconds that it waits; permits out, of 4."""
    return [own("trainer", "step_seconds_sum", "0+1x60 61+%dx60" % wait, part="wait"),
            own("trainer", "step_seconds_sum", "0+59x60 3599+%dx60" % (60 - wait), part="compute"),
            own("trainer", "permits_used", "4x60 %dx60" % permits_used), own("trainer", "permits", "4x120")]


def progress(values, train="1x120", **labels):
    return [own("trainer", "samples_trained_total", values, **labels), own("trainer", "phase", train, phase="train", **labels)]


def checkpoint_age(every_s, seconds, every_steps, steps_since, train="1x120"):
    """How old a trainer's newest checkpoint is, and how often one is to be made."""
    return [own("trainer", "checkpoint_age_seconds", seconds), own("trainer", "checkpoint_interval_seconds", every_s + "x120"),
            own("trainer", "checkpoint_age_steps", steps_since), own("trainer", "checkpoint_interval_steps", every_steps + "x120"),
            own("trainer", "phase", train, phase="train")]


MB = 1024 * 1024
STANDS = "0+100x60 6000x60"  # a counter that grows for an hour, and then does not
BEGINS = "0x60 0+1x60"       # one that begins to

CASES = [
    ("SaffronRoleDown", [series("up", "1x60 0x60")]),
    ("SaffronRoleNotReady", [own("embedding_server", "ready", "1x60 0x60")]),
    ("SaffronRestarting", [own("middleware", "start_time_seconds", "1000x60 2000x4 2300x4 2600x60")]),
    ("SaffronMemoryNearLimit", [own("embedding_server", "memory_bytes", "80x60 95x60", kind="resident"),
                                own("embedding_server", "memory_bytes", "200x120", kind="retained"),
                                own("embedding_server", "memory_limit_bytes", "100x120")]),
    ("SaffronFilesNearLimit", [own("middleware", "open_files", "500x60 950x60"), own("middleware", "open_files_limit", "1000x120")]),
    ("SaffronLoopBlocked", histogram("middleware", "loop_turn_seconds", "0.000008192", "0.134217728")),
    ("SaffronErrorsLogged", [own("data_compose", "log_messages_total", BEGINS, level="error"),
                             own("data_compose", "log_messages_total", GOOD_COUNTER, level="warn")]),
    ("SaffronNoProgress", progress(STANDS)),
    ("SaffronLossNotFinite", [own("trainer", "loss", "0.5x60 NaNx60"), own("trainer", "steps_total", GOOD_COUNTER)]),
    ("SaffronLossNotFinite", [own("trainer", "loss", "0.5x60 Infx60"), own("trainer", "steps_total", GOOD_COUNTER)]),
    ("SaffronLossSpike", [own("trainer", "loss_spike", "0x60 1x60"), own("trainer", "loss_spike", "0x120", instance="trainer-1")]),
    ("SaffronQualityFell", [own("trainer", "test_auc", "0.81x60 0.79x60"), own("trainer", "test_auc", "NaNx120", instance="trainer-1")]),
    ("SaffronSamplesDropped", [own("trainer", "samples_dropped_total", BEGINS)]),
    ("SaffronRowsQuarantined", [own("data_compose", "rows_read_total", "0+10000x120"),
                                own("data_compose", "rows_quarantined_total", "0+1x60 61+8x60")]),
    ("SaffronGradientsNotFinite", [own("middleware", "rows_nonfinite_total", BEGINS, loop="0"),
                                   own("middleware", "rows_nonfinite_total", GOOD_ZERO, loop="1")]),
    ("SaffronCheckpointsVoid", [own("trainer", "checkpoints_void_in_row", "2x60 3x60")]),
    ("SaffronCheckpointOld", checkpoint_age("600", "1799x60 1801x60", "NaN", GOOD_COUNTER)),
    ("SaffronCheckpointOld", checkpoint_age("NaN", GOOD_COUNTER, "1000", "2999x60 3001x60")),
    ("SaffronStalenessAtBound", steps(30, 4)),
    ("SaffronTrainersStarved", steps(30, 1)),
    ("SaffronRequestsSlow", histogram("middleware", "request_seconds", "0.001048576", "0.536870912", method="LookupRows")),
    ("SaffronRequestsFailing", [own("trainer", "requests_failed_total", "0x60 0+5x60", method="LookupBatch"),
                                own("trainer", "request_seconds_count", GOOD_COUNTER, method="LookupBatch")]),
    ("SaffronBatchesRetried", [own("data_compose", "batches_retried_total", "0x60 0+5x60"),
                               own("data_compose", "batches_done_total", GOOD_COUNTER)]),
    ("SaffronOwnersDown", [own("middleware", "owners", "4x120", loop="0"), own("middleware", "owners", "4x120", loop="1"),
                           own("middleware", "owners_up", "4x120", loop="0"), own("middleware", "owners_up", "4x60 3x60", loop="1")]),
    ("SaffronRequestsRefused", [own("embedding_server", "requests_refused_total", BEGINS, worker="0")]),
    ("SaffronRowsRefused", [own("embedding_server", "rows_refused_total", BEGINS, table="c1"),
                            own("embedding_server", "rows_refused_total", GOOD_ZERO, table="c2")]),
    ("SaffronUpdatesLost", [own("embedding_server", "lost_batches_total", "0x60 7x60", worker="0"),
                            own("embedding_server", "start_time_seconds", "0x60 3600x60")]),
    ("SaffronNatsLost", [own("data_compose", "nats_connected", "1x60 0x60")]),
    ("SaffronFramesBad", [own("embedding_server", "frames_bad_total", BEGINS)]),
    ("SaffronLinksRefused", [own("middleware", "links_refused_total", BEGINS)]),
    ("SaffronReconnecting", [own("middleware", "reconnects_total", "0x60 0+3x60")]),
    ("SaffronSendQueueLong", [own("embedding_server", "send_queue_bytes", "%dx60 %dx60" % (MB, 300 * MB))]),
]

QUIET = [
    ("a job that evaluates, or is done", progress(STANDS, train="1x60 0x60")),
    ("a job that has ended, on a push gateway", progress(STANDS, instance="") + [own("trainer", "ready", "1x60 0x60", instance="")]),
    ("batches that live long", histogram("data_compose", "request_seconds", "0.001048576", "0.536870912", method="TrainBatch")),
    ("a full table that evicts, admits few and lets rows expire", [
        own("embedding_server", "rows_%s_total" % what, GOOD_COUNTER, table="c1") for what in ("created", "evicted", "expired", "not_admitted")]
     + [own("embedding_server", "rows_refused_total", GOOD_ZERO, table="c1")]),
    ("one late turn of a loop", [own("trainer", "loop_turn_seconds_bucket", "0+10000x60 610000+10000x60", le="0.000008192"),
                                 own("trainer", "loop_turn_seconds_bucket", "0+10000x60 610001+10000x60", le="0.134217728"),
                                 own("trainer", "loop_turn_seconds_bucket", "0+10000x60 610001+10000x60", le="+Inf")]),
    ("two restarts", [own("trainer", "start_time_seconds", "1000x60 2000x4 2300x60")]),
    ("checkpoints that void now and then", [own("trainer", "checkpoints_void_in_row", "0x60 2x60")]),
    ("an old checkpoint of a job that evaluates", checkpoint_age("600", "0+60x120", "1000", GOOD_COUNTER, "1x20 0x100")),
    ("no checkpoints are made here", checkpoint_age("NaN", "NaNx120", "NaN", "NaNx120")),
    ("no batch yet", [own("trainer", "loss", "NaNx120"), own("trainer", "steps_total", GOOD_ZERO), own("trainer", "test_auc", "NaNx120")]),
    ("all permits out, and nobody waits", steps(2, 4)),
    ("a server that lost updates long ago", [own("embedding_server", "lost_batches_total", "7x120"),
                                             own("embedding_server", "start_time_seconds", "-3600x120")]),
    ("another job's server", [series("up", "0x120", role="node-exporter")]),
    ("a link that breaks once", [own("middleware", "reconnects_total", "0x60 1x60")]),
]


def named(job, input_series):
    return [{"series": one["series"].replace('"JOB"', '"%s"' % job), "values": one["values"]} for one in input_series]


def main(rules):
    defined = re.findall(r"^ *- alert: (\w+)$", open(rules).read(), re.M)
    tested = [name for name, _ in CASES]
    if set(defined) != set(tested) or len(set(defined)) != len(defined):
        sys.exit("without a case, without a rule or twice: %s" % sorted(
            set(defined) ^ set(tested) | {name for name in defined if defined.count(name) > 1}))
    input_series = [one for job, case in QUIET for one in named(job, case)]
    expected = []
    for i, (name, case) in enumerate(CASES):
        input_series += named("case %d" % i, case)
        expected.append({"labels": '{alertname="%s", job="case %d"}' % (name, i), "value": 1})
    firing = 'count by (alertname, job) (ALERTS{alertstate="firing"})'
    test = {"interval": "1m", "input_series": input_series,
            "promql_expr_test": [{"expr": firing, "eval_time": "60m", "exp_samples": []},
                                 {"expr": firing, "eval_time": "80m", "exp_samples": expected}]}
    json.dump({"rule_files": [rules], "evaluation_interval": "1m", "tests": [test]}, sys.stdout, indent=1)


if __name__ == "__main__":
    main(sys.argv[1])
