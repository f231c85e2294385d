"""What holds for every test."""

import os

# Before anything imports the hub's client, which reads it once: no test waits for a network.
os.environ["HF_HUB_OFFLINE"] = "1"
