# %% [markdown]
# # Sparse and clustered
# For the fewest bytes: remove most single weights, let the others share a few values, and code what is left.

# %%
import copy
from pathlib import Path

import torch

import pintsize as ps

torch.manual_seed(0)
data = ps.data.load("digits")
model = ps.models.create("resnet-demo", in_channels=1)
ps.train(model, data, epochs=4, lr=0.05, batch_size=64)
ps.save(model, "dense.safetensors")
dense = copy.deepcopy(model)

# %% [markdown]
# One weight in five stays. The masks hold while the network trains on.

# %%
sparsity = ps.sparsify(model, density=0.2)
ps.train(model, data, epochs=2, lr=0.02, batch_size=64)
sparsity

# %%
ps.viz.kept_weights(model)

# %% [markdown]
# Eight values for each layer, found by an optimal k-means, trained on together.

# %%
clusters = ps.cluster(model, k=8)
ps.train(model, data, epochs=1, lr=0.005, batch_size=64)
print(f"{len(clusters.layers)} layers, {clusters.bytes} bytes of codebooks and codes")

# %%
ps.viz.display_scatter(dense, model, labels=("dense", "clustered"))

# %% [markdown]
# A `.pint` file holds codebooks and codes, entropy-coded. It gives back the exact network.

# %%
ps.save(model, "net.pint")
again = ps.load("net.pint")
images, _ = next(iter(data.test.batches(batch_size=8)))
assert torch.equal(again(images), model.eval()(images))
ps.show("net.pint")

# %%
sizes = [Path(name).stat().st_size for name in ("dense.safetensors", "net.pint")]
print(f"bytes {sizes[0]} → {sizes[1]}, {sizes[0] / sizes[1]:.0f} times fewer")
print(f"test accuracy {ps.evaluate(dense, data.test):.1f} % → {ps.evaluate(again, data.test):.1f} %")
