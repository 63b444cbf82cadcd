"""The bus of one process: at once, on the waker's thread, and nothing is left behind."""

import threading

from service.bus.local_bus import LocalBus


def test_listeners_are_called_before_wake_returns() -> None:
    bus, heard = LocalBus(), list[str]()
    bus.listen("queue", lambda: heard.append("first"))
    bus.listen("queue", lambda: heard.append("second"))
    bus.wake("queue")
    assert heard == ["first", "second"]


def test_a_listener_may_leave_and_another_come_while_they_are_woken() -> None:
    bus, heard = LocalBus(), list[str]()

    def once() -> None:
        heard.append("once")
        leave()
        bus.listen("queue", lambda: heard.append("new"))

    leave = bus.listen("queue", once)
    bus.wake("queue")
    bus.wake("queue")
    assert heard == ["once", "new"]


def test_leaving_ends_one_of_two_listenings_and_may_be_repeated() -> None:
    bus, heard = LocalBus(), list[str]()

    def on_wake() -> None:
        heard.append("woken")

    leave_first = bus.listen("queue", on_wake)
    leave_second = bus.listen("queue", on_wake)
    leave_first()
    leave_first()
    bus.wake("queue")
    assert heard == ["woken"]
    leave_second()
    bus.wake("queue")
    assert heard == ["woken"]


def test_many_may_listen_wake_and_leave_at_once() -> None:
    bus = LocalBus()
    failed = list[Exception]()

    def come_and_go() -> None:
        try:
            for _ in range(500):
                ear = threading.Event()
                leave = bus.listen("queue", ear.set)
                bus.wake("queue")
                assert ear.is_set()
                leave()
        except Exception as error:  # noqa: BLE001  # told to the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
