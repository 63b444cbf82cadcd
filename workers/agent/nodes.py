"""What Ray says of its nodes, as the contract says it."""

from typing import Any

import ray

from workers.contract.inventory import NodeSeen


def nodes_seen() -> tuple[NodeSeen, ...]:
    """The living nodes that have CPUs to give; an agent's own node has none."""
    seen = (_node(node) for node in ray.nodes() if node["Alive"])
    return tuple(sorted((node for node in seen if node.cpus > 0), key=lambda node: node.node_id))


def _node(node: dict[str, Any]) -> NodeSeen:
    resources = node["Resources"]
    gpu_types = [
        name.removeprefix("accelerator_type:")
        for name in resources
        if name.startswith("accelerator_type:")
    ]
    return NodeSeen(
        node_id=node["NodeID"],
        host=node["NodeManagerHostname"],
        cpus=int(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        gpu_type=min(gpu_types, default=None),
        memory_bytes=int(resources.get("memory", 0)),
        labels={name: str(value) for name, value in node.get("Labels", {}).items()},
    )
