"""What came of each client and scenario; the tables of docs/protocol.md are made from it."""

import json
import os


def record(client, scenario, outcome, why=""):
    """OUTCOME is passed, failed or not possible. Added to $KQFS_CLIENTS_RESULTS, where that is set."""
    if path := os.environ.get("KQFS_CLIENTS_RESULTS"):
        with open(path, "a") as file:
            file.write(json.dumps({"client": client, "scenario": scenario, "outcome": outcome,
                                   "why": why}) + "\n")
