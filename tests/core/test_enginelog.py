"""The engine log looks as if Python's logging had written it in REANA's format."""

import logging

import pytest
from drawbar.enginelog import log_line

REANA = logging.Formatter("%(asctime)s | %(name)s | %(threadName)s | %(levelname)s | %(message)s")


@pytest.mark.parametrize("seconds", [0, 0.5, 1767225600.007, 1767225600.999, 1782864000.25])
@pytest.mark.parametrize("message", ["node ready </init:0|success|known>", "two\nlines", "100 % | done", ""])
def test_as_logging_writes_it(seconds, message):
    record = logging.makeLogRecord({"name": "adage.node", "levelname": "INFO", "msg": message})
    record.threadName, record.created, record.msecs = "MainThread", seconds, int(seconds % 1 * 1000)
    assert log_line(seconds, "adage.node", "INFO", message) == REANA.format(record) + "\n"


def test_a_thread_has_a_name():
    line = log_line(0, "cwltool", "INFO", "[step fit] completed success", "fit")
    assert line.endswith(" | cwltool | fit | INFO | [step fit] completed success\n")


def test_an_entry_ends_with_one_newline_and_its_names_have_none():
    line = log_line(0, "a\nb", "INFO", "command\n\n", "c\td")
    assert line.endswith(" | a b | c d | INFO | command\n")
