"""A sweep on a Ray cluster of this machine: what the death of a node loses or repeats, and what a second worker gains.

    python benchmarks/sweep_cluster.py --what kill          # 12 trials, 2 nodes, one killed after the fourth
    python benchmarks/sweep_cluster.py --what efficiency    # the same sweep on 1 node and on 2, undisturbed

A node has one core. The trials differ in the seed, so they share no training. Efficiency is the time of one node over
twice that of two, starts of Ray's workers included; it means something on an idle machine with two cores or more alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SWEEP = """
recipe:
  model: resnet-demo
  data: {name: digits, limit: LIMIT}
  train: {epochs: EPOCHS, lr: 0.05, batch_size: 32, precision: fp32}
  quantize: null
  export: {threads: 1}
grid:
  seed: SEEDS
"""


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=("kill", "efficiency", "once"), default="kill")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--limit", type=int, default=600, help="images of a trial")
    parser.add_argument("--kill-after", type=int, default=4, help="trials that are done when a node dies")
    return parser.parse_args()


def states(out):
    found = {}
    for file in out.glob("trials/*/trial.json"):
        found[file.parent.name] = json.loads(file.read_text())["state"]
    return found


def once(given, nodes, *, kill):
    """One sweep on a fresh cluster."""
    os.environ.update(OMP_NUM_THREADS="1", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    from ray.cluster_utils import Cluster

    from pintsize.search.sweep import sweep

    folder = Path(tempfile.mkdtemp())
    file, out = folder / "sweep.yaml", folder / "out"
    text = SWEEP.replace("LIMIT", str(given.limit)).replace("EPOCHS", str(given.epochs))
    file.write_text(text.replace("SEEDS", str(list(range(given.trials)))))
    # the head holds no core: a node that is killed is never the one that holds the cluster's state
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    workers = [cluster.add_node(num_cpus=1) for _ in range(nodes)]
    cluster.wait_for_nodes()
    killed = []

    def end_a_node():
        while True:  # all nodes are in the midst of a trial
            found = list(states(out).values())
            if found.count("done") >= given.kill_after and found.count("running") == nodes:
                break
            time.sleep(0.2)
        time.sleep(2)
        killed.extend(name for name, state in states(out).items() if state == "running")
        cluster.remove_node(workers[-1], allow_graceful=False)

    if kill:
        threading.Thread(target=end_a_node, daemon=True).start()
    start = time.perf_counter()
    found = sweep(file, out=out, engine="ray", address=cluster.address)
    seconds = time.perf_counter() - start
    cluster.shutdown()
    return {
        "nodes": nodes, "trials": len(found.trials), "done": len(found.points), "seconds": round(seconds, 1),
        "seconds_of_trials": [round(trial.seconds, 1) for trial in found.trials],
        "running_when_killed": sorted(killed), "begun_again": [t.name for t in found.trials if t.starts > 1],
    }  # fmt: skip


def efficiency(given):
    """Each count of nodes in a process of its own: Ray starts once a process."""
    rows = []
    for nodes in (1, 2):
        command = [sys.executable, __file__, "--what", "once", "--nodes", str(nodes), "--trials", str(given.trials),
                   "--epochs", str(given.epochs), "--limit", str(given.limit)]  # fmt: skip
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append(json.loads(told.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    return {"efficiency": round(rows[0]["seconds"] / (2 * rows[1]["seconds"]), 3)}


def main():
    given = arguments()
    if given.what == "efficiency":
        print(json.dumps(efficiency(given)))
        return
    row = once(given, given.nodes, kill=given.what == "kill")
    print(json.dumps(row))
    if row["done"] < row["trials"] or not set(row["begun_again"]) <= set(row["running_when_killed"]):
        sys.exit("trials were lost, or repeated without need")


if __name__ == "__main__":
    main()
