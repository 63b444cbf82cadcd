"""Ray Train's TorchTrainer on a running Ray: print the seconds from `fit()` to its first step."""

import sys
from pathlib import Path
from time import time
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchTrainer, prepare_model


def one_step(config: dict[str, Any]) -> None:
    """Train one step of the same net as the other side, and write down when it was done."""
    import torch
    from torch import nn

    layers = [nn.Linear(64, 64), nn.Sigmoid(), nn.Linear(64, 64), nn.Sigmoid(), nn.Linear(64, 10)]
    model = prepare_model(nn.Sequential(*layers))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.rand(50, 64), torch.randint(0, 10, (50,))
    torch.autograd.backward(nn.functional.cross_entropy(model(x), y))
    optimizer.step()
    if get_context().get_world_rank() == 0:
        Path(config["file"]).write_text(str(time()))


def main(address: str, folder: str) -> None:
    """Run one fit of two workers."""
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    file = Path(folder) / "first-step"
    trainer = TorchTrainer(
        one_step,
        train_loop_config={"file": str(file)},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=folder),
    )
    began = time()
    trainer.fit()
    print(float(file.read_text()) - began)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
