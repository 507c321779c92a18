#!/usr/bin/python3
"""As test_tcp_faults, with many more connections."""
# kqfs-test: long timeout=1800

import test_tcp_faults as faults
from mounted import *

faults.CONNECTIONS = 100000
faults.IDLE = 10000


def test_many_connections_one_after_the_other():
    faults.test_many_connections_one_after_the_other()


def test_idle_connections_take_little_memory():
    faults.test_idle_connections_take_little_memory()


if __name__ == "__main__":
    main(faults.broker)
