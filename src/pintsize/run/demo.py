"""`make demo`: from nothing to a verified int8 file in about a minute, on images that need no download."""

from __future__ import annotations

import sys
import time

from .compression import compress


def main() -> None:
    """Train, prune, recover, quantize, export and verify a small network on digits; print what came of it."""
    start = time.perf_counter()
    result = compress(
        "resnet-demo-x4",
        "digits",
        image_size=16,  # of 8×8 images a convolution takes no longer than calling it
        macs=0.5,
        round_to="auto",
        epochs=8,
        lr=0.1,
        batch_size=64,
        recover_epochs=4,
        recover_lr=0.05,
        recover_batch_size=64,
        weights=8,
        activations=8,
        out="runs/demo",
    )
    seconds = time.perf_counter() - start
    sys.stdout.write(
        f"\nresnet-demo-x4 on digits of 16×16 pixels, accuracy on {result.metrics['data']['test']} test images, "
        f"one image at a time on {result.stages[0]['latency']['threads']} threads of ONNX Runtime:\n\n"
        f"{result.table()}\n\n"
        f"deployed file  {result.path}\n"
        f"report         {result.report}\n"
        f"{seconds:.0f} s; to do it all again, remove {result.folder}\n"
    )


if __name__ == "__main__":
    main()
