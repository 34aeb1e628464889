"""The engine process's end of the wire: what comes in which order, and that the end is noticed."""

import socket
import sys
import threading

import pytest
from drawbar.channel import Channel
from drawbar.wire import Buffer, pack, receive

DEADLINE_S = 60


class Wire:
    """A channel, and the driver's end of its connection."""

    def __init__(self) -> None:
        self.driver, self.engine = socket.socketpair()
        self.buffer = Buffer()
        self.ended = threading.Event()
        self.channel = Channel(self.engine, self._end)

    def _end(self) -> None:
        self.ended.set()
        if threading.current_thread() is threading.main_thread():
            sys.exit()

    def say(self, *messages: list) -> None:
        self.driver.sendall(pack(messages))

    def heard(self) -> list:
        return receive(self.driver, self.buffer) or []


@pytest.fixture
def wire():
    made = Wire()
    yield made
    made.driver.close()
    assert made.ended.wait(DEADLINE_S)
    made.engine.close()


def test_messages_come_in_their_order_however_they_are_cut(wire):
    data = pack([["a", 1], ["b", 2]]) + pack([["c", 3]])
    sender = threading.Thread(target=lambda: [wire.driver.sendall(data[n : n + 1]) for n in range(len(data))])
    sender.start()
    assert [wire.channel.next() for _ in range(3)] == [["a", 1], ["b", 2], ["c", 3]]
    sender.join()


def test_what_is_not_the_answer_is_kept_for_later(wire):
    wire.say(["executed", "x"], ["found", []], ["prepare", "y"])
    assert wire.channel.ask("lookup", [], answers=("found",)) == ["found", []]
    assert wire.heard() == [["lookup", []]]
    assert [wire.channel.next(), wire.channel.next()] == [["executed", "x"], ["prepare", "y"]]


def test_what_is_held_back_is_said_before_waiting_and_in_one_frame(wire):
    wire.say(["executed", "x"], ["executed", "y"])
    for name in "xy":
        assert wire.channel.next() == ["executed", name]
        wire.channel.send("accept", name)
    wire.say(["executed", "z"])
    assert wire.channel.next() == ["executed", "z"]
    assert wire.heard() == [["accept", "x"], ["accept", "y"]]


def test_a_message_of_another_thread_ends_the_waiting(wire):
    thread = threading.Thread(target=wire.channel.put, args=("interrupt",))
    thread.start()
    assert wire.channel.next() == ["interrupt"]
    thread.join()


def test_ones_own_message_comes_after_what_the_driver_has_said_by_then(wire):
    wire.say(["executed", "x"], ["executed", "y"])
    wire.channel.put("interrupt")
    assert [wire.channel.next()[0] for _ in range(3)] == ["executed", "executed", "interrupt"]


def test_any_number_of_ones_own_messages_neither_block_nor_get_lost(wire):
    for number in range(200_000):  # more than a pipe holds
        wire.channel.put("interrupt", number)
    assert [wire.channel.next()[1] for _ in range(200_000)] == [*range(200_000)]


def test_the_end_is_noticed_while_nobody_waits(wire):
    wire.say(["executed", "x"])
    wire.driver.close()
    assert wire.ended.wait(DEADLINE_S)


def test_the_end_is_noticed_by_who_waits_or_speaks(wire):
    wire.driver.close()
    with pytest.raises(SystemExit):
        wire.channel.next()
    with pytest.raises(SystemExit):
        wire.channel.send("hits", 1, now=True)
