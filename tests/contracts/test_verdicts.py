"""What the workers say of their layers, the service knows to repeat."""

from service.control.diagnosis import CODES
from workers.contract.reports import Noticed
from workers.telemetry import diagnostics


def test_every_verdict_of_the_workers_is_known_here() -> None:
    figures = {"gradient_decay": 0.0, "dead.a": 1.0, "saturation.a": 1.0}
    said = [
        diagnostics._of_decay(0.0, "a", "b"),
        diagnostics._of_decay(1e9, "a", "b"),
        diagnostics._of_layers(figures, "dead", 0.5, "dead_units", "{layer}"),
        diagnostics._of_layers(figures, "saturation", 0.5, "saturated_units", "{layer}"),
        diagnostics.collapsed("a", 0.0),
    ]
    assert all(isinstance(noticed, Noticed) for noticed in said)
    assert {noticed.code for noticed in said if noticed is not None} <= CODES
