"""Functions that tests run in processes of their own. They import nothing heavy."""

import os
import time

from scalelab.bench.base import BenchRow

ROW = BenchRow("first", "measured", {})


def hang(connection, *arguments):
    connection.send(ROW)
    time.sleep(600)


def crash(connection, *arguments):
    connection.send(ROW)
    os.abort()


def answer(connection, *arguments):
    connection.send((os.environ.get("SCALELAB_TEST"), arguments))
