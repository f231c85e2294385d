# %% [markdown]
# # Quick start
# Train a small network, prune it to half of its work, recover what that cost, quantize it to 8 bits, and
# measure the file that is deployed. Runs in seconds; every `# %%` is a cell of a notebook.

# %%
import torch

import pintsize as ps

torch.manual_seed(0)
data = ps.data.load("digits")
model = ps.models.create("resnet-demo", in_channels=1)
history = ps.train(model, data, epochs=4, lr=0.05, batch_size=64)
history

# %% [markdown]
# What it costs, layer by layer.

# %%
example, _ = next(iter(data.val.batches(batch_size=2)))
dense = ps.profile(model, example)
dense

# %% [markdown]
# Channels are cut out for good; the smaller network is checked against the larger one on the example.

# %%
plan = ps.prune(model, example, macs=0.5)
plan

# %%
ps.train(model, data, epochs=2, lr=0.02, batch_size=64)
ps.quantize(model, calibration=data.train)
ps.show(model, example=example)

# %% [markdown]
# The file itself, in ONNX Runtime, on images that nothing was fitted to.

# %%
ps.export(model, "net.onnx", example=example)
found = ps.verify("net.onnx", model, data.test)
print(f"MACs {dense.macs} → {ps.profile(model, example).macs}")
print(f"accuracy of the file {found.accuracy:.1f} %, the same class as the model for {found.agreement:.1f} %")
