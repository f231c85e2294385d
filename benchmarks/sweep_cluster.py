"""Twelve trials on a two-node Ray cluster of this machine, one node killed midway: what was lost, what was repeated.

    python benchmarks/sweep_cluster.py            # then once more with --nodes 1 and 2 and no kill, for the efficiency

A node has one core. Each trial trains a network of its own (they differ in the seed), so nothing is shared.
"""

import argparse
import json
import os
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
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--limit", type=int, default=600)
    parser.add_argument("--kill-after", type=int, help="kill a node once so many trials are done")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def done(out):
    states = [json.loads(file.read_text())["state"] for file in out.glob("trials/*/trial.json")]
    return states.count("done")


def main():
    given = arguments()
    os.environ.update(OMP_NUM_THREADS="1", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    from ray.cluster_utils import Cluster

    from pintsize.search.sweep import sweep

    out = given.out or Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    file = out / "sweep.yaml"
    text = SWEEP.replace("LIMIT", str(given.limit)).replace("EPOCHS", str(given.epochs))
    file.write_text(text.replace("SEEDS", str(list(range(given.trials)))))
    # the head holds no core: a node that is killed is never the one that holds the cluster's state
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(given.nodes)]
    cluster.wait_for_nodes()
    killed = []

    def kill():
        while done(out / "o") < given.kill_after:
            time.sleep(0.2)
        running = [f.parent.name for f in (out / "o").glob("trials/*/trial.json")
                   if json.loads(f.read_text())["state"] == "running"]  # fmt: skip
        cluster.remove_node(nodes[-1], allow_graceful=False)
        killed.append(running)

    if given.kill_after is not None:
        threading.Thread(target=kill, daemon=True).start()
    start = time.perf_counter()
    found = sweep(file, out=out / "o", engine="ray", address=cluster.address)
    seconds = time.perf_counter() - start
    cluster.shutdown()
    again = [trial.name for trial in found.trials if trial.starts > 1]
    print(json.dumps({
        "nodes": given.nodes, "trials": len(found.trials), "done": len(found.points), "seconds": round(seconds, 1),
        "trial_seconds": [round(trial.seconds, 1) for trial in found.trials],
        "running_when_killed": killed[0] if killed else None, "begun_again": again,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
