"""Goes back to a stage's last checkpoint when its loss is no number any more.

The batches from there to where it was noticed are passed over: they led there once, and would lead
there again (Chowdhery et al., "PaLM", 2022, section 5.1, did so by hand).
"""

from dataclasses import replace

from workers.contract.outcome import NonFiniteFailure
from workers.contract.reports import Noticed
from workers.stages.catalog import StagePlan
from workers.training.contents import Trained
from workers.training.course import Course
from workers.training.position import Position
from workers.training.resuming import newest_of_stage, restore_stage

ROLLBACKS_MAX = 5  # of a stage: one that needs more is not unlucky, but wrong


def rolled_back(
    course: Course, plan: StagePlan, trained: Trained, failed_at: Position, failure: Exception
) -> Position:
    """Restore the stage's last checkpoint; return where to go on. Every rank calls it.

    Raises:
        NonFiniteFailure: the stage has no checkpoint, or went back too often.
        StorageFailure: the checkpoint can't be read.
    """
    ref, saved = newest_of_stage(course, plan)
    num_rollbacks = failed_at.num_rollbacks + 1
    if ref is None or num_rollbacks > ROLLBACKS_MAX:
        why = (
            f"it has no checkpoint to go back to before step {failed_at.stage_step}; lower "
            "checkpoint.every_steps"
            if ref is None
            else f"it went back {ROLLBACKS_MAX} times already"
        )
        raise NonFiniteFailure(f"{failure}; {why}") from failure
    restore_stage(course, ref, trained)
    goes_on_at = min(failed_at.stage_step, plan.steps - 1)
    epoch_before = saved.stage_step // plan.steps_per_epoch
    epoch, step_of_epoch = divmod(goes_on_at, plan.steps_per_epoch)
    if epoch == epoch_before:
        trained.tally.leave_out(goes_on_at - saved.stage_step)
    else:
        trained.tally.begin_epoch(steps_left_out=step_of_epoch)
    course.tell(
        Noticed(
            code="rolled_back",
            sentence=f"{failure}. Went back to {ref.path}, without the batches of the steps "
            f"{saved.stage_step + 1} to {goes_on_at} ({num_rollbacks} of {ROLLBACKS_MAX} times).",
        )
    )
    return replace(
        saved,
        stage_step=goes_on_at,
        num_rollbacks=num_rollbacks,
        noticed=failed_at.noticed,  # what was told since then is not unsaid
    )
