# %% [markdown]
# # Deploy
# From a trained network to a file, and the file beside its competitors: which is smaller, which is faster,
# and whether it still says what the network says.

# %%
import torch

import pintsize as ps
from pintsize.measure import side_by_side

torch.manual_seed(0)
data = ps.data.load("digits")
model = ps.models.create("resnet-demo", in_channels=1)
ps.train(model, data, epochs=4, lr=0.05, batch_size=64)
example, _ = next(iter(data.val.batches(batch_size=2)))
written = ps.export(model, "fp32.onnx", example=example)

# %% [markdown]
# Ranges of the activations are taken from training images; the network stays a PyTorch network.

# %%
ps.quantize(model, weights=8, activations=8, calibration=data.train)
ps.show(model, example=example)

# %%
ps.viz.quantization_error(model)

# %% [markdown]
# The class names travel in the file. It is held against the network, image by image, in the real runtime.

# %%
ps.export(model, "int8.onnx", example=example, classes=data.classes)
found = ps.verify("int8.onnx", model, data.test, threads=1)
ps.show("int8.onnx")

# %% [markdown]
# Both files take turns, so that they see the same machine.

# %%
runtimes = {name: ps.open_runtime(name, threads=1) for name in ("fp32.onnx", "int8.onnx")}
times = side_by_side(runtimes, example[:1].numpy(), threads=1)
results = {
    name: {
        "median_ms": times[name].median_ms,
        "p95_ms": times[name].p95_ms,
        "bytes": ps.show(name).file_bytes,
    }
    for name in runtimes
}
ps.viz.runtime_bars(results)

# %%
print(f"the file and the network name the same class for {found.agreement:.1f} % of the test images")
for name, row in results.items():
    print(f"{name}: {row['median_ms']:.3f} ms, {row['bytes']} bytes")
