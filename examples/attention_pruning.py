# %% [markdown]
# # Attention pruning
# Each channel gets an attention that is learned while the network trains and pulled towards zero; where it
# reaches zero the channel goes. After each step the network recovers (Novshadian and Abdelefatah, 2024).

# %%
import torch

import pintsize as ps
from pintsize.pruning import prune_by_attention

torch.manual_seed(0)
data = ps.data.load("digits")
model = ps.models.create("resnet-demo", in_channels=1)
ps.train(model, data, epochs=4, lr=0.05, batch_size=64)
before = ps.evaluate(model, data.test)

# %%
result = prune_by_attention(
    model,
    data,
    at="norm",
    start=(1.0, 1.0),
    target=0.5,  # of the parameters
    attention_weight=0.02,
    attention_lr=5e-2,
    lr=1e-3,
    weight_penalty=0.0,
    batch_size=64,
    attention_epochs=5,
    recovery_epochs=1,
    distill=True,
)
result

# %% [markdown]
# Which layers gave up channels when, and what that did to the accuracy; a mark is where a recovery ended.

# %%
figures = result.figures(model)
figures["layers"]

# %%
figures["training"]

# %%
ps.train(model, data, epochs=2, lr=0.02, batch_size=64)
print(result)
print(f"test accuracy {before:.1f} % → {ps.evaluate(model, data.test):.1f} %")
