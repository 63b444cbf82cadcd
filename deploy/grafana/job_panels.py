"""One job's row: what it learns, how fast, and how much a crash would cost it."""

from deploy.grafana.panels import (
    BAD,
    EIGHTH,
    NEUTRAL,
    QUARTER,
    WARN,
    Panel,
    of_job,
    rate_of_job,
)

WAITING = rate_of_job("strata_train_data_wait_seconds_total")  # the share of the time

JOB = (
    Panel(
        title="Job",
        unit="short",
        description="Name and queue of the chosen job. Series of a job end five minutes after it: "
        "move the range of time to see older ones.",
        queries={"{{name}} in {{queue}}": 'max by (name, queue) (strata_job_info{job_id="$job"})'},
        width=QUARTER,
        is_stat=True,
        keeps_last=True,
        shows_name=True,
        start=NEUTRAL,
        empty="not trained in this range of time",
    ),
    Panel(
        title="Workers",
        unit="short",
        description="Processes that train the job together.",
        queries={"workers": of_job("strata_train_world_size")},
        width=EIGHTH,
        is_stat=True,
        keeps_last=True,
        start=NEUTRAL,
    ),
    Panel(
        title="Steps",
        unit="short",
        description="Optimizer steps done. Going back means: an attempt was lost, and the next "
        "one began at the last checkpoint.",
        queries={"steps": of_job("strata_train_step")},
        width=EIGHTH,
        is_stat=True,
        keeps_last=True,
        start=NEUTRAL,
    ),
    Panel(
        title="Samples",
        unit="short",
        description="Samples seen by all workers together.",
        queries={"samples": of_job("strata_train_samples_total")},
        width=EIGHTH,
        is_stat=True,
        keeps_last=True,
        start=NEUTRAL,
    ),
    Panel(
        title="Age of the checkpoint",
        unit="s",
        description="As much work is lost if the job dies now. Far above the interval of its "
        "recipe: `strata events JOB`, and look at the storage.",
        queries={
            "age": f"time() - {of_job('strata_checkpoint_last_success_timestamp_seconds')}",
        },
        width=EIGHTH,
        is_stat=True,
        keeps_last=True,
        steps=((1800, WARN), (7200, BAD)),
        empty="none yet",
    ),
    Panel(
        title="Steps left out",
        unit="short",
        description="Of this stage: their gradient was no number. A few at the start of fp16 are "
        "usual; many: lower the learning rate, or look at the data.",
        queries={"steps": of_job("strata_train_nonfinite_steps_total")},
        width=EIGHTH,
        is_stat=True,
        keeps_last=True,
        steps=((1, WARN), (100, BAD)),
    ),
    Panel(
        title="MFU",
        unit="percentunit",
        description="Share of the GPUs' peak that the model's own arithmetic uses. It is known for "
        "GPUs whose peak is; far below a third: small batches, or data that comes late.",
        queries={
            "mfu": f"{of_job('strata_train_mfu_ratio')} or 0 * {of_job('strata_train_step')} - 1"
        },
        width=EIGHTH,
        is_stat=True,
        keeps_last=True,
        start=NEUTRAL,
        texts={"-1": "not known"},
    ),
    Panel(
        title="Loss",
        unit="none",
        description="Mean since the last report. It may jump between stages, for each has a loss "
        "of its own; that of an RBM or an autoencoder is the error of its reconstruction.",
        queries={
            "loss": of_job("strata_train_loss"),
            "of it, reconstruction": of_job("strata_train_reconstruction_error"),
        },
        colours={"loss": NEUTRAL, "of it, reconstruction": WARN},
    ),
    Panel(
        title="Gradient norm",
        unit="none",
        description="At the last diagnosis. Towards zero: lower layers do not learn, pretrain "
        "them; growing without end: lower the learning rate, or clip.",
        queries={"gradient norm": of_job("strata_train_grad_norm")},
        is_logarithmic=True,
        empty="not diagnosed yet",
    ),
    Panel(
        title="Learning rate",
        unit="sci",
        description="Of the last step, as the schedule gave it.",
        queries={"learning rate": of_job("strata_train_learning_rate")},
    ),
    Panel(
        title="Samples per second",
        unit="suffix: samples/s",
        description="Of all workers together. A lasting drop: a slow node, or data that comes "
        "late.",
        queries={"samples per second": of_job("strata_train_samples_per_second")},
    ),
    Panel(
        title="Time of a step",
        unit="s",
        description="Mean since the last report, and the part of it that waited for data.",
        queries={
            "step": of_job("strata_train_step_seconds"),
            "of it, waiting for data": f"{WAITING} * {of_job('strata_train_step_seconds')}",
        },
    ),
    Panel(
        title="Share of time that waits for data",
        unit="percentunit",
        description="Above a fifth the processors starve: put the data nearer, or give each worker "
        "more CPUs.",
        queries={"share": WAITING},
        steps=((0.2, WARN), (0.5, BAD)),
    ),
    Panel(
        title="Memory",
        unit="bytes",
        description="Of the first worker: the peak on its GPU, else of its process. It grows "
        "without end: something keeps what it should not; report it.",
        queries={"memory": of_job("strata_train_memory_bytes")},
    ),
    Panel(
        title="Gradient norm by layer",
        unit="none",
        description="At the last diagnosis, on a logarithmic scale. Lines that lie orders of "
        "magnitude apart: the gradient vanishes on its way down, so pretrain the lower layers.",
        queries={"{{layer}}": of_job("strata_train_layer_grad_norm", by="layer")},
        is_logarithmic=True,
        empty="set STRATA_METRICS_LAYERS on the servers",
    ),
    Panel(
        title="Dead units by layer",
        unit="percentunit",
        description="Share of a layer's units that were 0 for a whole batch. Many: lower the "
        "learning rate, or take an activation that does not die.",
        queries={"{{layer}}": of_job("strata_train_layer_dead_unit_ratio", by="layer")},
        steps=((0.5, WARN), (0.9, BAD)),
        empty="set STRATA_METRICS_LAYERS on the servers",
    ),
    Panel(
        title="Stage and epoch",
        unit="short",
        description="The stage that trains, from 0, and the whole epochs done in it.",
        queries={
            "stage": of_job("strata_train_stage_index"),
            "epoch": of_job("strata_train_epoch"),
        },
        is_stepped=True,
    ),
    Panel(
        title="Size of the checkpoint",
        unit="bytes",
        description="Of the current one, on the storage.",
        queries={"size": of_job("strata_checkpoint_bytes")},
        is_stepped=True,
        empty="none yet",
    ),
    Panel(
        title="Time of the checkpoint",
        unit="s",
        description="How long the current one took to write, and how long training stood still "
        "for it. Slow writes: the storage. Long stalls: checkpoint less often.",
        queries={
            "save": of_job("strata_checkpoint_save_seconds"),
            "stall": of_job("strata_checkpoint_stall_seconds"),
        },
        is_stepped=True,
        empty="none yet",
    ),
)
