"""Frames on the wire: whole messages out of any pieces, and an error for everything else."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time

import pytest
from drawbar.errors import EngineDied
from drawbar.wire import Buffer, pack, receive

MESSAGES = [["a"], ["b", 1, None, {"x": ["ü", "\udcff"]}], ["c", "z" * 10_000]]


def test_what_is_packed_is_fed_back_whatever_the_pieces():
    data = pack(MESSAGES) + pack([]) + pack([["d"]])
    for seed in range(20):
        pieces, buffer, found, place = random.Random(seed), Buffer(), [], 0
        while place < len(data):
            size = pieces.choice([1, 2, 3, 5, 1000])
            found += buffer.feed(data[place : place + size])
            place += size
        assert found == [*MESSAGES, ["d"]]


@pytest.mark.parametrize(
    "frame",
    [b"abc", b"{}", b"[1]", b'["a"]', b"[[]]", b"null", b"", b"\xff\xfe", b"[[1]", b"[" * 100_000],
)
def test_what_is_no_frame_is_an_error(frame):
    with pytest.raises(EngineDied, match="engine process sent"):
        Buffer().feed(struct.pack("!I", len(frame)) + frame)


def test_a_huge_frame_is_refused_before_it_is_there():
    with pytest.raises(EngineDied, match="frame of 3000000000 bytes"):
        Buffer().feed(struct.pack("!I", 3_000_000_000))


def test_a_large_frame_in_small_pieces_costs_no_more_than_its_size():
    def spent(size: int) -> float:
        data = pack([["x" * size]])
        buffer, started = Buffer(), time.process_time()
        for place in range(0, len(data), 4096):
            buffer.feed(data[place : place + 4096])
        return time.process_time() - started

    assert min(spent(16 << 20) for _ in range(2)) < 5 * 4 * max(min(spent(4 << 20) for _ in range(3)), 0.001)


def test_receive_gives_what_comes_until_the_end():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(
            target=lambda: (theirs.sendall(pack(MESSAGES)), theirs.shutdown(socket.SHUT_WR))
        )
        sender.start()
        buffer, found = Buffer(), []
        while (messages := receive(ours, buffer)) is not None:
            found += messages
        sender.join()
    assert found == MESSAGES


def test_the_end_in_the_middle_of_a_frame_is_an_end():
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(pack(MESSAGES)[:-1])
        theirs.close()
        assert receive(ours, Buffer()) is None


def test_a_frame_is_a_length_and_compact_json():
    assert pack([["a", 1]]) == struct.pack("!I", 9) + b'[["a",1]]'
    assert json.loads(pack(MESSAGES)[4:]) == MESSAGES
