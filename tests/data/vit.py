"""Writes tests/data/vit.json: timm's vit_small_patch16_224 at 64x64, initialised by the rule of backbones.py.

    python tests/data/vit.py tests/data/vit.json

The format is that of backbones.json; `gradients` holds more tensors' gradients. The features are the class token after the
last normalisation. There is no dropout, so training mode gives the same features.
"""
import json
import sys

import numpy as np
import timm
import torch

SEED, SIZE, IMAGES = 20260720, 64, 2
GRADIENTS = ["cls_token", "pos_embed", "patch_embed.proj.bias", "blocks.0.norm1.weight", "blocks.0.attn.qkv.weight",
             "blocks.0.attn.qkv.bias", "blocks.5.attn.qkv.weight", "blocks.7.norm2.bias", "blocks.11.mlp.fc1.weight",
             "blocks.11.mlp.fc2.weight", "norm.weight"]


def uniform(name, count):
    """Value i of the tensor `name`, in [0, 1)."""
    mask, number = 0xFFFFFFFFFFFFFFFF, np.uint64
    digest = 0xCBF29CE484222325
    for byte in name.encode():
        digest = ((digest ^ byte) * 0x100000001B3) & mask
    with np.errstate(over="ignore"):
        x = (number(digest) ^ number(SEED)) + np.arange(1, count + 1, dtype=number) * number(0x9E3779B97F4A7C15)
        x = (x ^ (x >> number(30))) * number(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> number(27))) * number(0x94D049BB133111EB)
        x = x ^ (x >> number(31))
    return (x >> number(40)).astype(np.float64) / float(1 << 24)


def filled(name, tensor):
    u = uniform(name, tensor.numel())
    if tensor.dim() >= 2:
        values = (u - 0.5) * 2 * np.sqrt(3.0 / tensor[0].numel())
    elif name.endswith("weight"):
        values = 0.5 + u
    else:
        values = (u - 0.5) * 0.2
    return torch.tensor(values, dtype=torch.float32).reshape(tensor.shape)


model = timm.create_model("vit_small_patch16_224", pretrained=False, img_size=SIZE, num_classes=0)
state = {name: filled(name, tensor) for name, tensor in model.state_dict().items()}
model.load_state_dict(state)
pixels = (uniform("input", IMAGES * 3 * SIZE * SIZE) - 0.5) * 4
x = torch.tensor(pixels, dtype=torch.float32).reshape(IMAGES, 3, SIZE, SIZE)

model.eval()
features = model(x)
loss = (features**2).mean()
loss.backward()
gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
model.train()
with torch.no_grad():
    trained = model(x)

first = "patch_embed.proj.weight"
case = dict(
    name="vit_small_patch16_224", input=[IMAGES, 3, SIZE, SIZE], seed=SEED, feature_dim=features.shape[1],
    num_params=sum(tensor.numel() for tensor in state.values()),
    eval_features_first16=[row[:16].tolist() for row in features.detach()],
    eval_features_norm=[float(row.norm()) for row in features.detach()],
    eval_loss_mean_square=loss.item(),
    first_conv=first, grad_first_conv_norm=float(gradients[first].norm()),
    grad_first_conv_first8=gradients[first].flatten()[:8].tolist(),
    gradients=[dict(name=name, norm=float(gradients[name].norm()), first8=gradients[name].flatten()[:8].tolist())
               for name in GRADIENTS],
    train_mode_features_first8=[row[:8].tolist() for row in trained],
    train_mode_features_norm=[float(row.norm()) for row in trained],
    tensors=[[name, list(tensor.shape)] for name, tensor in state.items()],
)
with open(sys.argv[1], "w") as file:
    json.dump(dict(rule="that of backbones.json", models=[case]), file)
print(case["name"], case["input"], case["num_params"], case["eval_features_norm"], case["grad_first_conv_norm"])
for figure in case["gradients"]:
    print(figure["name"], figure["norm"], figure["first8"][:3])
