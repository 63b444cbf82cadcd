"""Evaluates the net on a part of the data, shared out over the ranks; exact for any number of them.

Letters: B samples at once, K classes.
"""

import torch
from torch.nn.functional import cross_entropy

from workers.data.dataset import Part
from workers.data.order import rank_part
from workers.models.layered import Layered
from workers.parallel.collectives import settle_buffers, summed
from workers.parallel.mesh import Seat

ROWS_AT_ONCE = 4096  # bounds the memory of the activations


@torch.no_grad()
def evaluate(net: Layered, part: Part, seat: Seat) -> dict[str, float]:
    """Return error and accuracy in %, and the mean cross-entropy as loss in nats; collective."""
    settle_buffers(net.buffers(), seat)
    net.eval()
    mine = rank_part(len(part), seat.rank, seat.world_size)
    sums = torch.zeros(2, dtype=torch.float64, device=seat.device)  # wrong answers, nats
    # As many passes on each rank, be the last one empty: a net in shards is put together by all.
    for start in range(mine.start, mine.start + -(-len(part) // seat.world_size), ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, mine.stop))
        y_B = part.y_N[rows]
        logits_BK = net(part.x_N[rows])
        sums[0] += (logits_BK.argmax(1) != y_B).sum()
        sums[1] += cross_entropy(logits_BK, y_B, reduction="sum")
    net.train()
    wrong, nats = (summed(sums, seat) / len(part)).tolist()
    return {"error": 100.0 * wrong, "accuracy": 100.0 * (1.0 - wrong), "loss": nats}
