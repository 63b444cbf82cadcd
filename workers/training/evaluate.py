"""Evaluates the net on a part of the data, shared out over the ranks; exact for any number of them.

Letters: B samples at once, K classes.
"""

import torch
from torch.nn.functional import cross_entropy

from workers.data.order import rank_part
from workers.data.part import Part, rows_at_once
from workers.models.layered import Layered
from workers.parallel.collectives import settle_buffers, summed
from workers.parallel.mesh import Seat

EPOCH = 0  # what is evaluated looks the same in all


@torch.no_grad()
def evaluate(net: Layered, part: Part, seat: Seat) -> dict[str, float]:
    """Return error and accuracy in %, and the mean cross-entropy as loss in nats; collective."""
    settle_buffers(net.buffers(), seat)
    net.eval()
    mine = rank_part(len(part), seat.rank, seat.world_size)
    sums = torch.zeros(2, dtype=torch.float64, device=seat.device)  # wrong answers, nats
    # As many passes on each rank, be the last one empty: a net in shards is put together by all.
    at_once = rows_at_once(part.shape)
    starts = range(mine.start, mine.start + -(-len(part) // seat.world_size), at_once)
    batches = [
        torch.arange(start, max(start, min(start + at_once, mine.stop)), device=seat.device)
        for start in starts
    ]
    part.expect(iter(batches), EPOCH)
    for rows_B in batches:
        y_B = part.labels(rows_B)
        logits_BK = net(part.rows(rows_B, EPOCH))
        sums[0] += (logits_BK.argmax(1) != y_B).sum()
        sums[1] += cross_entropy(logits_BK, y_B, reduction="sum")
    net.train()
    wrong, nats = (summed(sums, seat) / len(part)).tolist()
    return {"error": 100.0 * wrong, "accuracy": 100.0 * (1.0 - wrong), "loss": nats}
