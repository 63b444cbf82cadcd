"""The control plane's row: do the servers lead, answer, and reach what they need."""

from deploy.grafana.panels import (
    BAD,
    GOOD,
    JOBS_WINDOW,
    LONG_POLLS,
    NEUTRAL,
    QUIET,
    RATE,
    SIXTH,
    WARN,
    Panel,
    or_quiet,
    quantile,
)

UP = {"0": "down", "1": "up"}
CONTROL = (
    Panel(
        title="Leaders",
        unit="short",
        description="Exactly one server leads. None: nothing is scheduled, look at the servers and "
        "the database. Two, for more than a few seconds: their clocks or the database's lease.",
        queries={"leaders": "sum(strata_controller_leader)"},
        width=SIXTH,
        is_stat=True,
        start=BAD,
        steps=((1, GOOD), (2, BAD)),
    ),
    Panel(
        title="Changes of leader",
        unit="short",
        description="In the hour before. One for each roll-out is usual; more: servers that are "
        "restarted, or a database that answers too late.",
        queries={
            "changes": f"sum(increase(strata_leader_transitions_total[{JOBS_WINDOW}]))",
        },
        width=SIXTH,
        is_stat=True,
        steps=((3, WARN), (10, BAD)),
    ),
    Panel(
        title="Database",
        unit="short",
        description="Down if any server does not reach it. Training goes on; nothing is "
        "scheduled, and reports wait.",
        queries={"database": "min(strata_database_up)"},
        width=SIXTH,
        is_stat=True,
        start=BAD,
        steps=((1, GOOD),),
        texts=UP,
    ),
    Panel(
        title="Redis",
        unit="short",
        description="Down if any server does not reach it: everything still works, a second or "
        "so later. A service may be set up without.",
        queries={"redis": f"min(strata_redis_up) or {QUIET} - 1"},
        width=SIXTH,
        is_stat=True,
        start=NEUTRAL,
        steps=((0, BAD), (1, GOOD)),
        texts={"-1": "not used", **UP},
    ),
    Panel(
        title="Releases",
        unit="short",
        description="How many servers run which release. Two releases for long: a roll-out that "
        "hangs.",
        queries={"{{version}}": "count by (version) (strata_build_info)"},
        width=SIXTH,
        is_stat=True,
        start=NEUTRAL,
    ),
    Panel(
        title="Schema",
        unit="short",
        description="The database's schema, as the servers see it. `strata db current` says more.",
        queries={"{{revision}}": "count by (revision) (strata_schema_revision_info)"},
        width=SIXTH,
        is_stat=True,
        shows_name=True,
        start=NEUTRAL,
    ),
    Panel(
        title="Scheduling pass, p95",
        unit="s",
        description="Time of one pass over the queue. Above a second jobs start late: very long "
        "queues, or a slow database.",
        queries={"p95": quantile(0.95, "strata_scheduler_pass_seconds")},
        steps=((1, WARN), (5, BAD)),
    ),
    Panel(
        title="Control loop, p95 by phase",
        unit="s",
        description="Where the loop's time goes. The phase that has grown names the cause; the "
        "lease of the leader is over after 9 s.",
        queries={"{{phase}}": quantile(0.95, "strata_loop_seconds", by="phase")},
        steps=((3, WARN), (9, BAD)),
    ),
    Panel(
        title="Control loop, errors by phase",
        unit="cps",
        description="Phases that failed; they are tried again at once. Not zero: the leader's log "
        "has the traceback.",
        queries={
            "{{phase}}": or_quiet(
                f"sum by (phase) (rate(strata_loop_errors_total[{RATE}]))", "phase", "none"
            )
        },
    ),
    Panel(
        title="Requests by route",
        unit="reqps",
        description="Answered requests of all servers. A route that stands out: a client that "
        "asks in a loop.",
        queries={"{{route}}": f"sum by (route) (rate(strata_http_requests_total[{RATE}]))"},
    ),
    Panel(
        title="Answer time by route, p95",
        unit="s",
        description="Without the routes that wait on purpose. Slow everywhere: the database; slow "
        "on one: that one.",
        queries={
            "{{route}}": quantile(
                0.95,
                "strata_http_request_seconds",
                by="route",
                where=f'{{route!~"{LONG_POLLS}"}}',
            )
        },
        steps=((0.5, WARN), (2.5, BAD)),
    ),
    Panel(
        title="Requests that failed",
        unit="reqps",
        description="Answers of our own fault, by route. 503: the database is away; 500: the "
        "server's log has the traceback.",
        queries={
            "{{route}} {{status}}": or_quiet(
                "sum by (route, status) "
                f'(rate(strata_http_requests_total{{status=~"5.."}}[{RATE}]))',
                "route",
                "none",
            )
        },
    ),
    Panel(
        title="Database, p95 by operation",
        unit="s",
        description="Time of a statement. It grows: look at the database's load and locks.",
        queries={"{{op}}": quantile(0.95, "strata_db_query_seconds", by="op")},
        steps=((0.25, WARN), (1, BAD)),
    ),
    Panel(
        title="Database, errors",
        unit="cps",
        description="Statements that failed, by kind. They are tried again or refused in clear "
        "words; many: the database is overloaded, or away.",
        queries={
            "{{kind}}": or_quiet(
                f"sum by (kind) (rate(strata_db_errors_total[{RATE}]))", "kind", "none"
            )
        },
    ),
    Panel(
        title="Redis, errors",
        unit="cps",
        description="Commands that failed, and heartbeats that were not heard. Zero too where "
        "Redis is not used.",
        queries={"errors": f"sum(rate(strata_redis_errors_total[{RATE}])) or {QUIET}"},
    ),
)
