"""The queue's row: who waits, why, for how long, and what there is to wait for."""

from deploy.grafana.panels import (
    BAD,
    GOOD,
    JOBS_WINDOW,
    NEUTRAL,
    QUARTER,
    WARN,
    Panel,
    or_quiet,
    quantile,
)

CAPACITY_COLOURS = {"free": GOOD, "allocated": NEUTRAL, "unreachable": BAD}

QUEUE = (
    Panel(
        title="Jobs by state",
        unit="short",
        description="Jobs that are not at their end. Held jobs wait for a person: `strata status "
        "JOB` says what for, `strata release JOB` lets them go on.",
        queries={
            "{{state}}": "sum by (state) (max by (queue, state) "
            '(strata_jobs{state=~"queued|running|stopping|held"}))'
        },
        colours={"queued": NEUTRAL, "running": GOOD, "stopping": WARN, "held": BAD},
        is_stacked=True,
        is_stepped=True,
    ),
    Panel(
        title="Waiting, and why",
        unit="short",
        description="Queued jobs by reason. no_capacity and behind end by themselves or with more "
        "nodes; never_fits does not: the job asks for more than any node has; no_nodes: look at "
        "the agents.",
        queries={
            "{{reason}}": or_quiet(
                "sum by (reason) (max by (queue, reason) (strata_jobs_pending))",
                "reason",
                "nothing waits",
            )
        },
        is_stacked=True,
        is_stepped=True,
    ),
    Panel(
        title="Oldest wait",
        unit="s",
        description="Age of the job that has waited longest, by queue. If it grows while CPUs or "
        "GPUs are free, ask `strata status JOB`.",
        queries={
            "{{queue}}": or_quiet(
                "time() - min by (queue) (strata_job_oldest_queued_timestamp_seconds)",
                "queue",
                "nothing waits",
            )
        },
        steps=((900, WARN), (3600, BAD)),
    ),
    Panel(
        title="Time to a grant, and to a start",
        unit="s",
        description="Of the jobs of the last hour: from submission to the first grant, and from a "
        "grant until all workers are up. Long waits: more nodes. Long starts: slow nodes or "
        "images; an attempt that does not start is given up.",
        queries={
            "wait p50": quantile(0.5, "strata_job_queue_wait_seconds", window=JOBS_WINDOW),
            "wait p95": quantile(0.95, "strata_job_queue_wait_seconds", window=JOBS_WINDOW),
            "start p95": quantile(0.95, "strata_job_dispatch_latency_seconds", window=JOBS_WINDOW),
        },
        empty="no job was granted in the last hour",
    ),
    Panel(
        title="Finished, by outcome",
        unit="short",
        description="Jobs that ended in the hour before. Many that failed: `strata jobs "
        "--state failed`, then `strata status JOB`.",
        queries={
            # Counted from the database, whoever leads: so one series through changes of leader.
            "{{outcome}}": "increase((max by (outcome) (strata_jobs_finished_total))"
            f"[{JOBS_WINDOW}:5s])"
        },
        colours={"succeeded": GOOD, "failed": BAD, "cancelled": NEUTRAL, "timed_out": WARN},
        is_stacked=True,
    ),
    Panel(
        title="Attempts and retries",
        unit="short",
        description="Attempts granted in the hour before, and jobs that were queued again, by how "
        "their attempt failed. node_lost or preempted: the nodes; out_of_memory: the job; "
        "storage: the storage.",
        queries={
            "attempts": f"sum(increase(strata_attempts_total[{JOBS_WINDOW}]))",
            "retries: {{kind}}": or_quiet(
                f"sum by (kind) (increase(strata_retries_total[{JOBS_WINDOW}]))", "kind", "none"
            ),
        },
    ),
    Panel(
        title="CPUs",
        unit="short",
        width=QUARTER,
        description="CPUs of all nodes. Unreachable ones belong to an agent that is silent: look "
        "at its pod and at its raylet.",
        queries={
            "{{state}}": "sum by (state) (max by (agent, state) (strata_cluster_cpus))",
        },
        colours=CAPACITY_COLOURS,
        is_stacked=True,
        is_stepped=True,
    ),
    Panel(
        title="GPUs",
        unit="short",
        width=QUARTER,
        description="GPUs of all nodes; zero in a cluster without. Free ones while jobs wait: "
        "`strata status JOB`.",
        queries={
            "{{state}}": "sum by (state) (max by (agent, state) (strata_cluster_gpus))",
        },
        colours=CAPACITY_COLOURS,
        is_stacked=True,
        is_stepped=True,
    ),
    Panel(
        title="Held by each queue",
        unit="short",
        width=QUARTER,
        description="CPUs and GPUs that the jobs of a queue hold now.",
        queries={
            "{{queue}}: CPUs": "max by (queue) (strata_queue_allocated_cpus)",
            "{{queue}}: GPUs": "max by (queue) (strata_queue_allocated_gpus)",
        },
        is_stepped=True,
    ),
    Panel(
        title="Nodes",
        unit="short",
        width=QUARTER,
        description="Nodes by agent. Silent ones are those of an agent that has not spoken for "
        "too long; their jobs go on, and are taken for lost only later.",
        queries={
            "{{agent}}: {{state}}": "max by (agent, state) (strata_nodes)",
        },
        is_stacked=True,
        is_stepped=True,
    ),
    Panel(
        title="Silence of the agents",
        unit="s",
        description="Time since an agent spoke; a long-poll of it takes 20 s. After 300 s its "
        "attempts are taken for lost: restart the agent before, training outlives it.",
        queries={
            "{{agent}}": "time() - max by (agent) (strata_agent_last_sync_timestamp_seconds)",
        },
        steps=((60, WARN), (300, BAD)),
    ),
    Panel(
        title="Lost gangs",
        unit="short",
        description="Attempts that were given up without proof of their end. Their nodes stay "
        "blocked until an agent proves it: bring the agent back, or take the nodes away.",
        queries={"{{kind}}": "max by (kind) (strata_orphans)"},
        steps=((1, WARN),),
        is_stepped=True,
    ),
    Panel(
        title="Checkpoints that failed",
        unit="short",
        description="In the hour before. not_saved and storage: the storage; damaged: it lost "
        "bytes, and the checkpoint before was taken; refused: another job's or a forged one.",
        queries={
            "{{reason}}": or_quiet(
                f"sum by (reason) (increase(strata_checkpoint_failures_total[{JOBS_WINDOW}]))",
                "reason",
                "none",
            )
        },
    ),
)
